"""Restores that go wrong on real servers: the target is as it was, or the error says what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ops_platform.backups.backup import take_backup
from ops_platform.backups.catalog import read_catalog
from ops_platform.backups.choice import NEWEST
from ops_platform.backups.placing import Unfit
from ops_platform.backups.restore import Restored, Target, restore_backup
from ops_platform.backups.retrieval import DamagedBackup
from ops_platform.backups.roles import plan_roles
from ops_platform.stack import Stack
from ops_platform.systems.object_store import ObjectStore, StoreError
from ops_platform.systems.postgres import PostgresError
from ops_platform.systems.redis import RedisError
from ops_platform.systems.throwaway.postgres import PostgresServer, wheel_bin
from ops_platform.systems.throwaway.redis import RedisServer
from ops_platform.systems.throwaway.s3 import S3Server
from tests.conftest import StackOf, quiet, with_server
from tests.drills.test_drill import damaged, flipped
from tests.faulty_proxy import Fault, proxy_to

pytestmark = pytest.mark.slow
BIG = "CREATE TABLE t AS SELECT n AS id, repeat(md5(n::text), 4) AS h FROM generate_series(1, 300000) n"


@pytest.fixture(scope="module")
def target(area: Path) -> Iterator[PostgresServer]:
    with PostgresServer(area / "target", settings={"fsync": "off"}) as server:
        yield server


@pytest.fixture
def stack(
    postgres: PostgresServer, target: PostgresServer, stack_of: StackOf, monkeypatch: pytest.MonkeyPatch
) -> Stack:
    """A backed-up database with a role of its own, and another server that has neither."""
    if postgres.sql("SELECT count(*) FROM pg_database WHERE datname = 'faulty_source'") == "0":
        postgres.sql("CREATE DATABASE faulty_source")
        postgres.sql("CREATE ROLE faulty_owner; " + BIG + "; ALTER TABLE t OWNER TO faulty_owner", "faulty_source")
    stack = stack_of(databases="{market: {server: pg, database: faulty_source}}")
    take_backup(stack, "market", ObjectStore(stack.bucket), quiet, quiet)
    return with_server(stack, "target", target, monkeypatch)


def restore(stack: Stack, to: Target, name: str = "market") -> Restored:
    return restore_backup(stack, name, ObjectStore(stack.bucket), NEWEST, to, (), quiet, quiet)


def holdings(server: PostgresServer) -> str:
    return server.sql("SELECT datname FROM pg_database UNION ALL SELECT rolname FROM pg_roles ORDER BY 1")


NEW = Target(server="target", database="copy")


@pytest.mark.parametrize("file", ["data-000", "data-001", "schema", "globals"])
def test_a_damaged_object_leaves_the_target_as_it_was(stack: Stack, target: PostgresServer, file: str) -> None:
    before = holdings(target)
    damaged(stack, file, flipped)
    with pytest.raises(DamagedBackup, match=f"{file}.* is damaged") as caught:
        restore(stack, NEW)
    assert "take another backup" in str(caught.value).splitlines()[0]
    assert holdings(target) == before


def test_an_older_target(area: Path, stack: Stack, target: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with PostgresServer(area / "newer_source", bin=wheel_bin()) as newer:
        newer.sql("CREATE DATABASE faulty_source")
        its = with_server(stack, "newer", newer, monkeypatch)
        entry = its.databases["market"].model_copy(update={"server": "newer"})
        its = its.model_copy(update={"databases": {"market": entry}})
        take_backup(its, "market", ObjectStore(its.bucket), quiet, quiet)
        before = holdings(target)
        with pytest.raises(Unfit, match=f"is Postgres {target.major}, the backup is of {newer.major}"):
            restore(its, NEW)
        assert holdings(target) == before


def test_a_newer_target_takes_an_older_backup(area: Path, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    with PostgresServer(area / "newer_target", bin=wheel_bin()) as newer:
        restore(with_server(stack, "newer", newer, monkeypatch), Target(server="newer", database="copy"))
        assert newer.sql("SELECT count(*), max(id) FROM t", "copy") == "300000|300000"


def test_a_user_who_may_not(stack: Stack, target: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    target.sql("DROP ROLE IF EXISTS weak; CREATE ROLE weak LOGIN PASSWORD 'weak' CREATEDB")
    monkeypatch.setenv("TEST_TARGET", "weak")
    weak = stack.servers["target"].model_copy(update={"url": target.url.replace("postgres@", "weak@")})
    with pytest.raises(Unfit, match="is no superuser"):
        restore(stack.model_copy(update={"servers": {**stack.servers, "target": weak}}), NEW)


def test_a_connection_that_breaks_is_made_again(stack: Stack, target: PostgresServer, s3: S3Server) -> None:
    cuts = iter([100_000, 50, 300_000])
    fault = Fault(cut=lambda method, path: next(cuts, None) if method == "GET" and "data-001" in path else None)
    with proxy_to(s3.port, fault) as endpoint:
        bucket = stack.bucket.model_copy(update={"endpoint": endpoint})
        restore(stack.model_copy(update={"bucket": bucket}), Target(server="target", database="resumed"))
    assert next(cuts, None) is None
    assert target.sql("SELECT count(*), max(id) FROM t", "resumed") == "300000|300000"
    target.sql("DROP DATABASE resumed")


def test_a_connection_that_always_breaks(stack: Stack, target: PostgresServer, s3: S3Server) -> None:
    before = holdings(target)
    fault = Fault(cut=lambda method, path: 0 if method == "GET" and "data-001" in path else None)
    with proxy_to(s3.port, fault) as endpoint:
        bucket = stack.bucket.model_copy(update={"endpoint": endpoint})
        with pytest.raises(StoreError, match="broke 5 times at byte 0"):
            restore(stack.model_copy(update={"bucket": bucket}), NEW)
    assert holdings(target) == before


def test_a_server_that_dies_in_the_middle_and_what_it_left(
    stack: Stack, area: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what may be left; the next restore there drops it."""
    with PostgresServer(area / "dying_target", settings={"fsync": "off"}) as dying:
        its = with_server(stack, "dying", dying, monkeypatch)
        said: list[str] = []
        fault = Fault(cut=_first_time("data-001", dying.kill))
        with proxy_to(s3.port, fault) as endpoint:
            bucket = its.bucket.model_copy(update={"endpoint": endpoint})
            broken = its.model_copy(update={"bucket": bucket})
            store = ObjectStore(broken.bucket)
            to = Target(server="dying", database="copy")
            with pytest.raises(PostgresError) as caught:
                restore_backup(broken, "market", store, NEWEST, to, (), said.append, quiet)
        assert any("may still have the database ops_restore_" in note for note in caught.value.__notes__)
        dying.start()
        assert "ops_restore_" in holdings(dying)
        restore(its, Target(server="dying", database="copy"))
        assert "ops_restore_" not in holdings(dying)
        assert dying.sql("SELECT count(*) FROM t", "copy") == "300000"


def test_killed_in_the_middle_and_cleared_by_the_next(
    stack: Stack, target: PostgresServer, s3: S3Server, tmp_path: Path
) -> None:
    reached = threading.Event()

    def hold(method: str, path: str) -> int | None:
        if method == "GET" and "data-001" in path:
            reached.set()
            time.sleep(20)
        return None

    before = holdings(target)
    with proxy_to(s3.port, Fault(cut=hold)) as endpoint:
        bucket = stack.bucket.model_copy(update={"endpoint": endpoint})
        (tmp_path / "stack.json").write_text(stack.model_copy(update={"bucket": bucket}).model_dump_json())
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, tmp_path / "stack.json"],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert reached.wait(60)
        child.send_signal(signal.SIGKILL)
        child.wait(10)
    assert "ops_restore_" in holdings(target)
    time.sleep(1)  # the server notices that its client went
    restore(stack, NEW)
    target.sql("DROP DATABASE copy")
    assert holdings(target).replace("faulty_owner\n", "") == before.replace("faulty_owner\n", "")


CHILD = """
import sys
from pathlib import Path
from ops_platform.backups.choice import NEWEST
from ops_platform.backups.restore import Target, restore_backup
from ops_platform.stack import Stack
from ops_platform.systems.object_store import ObjectStore
stack = Stack.model_validate_json(Path(sys.argv[1]).read_text())
restore_backup(stack, "market", ObjectStore(stack.bucket), NEWEST, Target("target", "copy"), (), print, print)
"""


class TestOverTheLiveOne:
    def test_a_database_stays_as_it_is_when_its_backup_is_damaged(
        self, stack: Stack, postgres: PostgresServer
    ) -> None:
        before = postgres.sql("SELECT count(*), max(id) FROM t", "faulty_source")
        damaged(stack, "data-000", flipped)
        with pytest.raises(DamagedBackup):
            restore(stack, Target(over="faulty_source"))
        assert postgres.sql("SELECT count(*), max(id) FROM t", "faulty_source") == before
        assert "_before_" not in holdings(postgres)
        assert "ops_restore_" not in holdings(postgres)

    def test_redis_is_not_emptied_for_a_damaged_snapshot(self, stack_of: StackOf, redis: RedisServer) -> None:
        redis.cli("FLUSHALL\nSET a 1\n")
        stack = stack_of()
        take_backup(stack, "cache", ObjectStore(stack.bucket), quiet, quiet)
        damaged(stack, "snapshot", flipped, "cache")
        redis.cli("SET a 2\n")
        with pytest.raises(DamagedBackup):
            restore(stack, Target(over="cache"), "cache")
        assert redis.cli("GET a\n").strip() == "2"
        assert len(read_catalog(ObjectStore(stack.bucket), stack.bucket.prefix, "cache").backups) == 2


def test_redis_that_refuses_keys_says_so(
    stack_of: StackOf, redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis.cli("FLUSHALL\nEVAL \"for i=1,3000 do redis.call('SET','k'..i,string.rep('x',1000)) end\" 0\n")
    with RedisServer(
        tmp_path / "small", settings={"maxmemory": "2500000", "maxmemory-policy": "noeviction"}
    ) as small:
        stack = with_server(stack_of(), "small", small, monkeypatch)
        take_backup(stack, "cache", ObjectStore(stack.bucket), quiet, quiet)
        with pytest.raises(RedisError, match="refused keys") as caught:
            restore(stack, Target(server="small"), "cache")
        assert "is empty again, as it was" in caught.value.__notes__[0]
        assert small.cli("DBSIZE\n").strip() == "0"


def test_only_roles_that_are_missing_are_made() -> None:
    text = """--
\\restrict abc
SET default_transaction_read_only = off;
CREATE ROLE postgres;
ALTER ROLE postgres WITH SUPERUSER PASSWORD 'SCRAM-SHA-256$x';
CREATE ROLE "odd ""one""; --";
ALTER ROLE "odd ""one""; --" WITH NOSUPERUSER LOGIN;
COMMENT ON ROLE "odd ""one""; --" IS 'two
lines; and ''quotes''';
CREATE ROLE reader;
GRANT reader TO "odd ""one""; --" WITH ADMIN OPTION GRANTED BY postgres;
GRANT reader TO postgres GRANTED BY postgres;
"""
    plan = plan_roles(text, {"postgres", "reader"})
    assert plan.created == ('odd "one"; --',)
    assert plan.statements == (
        'CREATE ROLE "odd ""one""; --"',
        'ALTER ROLE "odd ""one""; --" WITH NOSUPERUSER LOGIN',
        "COMMENT ON ROLE \"odd \"\"one\"\"; --\" IS 'two\nlines; and ''quotes'''",
        'GRANT reader TO "odd ""one""; --" WITH ADMIN OPTION',
    )
    assert plan_roles(text, {"postgres", "reader", 'odd "one"; --'}).statements == ()


def _first_time(part: str, act: Callable[[], None]) -> Callable[[str, str], int | None]:
    done = threading.Event()

    def once(method: str, path: str) -> int | None:
        if method == "GET" and part in path and not done.is_set():
            done.set()
            act()
        return None

    return once
