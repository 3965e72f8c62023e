"""TimescaleDB's frame around a restore.

The extension cannot be had here (no package, no registry). A stand-in of its name, whose pre and post functions write
down that they were called, takes its place: what is tested is which calls are made, when, and on whose version.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops_platform.backups.backup import take_backup
from ops_platform.backups.catalog import read_catalog
from ops_platform.backups.choice import NEWEST
from ops_platform.backups.placing import Unfit
from ops_platform.backups.restore import Target, restore_backup
from ops_platform.stack import Stack
from ops_platform.systems.object_store import ObjectStore
from ops_platform.systems.postgres import PostgresError
from ops_platform.systems.throwaway.postgres import PostgresServer
from tests.conftest import StackOf, quiet

# The calls are looked for in the server's log: the target itself is dropped after a failure.
SCRIPT = """
CREATE FUNCTION timescaledb_pre_restore() RETURNS bool LANGUAGE plpgsql AS
  $$ BEGIN RAISE LOG 'stand-in: pre_restore'; RETURN true; END $$;
CREATE FUNCTION timescaledb_post_restore() RETURNS bool LANGUAGE plpgsql AS
  $$ BEGIN RAISE LOG 'stand-in: post_restore'; RETURN true; END $$;
"""


def extensions_of(postgres: PostgresServer) -> Path:
    return Path(f"/usr/share/postgresql/{postgres.major}/extension")  # where Debian's server looks


@pytest.fixture
def stack(postgres: PostgresServer, stack_of: StackOf) -> Iterator[Stack]:
    folder = extensions_of(postgres)
    if not os.access(folder, os.W_OK):
        if os.environ.get("CI"):
            pytest.fail(f"{folder} cannot be written to: run as root")
        pytest.skip(f"{folder} cannot be written to: run as root")
    files = [folder / "timescaledb.control", folder / "timescaledb--2.14.2.sql", folder / "timescaledb--2.15.0.sql"]
    try:
        files[0].write_text("default_version = '2.15.0'\nrelocatable = true\ntrusted = false\n")
        for file in files[1:]:
            file.write_text(SCRIPT)
        for name in ("hyper", "hyper_copy"):
            postgres.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        postgres.sql("CREATE DATABASE hyper")
        postgres.sql(
            "CREATE EXTENSION timescaledb VERSION '2.14.2'; CREATE TABLE t AS SELECT generate_series(1, 10) AS a",
            "hyper",
        )
        stack = stack_of(databases="{hyper: {server: pg, database: hyper}}")
        take_backup(stack, "hyper", ObjectStore(stack.bucket), quiet, quiet)
        yield stack
    finally:
        for file in files:
            file.unlink(missing_ok=True)


def calls(postgres: PostgresServer, since: int) -> list[str]:
    log = (postgres.directory / "server.log").read_text("utf-8", "replace")[since:]
    signs = ("stand-in: pre_restore", "stand-in: post_restore")
    return [sign.split(": ")[1] for line in log.splitlines() for sign in signs if f"LOG:  {sign}" in line]


def log_length(postgres: PostgresServer) -> int:
    return len((postgres.directory / "server.log").read_text("utf-8", "replace"))


def restore(stack: Stack) -> None:
    restore_backup(stack, "hyper", ObjectStore(stack.bucket), NEWEST, Target(database="hyper_copy"), (), quiet, quiet)


def test_both_calls_are_made_in_the_backups_version(stack: Stack, postgres: PostgresServer) -> None:
    since = log_length(postgres)
    restore(stack)
    assert calls(postgres, since) == ["pre_restore", "post_restore"]
    assert postgres.sql("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'", "hyper_copy") == "2.14.2"
    assert postgres.sql("SELECT count(*) FROM t", "hyper_copy") == "10"


def test_the_second_call_is_made_even_after_a_failure(stack: Stack, postgres: PostgresServer) -> None:
    store = ObjectStore(stack.bucket)
    backup = read_catalog(store, stack.bucket.prefix, "hyper").backups[0]
    data = next(stored for stored in backup.manifest.objects if stored.content == "rest")
    body = store.read(backup.path.key(data.file))
    store.write(backup.path.key(data.file), body[:-20] + bytes(20))  # same size: found out only as it flows
    since = log_length(postgres)
    with pytest.raises(Exception, match="is damaged"):
        restore(stack)
    assert calls(postgres, since) == ["pre_restore", "post_restore"]
    assert postgres.sql("SELECT count(*) FROM pg_database WHERE datname ~ '^(hyper_copy|ops_restore_)'") == "0"


def test_another_version_on_the_target_is_refused(stack: Stack, postgres: PostgresServer) -> None:
    (extensions_of(postgres) / "timescaledb--2.14.2.sql").unlink()
    with pytest.raises(Unfit, match=r"has TimescaleDB 2\.15\.0, the backup needs 2\.14\.2"):
        restore(stack)


def test_an_extension_the_target_lacks(stack: Stack, postgres: PostgresServer) -> None:
    (extensions_of(postgres) / "timescaledb.control").unlink()
    with pytest.raises(PostgresError, match="lacks the extension timescaledb: install it there"):
        restore(stack)
