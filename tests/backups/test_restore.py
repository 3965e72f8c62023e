"""Restores of real backups to real servers: what comes back equals its source, and goes only where it may."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyrage
import pytest

from ops_platform.backups.backup import take_backup
from ops_platform.backups.choice import NEWEST, Choice, NoSuchBackup
from ops_platform.backups.placing import Unfit
from ops_platform.backups.restore import Refused, Restored, Target, restore_backup
from ops_platform.backups.retrieval import identities_of
from ops_platform.drills.schema import fingerprints
from ops_platform.stack import Stack
from ops_platform.systems.object_store import ObjectStore
from ops_platform.systems.throwaway.postgres import PostgresServer
from ops_platform.systems.throwaway.redis import RedisServer
from tests.conftest import StackOf, quiet, with_server

ROUND_TRIP = Path(__file__).with_name("round_trip.sql").read_text(encoding="utf-8")


def back_up(stack: Stack, name: str) -> None:
    take_backup(stack, name, ObjectStore(stack.bucket), quiet, quiet)


def restore(stack: Stack, name: str, target: Target, choice: Choice = NEWEST) -> Restored:
    store = ObjectStore(stack.bucket)
    return restore_backup(stack, name, store, choice, target, identities_of(stack.encryption), quiet, quiet)


def dump(server: PostgresServer, database: str) -> list[str]:
    done = subprocess.run(
        [server.bin / "pg_dump", "-d", f"{server.url}/{database}"],
        env=server.environment_of_clients(), capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    # pg_dump frames its output with a random word against injection (\restrict), since 15.14.
    return [line for line in done.stdout.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]


def databases(server: PostgresServer) -> set[str]:
    return set(server.sql("SELECT datname FROM pg_database").split("\n"))


def made(server: PostgresServer, database: str, sql: str) -> str:
    server.sql(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')
    server.sql(f'CREATE DATABASE "{database}"')
    server.sql(sql, database)
    return database


@pytest.fixture
def other(area: Path, tmp_path: Path) -> PostgresServer:
    return PostgresServer(area / tmp_path.name, settings={"fsync": "off"})


class TestRoundTrip:
    @pytest.mark.slow
    def test_every_kind_of_object_comes_back_equal_on_another_server(
        self, postgres: PostgresServer, other: PostgresServer, stack_of: StackOf, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Encrypted, with roles, owners, grants and the database's own properties, to a server that has none."""
        postgres.sql(
            'DROP DATABASE IF EXISTS everything; DROP ROLE IF EXISTS "rt reader"; DROP ROLE IF EXISTS rt_owner;'
            "CREATE ROLE rt_owner LOGIN PASSWORD 'secret' CREATEDB CONNECTION LIMIT 9 VALID UNTIL '2030-01-01';"
            "CREATE ROLE \"rt reader\" IN ROLE rt_owner; ALTER ROLE rt_owner SET work_mem = '9MB';"
        )
        made(postgres, "everything", ROUND_TRIP)
        postgres.sql(
            "ALTER DATABASE everything OWNER TO rt_owner; ALTER DATABASE everything SET timezone = 'Asia/Tokyo';"
            'ALTER DATABASE everything SET search_path = "$user", public, \'Großes "Schema"; --\';'
            "ALTER ROLE rt_owner IN DATABASE everything SET statement_timeout = '5min';"
            'REVOKE CONNECT ON DATABASE everything FROM PUBLIC; GRANT CONNECT ON DATABASE everything TO "rt reader";'
            "COMMENT ON DATABASE everything IS 'all of it'; ALTER DATABASE everything CONNECTION LIMIT 50"
        )
        key = pyrage.x25519.Identity.generate()
        monkeypatch.setenv("TEST_KEY", f"# created today\n{key}")
        with other:
            stack = stack_of(
                databases="{everything: {server: pg, database: everything}}",
                extra=f"encryption: {{recipients: [{key.to_public()}], identity: {{env: TEST_KEY}}}}",
            )
            stack = with_server(stack, "elsewhere", other, monkeypatch)
            back_up(stack, "everything")
            restored = restore(stack, "everything", Target(server="elsewhere", database="everything"))
            # Reading back its own `x IN ('a', 'b')` on a varchar, Postgres moves the casts (see drills/schema.py).
            moved = "CONSTRAINT checked_status_check"
            source, copy = dump(postgres, "everything"), dump(other, "everything")
            assert [line for line in copy if moved not in line] == [line for line in source if moved not in line]
            assert fingerprints(copy) == fingerprints(source)
            assert set(restored.placed.roles) == {"rt reader", "rt_owner"}
            for question in (
                "SELECT a.rolcreatedb, a.rolconnlimit, a.rolvaliduntil, a.rolpassword, r.rolconfig"
                " FROM pg_authid a JOIN pg_roles r USING (rolname) WHERE rolname = 'rt_owner'",
                "SELECT r.rolname, g.rolname FROM pg_auth_members JOIN pg_roles r ON r.oid = member JOIN pg_roles g"
                " ON g.oid = roleid WHERE r.rolname !~ '^pg_'",
                "SELECT datconnlimit, ARRAY(SELECT unnest(datacl)::text ORDER BY 1),"
                " shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'everything'",
                "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'everything'",
                "SELECT setrole::regrole, setconfig FROM pg_db_role_setting WHERE setdatabase <> 0 ORDER BY 1",
            ):
                expected = postgres.sql(question, "everything")
                assert expected
                assert other.sql(question, "everything") == expected, question
            analyzed = "SELECT count(*) > 100 FROM pg_stats WHERE schemaname = 'public'"
            assert other.sql(analyzed, "everything") == "t"

    @pytest.mark.slow
    @pytest.mark.timeout(400)
    def test_five_thousand_tables(self, postgres: PostgresServer, stack_of: StackOf) -> None:
        many = (
            "DO $$ BEGIN FOR n IN 1..5000 LOOP EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, v text)', n);"
            " EXECUTE format('INSERT INTO t%s VALUES (%s, ''x'')', n, n);"
            " IF n % 500 = 0 THEN COMMIT; END IF; END LOOP; END $$"
        )
        made(postgres, "many", many)
        stack = stack_of(databases="{many: {server: pg, database: many}}")
        back_up(stack, "many")
        postgres.sql("DROP DATABASE IF EXISTS many_copy")
        restore(stack, "many", Target(database="many_copy"))
        assert dump(postgres, "many_copy") == dump(postgres, "many")


@pytest.fixture
def market(postgres: PostgresServer, stack_of: StackOf) -> Stack:
    """A backed-up database of one table, and nothing yet where tests restore it to."""
    made(postgres, "origin", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS a; CREATE INDEX ON t (a)")
    for database in databases(postgres):
        if database.startswith(("origin_", "ops_restore_")):
            postgres.sql(f'DROP DATABASE "{database}" WITH (FORCE)')
    stack = stack_of(databases="{market: {server: pg, database: origin}}")
    back_up(stack, "market")
    return stack


class TestWhereTo:
    def test_over_the_live_one_after_a_fresh_backup_of_it(self, market: Stack, postgres: PostgresServer) -> None:
        postgres.sql("INSERT INTO t VALUES (7); CREATE TABLE since (a int)", "origin")
        session = subprocess.Popen(
            [postgres.bin / "psql", "-d", f"{postgres.url}/origin", "-c", "SELECT pg_sleep(100)"],
            env=postgres.environment_of_clients(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        restored = restore(market, "market", Target(over="origin"))
        assert session.wait(10) != 0  # its session was ended
        assert postgres.sql("SELECT count(*) FROM t", "origin") == "1000"
        assert restored.placed.replaced == f"origin_before_{restored.backup.path.id}"
        assert postgres.sql("SELECT count(*) FROM t", restored.placed.replaced) == "1001"
        assert restored.fresh is not None
        assert restored.fresh.manifest.taken_at > restored.backup.manifest.taken_at
        restore(market, "market", Target(database="origin_again"))  # the newest is now the fresh one
        assert postgres.sql("SELECT to_regclass('since') IS NOT NULL", "origin_again") == "t"

    @pytest.mark.parametrize(
        ("target", "match"),
        [
            (Target(over="market"), "its name must be typed as it is"),
            (Target(), "say under which name"),
            (Target(over="origin", database="x"), "give no other server or database"),
            (Target(server="cache", database="x"), "'cache' is no postgres server of stack.yaml: allowed are pg"),
        ],
    )
    def test_what_is_unsafe_is_refused(
        self, market: Stack, postgres: PostgresServer, target: Target, match: str
    ) -> None:
        before = databases(postgres)
        with pytest.raises(Refused, match=match):
            restore(market, "market", target)
        assert databases(postgres) == before

    def test_a_name_that_is_taken(self, market: Stack, postgres: PostgresServer) -> None:
        made(postgres, "origin_taken", "CREATE TABLE keep AS SELECT 1 AS a")
        with pytest.raises(Unfit, match="has a database origin_taken already"):
            restore(market, "market", Target(database="origin_taken"))
        assert postgres.sql("SELECT count(*) FROM keep", "origin_taken") == "1"

    def test_which_backup(self, market: Stack, postgres: PostgresServer) -> None:
        between = datetime.now(UTC)
        postgres.sql("DELETE FROM t", "origin")
        back_up(market, "market")
        restore(market, "market", Target(database="origin_then"), Choice(before=between))
        assert postgres.sql("SELECT count(*) FROM t", "origin_then") == "1000"
        with pytest.raises(NoSuchBackup, match="there is no backup taken before"):
            restore(market, "market", Target(database="origin_x"), Choice(before=between - timedelta(days=1)))
        with pytest.raises(NoSuchBackup, match="there is no backup 20200101T000000Z-abcdef: the newest are"):
            restore(market, "market", Target(database="origin_x"), Choice(id="20200101T000000Z-abcdef"))
        with pytest.raises(ValueError, match="has no time zone"):
            Choice(before=datetime(2026, 1, 1))  # noqa: DTZ001


CACHE = """
SELECT 0
SET a 1
SET negative -70000
SETEX soon 5000 x
EVAL "redis.call('SET','a-key-that-is-long-enough-to-be-compressed-aaaaaaaaaaaaaaaaaaa',string.rep('abc',9000))" 0
EVAL "for i=1,9000 do redis.call('RPUSH','list','element'..i) end" 0
EVAL "for i=1,700 do redis.call('HSET','hash','f'..i,i) redis.call('ZADD','zset',i/3,'m'..i) end" 0
SADD ints 1 2 3
XADD stream 1-1 k v
XGROUP CREATE stream group 0
PFADD hll a b c
FUNCTION LOAD "#!lua name=lib\\nredis.register_function('f', function() return 42 end)"
SELECT 3
RPUSH queue 1 2 3
EVAL "for i=1,20000 do redis.call('SET','key:'..i,i) end" 0
SET 12345 number-as-key
"""


class TestRedis:
    @pytest.mark.parametrize("aof", ["no", "yes"])
    def test_a_snapshot_comes_back_into_a_running_server(
        self, stack_of: StackOf, tmp_path: Path, aof: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = {"appendonly": aof, "enable-debug-command": "yes"}
        with (
            RedisServer(tmp_path / "source", settings={"enable-debug-command": "yes"}) as source,
            RedisServer(tmp_path / "target", settings=settings) as target,
        ):
            source.cli(CACHE)
            stack = with_server(stack_of(redis_server=source), "target", target, monkeypatch)
            monkeypatch.setenv("TEST_REDIS", source.password)
            back_up(stack, "cache")
            restore(stack, "cache", Target(server="target"))
            # The digest covers every key, type, value and expiry (debug.c, computeDatasetDigest).
            look = "DEBUG DIGEST\nFCALL f 0\nPEXPIRETIME soon\nSELECT 3\nDBSIZE\n"
            assert target.cli(look) == source.cli(look)
            if aof == "yes":
                digest = target.cli("DEBUG DIGEST\n")
                target.kill()
                target.start()
                assert target.cli("DEBUG DIGEST\n") == digest
            with pytest.raises(Unfit, match="holds 20,01"):
                restore(stack, "cache", Target(server="target"))

    def test_over_the_live_one(self, redis: RedisServer, stack_of: StackOf) -> None:
        redis.cli("FLUSHALL\nSET a 1\n")
        stack = stack_of()
        back_up(stack, "cache")
        redis.cli("SET a 2\nSET b 1\n")
        with pytest.raises(Refused, match="its name must be typed"):
            restore(stack, "cache", Target(over="pg"))
        restored = restore(stack, "cache", Target(over="cache"))
        assert redis.cli("GET a\nDBSIZE\n").split() == ["1", "1"]
        assert restored.fresh is not None
        restore(stack, "cache", Target(over="cache"), Choice(id=restored.fresh.path.id))
        assert redis.cli("GET a\nDBSIZE\n").split() == ["2", "2"]
