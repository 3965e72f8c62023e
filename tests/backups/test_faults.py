"""What goes wrong on real servers: a failed backup names its cause, leaves nothing, and harms no earlier one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ops_platform.backups.backup import take_backup
from ops_platform.backups.catalog import Backup, read_catalog
from ops_platform.backups.verification import verify
from ops_platform.stack import SecretMissing, Stack
from ops_platform.systems import object_store
from ops_platform.systems.lock import LockBusy, NoState, locked
from ops_platform.systems.object_store import ObjectStore, StoreError
from ops_platform.systems.postgres import PostgresError
from ops_platform.systems.postgres_tools import WrongToolVersion
from ops_platform.systems.redis import RedisError
from ops_platform.systems.throwaway.postgres import PostgresServer, wheel_bin
from ops_platform.systems.throwaway.redis import RedisServer
from ops_platform.systems.throwaway.s3 import S3Server
from tests.conftest import StackOf, keys, quiet
from tests.faulty_proxy import Fault, proxy_to

MARKET = "{market: {server: pg, database: faulty}}"
FILL = "CREATE TABLE t AS SELECT md5(n::text) || md5((n * 7)::text) AS h FROM generate_series(1, 700000) n"


@pytest.fixture(scope="module")
def filled(postgres: PostgresServer) -> PostgresServer:
    """The session's server with a database whose dump fills several parts (45 MB, hardly compressible)."""
    postgres.sql("CREATE DATABASE faulty")
    postgres.sql(FILL, "faulty")
    return postgres


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three attempts instead of twelve: what is tested is what comes after the last."""
    monkeypatch.setattr(object_store, "ATTEMPTS", 3)


def back_up(stack: Stack, name: str = "market") -> Backup:
    return take_backup(stack, name, ObjectStore(stack.bucket), quiet, quiet).backup


@contextmanager
def fails_cleanly(healthy: Stack, error: type[Exception], match: str, name: str = "market") -> Iterator[None]:
    """The block raises `error`, and the bucket holds exactly what it held, seen through the `healthy` stack."""
    earlier = back_up(healthy, name)
    store = ObjectStore(healthy.bucket)
    before = keys(store, healthy.bucket.prefix)
    with pytest.raises(error, match=match) as caught:
        yield
    first = str(caught.value).splitlines()[0]
    assert any(part.replace("\\", "") in first for part in match.split("|"))
    assert keys(store, healthy.bucket.prefix) == before
    assert not list(store.open_uploads(healthy.bucket.prefix))
    assert all(finding.passed for finding in verify(store, earlier, quiet))


@pytest.mark.usefixtures("filled")
class TestPostgres:
    def test_wrong_password(self, stack_of: StackOf, monkeypatch: pytest.MonkeyPatch) -> None:
        stack = stack_of(databases=MARKET)
        with fails_cleanly(stack, PostgresError, "the password or user is wrong"):
            monkeypatch.setenv("TEST_PG", "not-the-password")
            back_up(stack)

    def test_secret_not_set(self, stack_of: StackOf, monkeypatch: pytest.MonkeyPatch) -> None:
        stack = stack_of(databases=MARKET)
        with fails_cleanly(stack, SecretMissing, "environment variable TEST_PG is not set"):
            monkeypatch.delenv("TEST_PG")
            back_up(stack)

    def test_database_missing(self, stack_of: StackOf) -> None:
        stack = stack_of(databases="{market: {server: pg, database: faulty}, gone: {server: pg, database: nope}}")
        with fails_cleanly(stack, PostgresError, "what it names is not on this server"):
            back_up(stack, "gone")

    def test_checksum_of_a_table_that_is_not_there(self, stack_of: StackOf) -> None:
        wrong = "{market: {server: pg, database: faulty, checksums: [public.nope]}}"
        with fails_cleanly(stack_of(databases=MARKET), PostgresError, "databases.market.checksums names"):
            back_up(stack_of(databases=wrong))

    def test_dump_tool_that_fails_after_writing(
        self, stack_of: StackOf, tmp_path: Path, filled: PostgresServer
    ) -> None:
        tools = tmp_path / "tools"
        tools.mkdir()
        for tool in ("psql", "pg_dumpall", "pg_restore"):
            (tools / tool).symlink_to(filled.bin / tool)
        script = f'#!/bin/sh\n{filled.bin}/pg_dump "$@" || exit 9\n[ "$1" = --version ] || exit 3\n'
        (tools / "pg_dump").write_text(script)
        (tools / "pg_dump").chmod(0o755)
        healthy = stack_of(databases=MARKET)
        server = healthy.servers["pg"].model_copy(update={"client_tools": str(tools)})
        broken = healthy.model_copy(update={"servers": {**healthy.servers, "pg": server}})
        with fails_cleanly(healthy, PostgresError, "could not dump faulty"):
            back_up(broken)

    @pytest.mark.slow
    def test_tools_of_another_major_version(
        self, stack_of: StackOf, area: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The server is newer (the wheel's) than the tools (Debian's)."""
        with PostgresServer(area / "newer", bin=wheel_bin()) as newer:
            newer.sql("CREATE DATABASE faulty")
            healthy = stack_of(databases=MARKET)
            stack = stack_of(databases=MARKET, postgres_server=newer)
            old_tools = healthy.servers["pg"].client_tools
            server = stack.servers["pg"].model_copy(update={"client_tools": old_tools})
            stack = stack.model_copy(update={"servers": {**stack.servers, "pg": server}})
            with fails_cleanly(healthy, WrongToolVersion, f"is Postgres {newer.major}, but the pg_dump at hand"):
                monkeypatch.setenv("TEST_PG", newer.password)
                back_up(stack)

    @pytest.mark.slow
    def test_server_stopped_in_the_middle(
        self, stack_of: StackOf, area: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with PostgresServer(area / "stopped", settings={"fsync": "off"}) as server:
            server.sql("CREATE DATABASE faulty")
            server.sql(FILL.replace("700000", "2000000"), "faulty")
            healthy = stack_of(databases=MARKET)
            fault = Fault(on_part=_once(server.kill))
            with proxy_to(s3.port, fault) as endpoint:
                stack = stack_of(databases=MARKET, postgres_server=server, endpoint=endpoint)
                with fails_cleanly(healthy, PostgresError, "went away in the middle|is the server running"):
                    monkeypatch.setenv("TEST_PG", server.password)
                    back_up(stack)

    @pytest.mark.slow
    def test_killed_in_the_middle_and_cleaned_by_the_next_run(
        self, stack_of: StackOf, s3: S3Server, tmp_path: Path, filled: PostgresServer
    ) -> None:
        healthy = stack_of(databases=MARKET)
        earlier = back_up(healthy)
        store = ObjectStore(healthy.bucket)
        reached = threading.Event()

        def hold() -> None:
            reached.set()
            time.sleep(60)

        with proxy_to(s3.port, Fault(on_part=hold)) as endpoint:
            child = subprocess.Popen(
                [sys.executable, "-c", _CHILD, endpoint, healthy.bucket.prefix, filled.url, str(filled.bin)],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
            assert reached.wait(60)
            child.send_signal(signal.SIGKILL)
            child.wait(10)
        assert list(store.open_uploads(healthy.bucket.prefix))
        taken = take_backup(healthy, "market", store, quiet, quiet)
        assert taken.swept
        assert not list(store.open_uploads(healthy.bucket.prefix))
        whole = {b.path for b in read_catalog(store, healthy.bucket.prefix, "market").backups}
        assert whole == {earlier.path, taken.backup.path}
        folders = {key.rsplit("/", 1)[0] + "/" for key in keys(store, healthy.bucket.prefix)}
        assert folders == {earlier.path.folder, taken.backup.path.folder}


_CHILD = """
import sys
from pathlib import Path
from ops_platform.backups.backup import take_backup
from ops_platform.stack import parse_stack
from ops_platform.systems.object_store import ObjectStore
endpoint, prefix, url, tools = sys.argv[1:]
stack = parse_stack(f'''
servers: {{pg: {{url: "{url}", password: {{env: TEST_PG}}, client_tools: "{tools}"}}}}
databases: {{market: {{server: pg, database: faulty}}}}
bucket: {{name: backups, endpoint: "{endpoint}", prefix: "{prefix}", access_key: {{env: TEST_AK}},
  secret_key: {{env: TEST_SK}}}}
''', "child", Path.cwd())
take_backup(stack, "market", ObjectStore(stack.bucket), print, print)
"""


@pytest.mark.usefixtures("filled")
class TestStore:
    def test_bucket_missing(self, stack_of: StackOf) -> None:
        with fails_cleanly(stack_of(databases=MARKET), StoreError, "could not list"):
            back_up(stack_of(databases=MARKET, bucket="not-there"))

    def test_wrong_secret(self, stack_of: StackOf, monkeypatch: pytest.MonkeyPatch) -> None:
        healthy = stack_of(databases=MARKET)
        with pytest.raises(StoreError, match="the secret key is wrong"):
            monkeypatch.setenv("TEST_SK", "wrong")
            back_up(healthy)

    @pytest.mark.slow
    def test_a_short_outage_is_survived(self, stack_of: StackOf, s3: S3Server) -> None:
        failures = iter([503, 500, 503, 503])
        fault = Fault(refuse=lambda method, path: next(failures, None) if "partNumber" in path else None)
        with proxy_to(s3.port, fault) as endpoint:
            stack = stack_of(databases=MARKET, endpoint=endpoint)
            backup = back_up(stack)
            assert all(finding.passed for finding in verify(ObjectStore(stack.bucket), backup, quiet))
        assert next(failures, None) is None

    @pytest.mark.slow
    @pytest.mark.usefixtures("impatient")
    @pytest.mark.parametrize("when", ["partNumber=2", "manifest.json", "uploads"])
    def test_a_store_that_stays_broken(self, stack_of: StackOf, s3: S3Server, when: str) -> None:
        fault = Fault(refuse=lambda method, path: 503 if method in ("PUT", "POST") and when in path else None)
        with proxy_to(s3.port, fault) as endpoint, fails_cleanly(stack_of(databases=MARKET), StoreError, "could not"):
            back_up(stack_of(databases=MARKET, endpoint=endpoint))

    @pytest.mark.slow
    @pytest.mark.usefixtures("impatient")
    def test_a_store_that_dies_in_the_middle_is_cleaned_when_it_is_back(
        self, stack_of: StackOf, area: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with S3Server(area / "dying") as dying:
            dying.create_bucket("backups")
            monkeypatch.setenv("TEST_AK", dying.access_key)
            monkeypatch.setenv("TEST_SK", dying.secret_key)
            dies = Fault(on_part=_once(dying.kill, after=2))
            with (
                proxy_to(dying.port, dies) as endpoint,
                pytest.raises(StoreError, match="did not answer after 3 attempts"),
            ):
                back_up(stack_of(databases=MARKET, endpoint=endpoint))
            dying.start()
            stack = stack_of(databases=MARKET, endpoint=dying.endpoint)
            backup = back_up(stack)
            store = ObjectStore(stack.bucket)
            assert not list(store.open_uploads(stack.bucket.prefix))
            assert {k.rsplit("/", 1)[0] + "/" for k in keys(store, stack.bucket.prefix)} == {backup.path.folder}
            assert all(finding.passed for finding in verify(store, backup, quiet))


class TestRedis:
    def test_wrong_password(self, stack_of: StackOf, monkeypatch: pytest.MonkeyPatch) -> None:
        stack = stack_of()
        with fails_cleanly(stack, RedisError, "check the server's `password`", name="cache"):
            monkeypatch.setenv("TEST_REDIS", "wrong")
            back_up(stack, "cache")

    @pytest.mark.slow
    def test_gone_in_the_middle_of_a_snapshot(
        self, stack_of: StackOf, s3: S3Server, area: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        healthy = stack_of()
        with RedisServer(area / "gone") as server:
            server.cli(
                'EVAL "for i=1,700 do local t={} for j=1,2000 do t[j]=redis.sha1hex(i*j) end'
                " redis.call('SET','k'..i,table.concat(t)) end\" 0\n"
            )
            with proxy_to(s3.port, Fault(on_part=_once(server.kill))) as endpoint:
                stack = stack_of(redis_server=server, endpoint=endpoint)
                with fails_cleanly(healthy, RedisError, "cache: the snapshot of", name="cache"):
                    monkeypatch.setenv("TEST_REDIS", server.password)
                    back_up(stack, "cache")


class TestState:
    def test_a_second_backup_of_a_server_waits_and_names_the_first(self, tmp_path: Path) -> None:
        said: list[str] = []
        with locked(tmp_path, "pg", "backup", 0, said.append) as held:
            held.note("backups/market/20261123T031500Z-abcdef/")
            with (
                pytest.raises(LockBusy, match="20261123T031500Z-abcdef"),
                locked(tmp_path, "pg", "backup", 0.6, said.append),
            ):
                pass
            with locked(tmp_path, "other", "backup", 0, said.append):
                pass
        assert len(said) == 1

    def test_no_room_for_state(self, stack_of: StackOf, tmp_path: Path, filled: PostgresServer) -> None:
        if os.geteuid() != 0:
            if os.environ.get("CI"):
                pytest.fail("a full disk needs root, to mount a small one")
            pytest.skip("a full disk needs root, to mount a small one")
        full = tmp_path / "full"
        full.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=16", "none", full], check=True, timeout=10)
        try:
            (full / "locks").mkdir()
            (full / "locks" / "pg.lock").touch()
            with (full / "filler").open("wb") as filler, pytest.raises(OSError):
                filler.write(b"x" * 200_000)
                filler.flush()
            healthy = stack_of(databases=MARKET)
            with fails_cleanly(healthy, NoState, "make room there"):
                back_up(healthy.model_copy(update={"state_dir": full}))
        finally:
            subprocess.run(["umount", full], check=True, timeout=10)


def _once(act: Callable[[], None], after: int = 1) -> Callable[[], None]:
    calls = 0
    guard = threading.Lock()

    def once() -> None:
        nonlocal calls
        with guard:
            calls += 1
            if calls == after:
                act()

    return once
