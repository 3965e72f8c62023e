"""Drills of real backups on real throw-away servers: what passes, what is found out, what production sees of it."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyrage
import pytest

from ops_platform.backups.backup import take_backup
from ops_platform.backups.catalog import Backup, read_catalog
from ops_platform.backups.choice import NEWEST, Choice
from ops_platform.backups.layout import MANIFEST
from ops_platform.backups.manifest import PostgresFacts
from ops_platform.backups.restore import Target, restore_backup
from ops_platform.backups.retrieval import Retrieval, identities_of
from ops_platform.drills.drill import Request, UnknownCheck, run_drill
from ops_platform.drills.proof import prove_database
from ops_platform.drills.report import Drill
from ops_platform.stack import Stack
from ops_platform.systems.object_store import ObjectStore
from ops_platform.systems.progress import Meter
from ops_platform.systems.throwaway.postgres import PostgresServer, wheel_bin
from ops_platform.systems.throwaway.redis import RedisServer
from tests.conftest import StackOf, keys, quiet, with_drills

SCHEMA = """
CREATE TABLE prices (id int PRIMARY KEY, at timestamptz DEFAULT now(), price numeric CHECK (price > 0));
INSERT INTO prices (id, price) SELECT n, n FROM generate_series(1, 20000) n;
CREATE TABLE orders (id serial PRIMARY KEY, status varchar(9) CHECK (status IN ('new', 'done')));
INSERT INTO orders (status) SELECT 'new' FROM generate_series(1, 10);
CREATE MATERIALIZED VIEW totals AS SELECT count(*) FROM prices;
SELECT lo_from_bytea(0, 'large');
DO $$ BEGIN CREATE ROLE drill_reader; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
GRANT SELECT ON prices TO drill_reader;
"""
ASSERTIONS = """{market: {server: pg, database: drilled, checksums: all, assertions: {
  fresh: "SELECT max(at) > now() - interval '2 days' FROM prices", cheap: "SELECT max(price) < 20000 FROM prices",
  nonsense: "SELECT nope FROM prices", harmless: "DELETE FROM prices RETURNING true"}}}"""
PLAIN = "{market: {server: pg, database: drilled, checksums: all}}"


@pytest.fixture(scope="module")
def production(postgres: PostgresServer) -> PostgresServer:
    postgres.sql("DROP DATABASE IF EXISTS drilled WITH (FORCE)")
    postgres.sql("CREATE DATABASE drilled")
    postgres.sql(SCHEMA, "drilled")
    return postgres


@pytest.fixture
def stack(production: PostgresServer, stack_of: StackOf, tmp_path: Path) -> Stack:
    """A stack of a backed-up database, whose drills have a directory of their own."""
    stack = with_drills(stack_of(databases=PLAIN), tmp_path)
    take_backup(stack, "market", ObjectStore(stack.bucket), quiet, quiet)
    return stack


def drill(stack: Stack, name: str = "market", request: Request = Request()) -> Drill:  # noqa: B008  frozen
    store = ObjectStore(stack.bucket)
    return run_drill(stack, name, store, request, identities_of(stack.encryption), quiet, quiet)


def newest(stack: Stack, name: str = "market") -> Backup:
    return read_catalog(ObjectStore(stack.bucket), stack.bucket.prefix, name).backups[0]


def failed(result: Drill) -> dict[str, str]:
    return {finding.check: "\n".join(finding.faults) for finding in result.findings if not finding.passed}


def left_over(stack: Stack) -> list[str]:
    return sorted(path.name for path in stack.drills.directory.glob("*"))


class TestWhatPasses:
    def test_a_good_backup_of_a_database(self, stack: Stack) -> None:
        result = drill(stack)
        assert failed(result) == {}
        numbers = {finding.check: finding.numbers for finding in result.findings}
        assert numbers["rows"] == {"tables": 2, "rows": 20_010}
        assert numbers["checksums"] == {"tables": 2, "rows": 20_010}
        assert numbers["sequences"] == {"sequences": 1}
        assert int(numbers["roles"]["roles"]) >= 2
        assert newest(stack).drilled
        assert left_over(stack) == []
        figures = result.figures
        assert figures.rto_s == pytest.approx(sum(figures.parts.values()), abs=0.01)
        assert set(figures.parts) == {"find", "start", "load", "index", "verify"}
        assert all(figures.parts[part] > 0 for part in ("find", "start", "load", "verify"))
        assert 0 < figures.rpo_s < 60
        report = ObjectStore(stack.bucket).read(result.report_key).decode()
        assert "Verdict: **PASSED**" in report
        assert "| rows | passed |" in report

    def test_a_good_backup_of_redis(self, stack: Stack, redis: RedisServer) -> None:
        redis.cli("FLUSHALL\nSET a 1\nSETEX later 90000 x\nSETEX sooner 100 x\nSELECT 2\nRPUSH l 1 2\n")
        take_backup(stack, "cache", ObjectStore(stack.bucket), quiet, quiet)
        result = drill(stack, "cache")
        assert failed(result) == {}
        numbers = {finding.check: finding.numbers for finding in result.findings}
        assert numbers["keys"] == {"keys": 4, "expiring_during_the_drill": 1}
        assert numbers["ttls"] == {"expiring": 2}
        assert newest(stack, "cache").drilled

    @pytest.mark.slow
    def test_an_encrypted_backup_and_its_assertions(
        self, production: PostgresServer, stack_of: StackOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = pyrage.x25519.Identity.generate()
        monkeypatch.setenv("TEST_KEY", str(key))
        extra = f"encryption: {{recipients: [{key.to_public()}], identity: {{env: TEST_KEY}}}}"
        stack = with_drills(stack_of(databases=ASSERTIONS, extra=extra), tmp_path)
        take_backup(stack, "market", ObjectStore(stack.bucket), quiet, quiet)
        result = drill(stack)
        wrong = failed(result)
        assert set(wrong) == {"assertion_cheap", "assertion_nonsense", "assertion_harmless"}
        assert "answered False, not true" in wrong["assertion_cheap"]
        assert 'column "nope" does not exist' in wrong["assertion_nonsense"]
        assert not newest(stack).drilled
        assert str(key) not in ObjectStore(stack.bucket).read(result.report_key).decode()

    @pytest.mark.slow
    def test_chosen_checks_only(self, stack: Stack) -> None:
        """A check that was left out has not passed, so the backup is not marked."""
        result = drill(stack, request=Request(checks=("rows",), choice=Choice(id=newest(stack).path.id)))
        assert "rows" not in failed(result)
        assert "left out" in failed(result)["schema"]
        assert not newest(stack).drilled
        with pytest.raises(UnknownCheck, match="no check 'rowz': there are restored, schema"):
            drill(stack, request=Request(checks=("rowz",)))

    @pytest.mark.slow
    def test_a_kept_server_can_be_looked_into_until_its_time(self, stack: Stack) -> None:
        until = datetime.now(UTC) + timedelta(seconds=20)
        result = drill(stack, request=Request(keep_until=until))
        assert result.kept is not None
        [directory] = [path for path in stack.drills.directory.iterdir() if path.is_dir()]
        url = result.kept.split(": ", 1)[1].split(" ")[0]
        look = subprocess.run(
            ["psql", "-XAt", "-d", f"{url}/copy", "-c", "SELECT count(*) FROM prices"],
            env={**os.environ, "PGPASSWORD": (directory / "password").read_text()},
            capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        assert look.stdout.strip() == "20000", look.stderr
        assert drill(stack).passed  # another drill leaves it alone
        assert directory.exists()
        time.sleep(max(0.0, (until - datetime.now(UTC)).total_seconds()) + 1)
        assert drill(stack).passed
        assert left_over(stack) == []


def damaged(stack: Stack, file: str, change: Callable[[bytes], bytes], name: str = "market") -> None:
    store, backup = ObjectStore(stack.bucket), newest(stack, name)
    key = next(backup.path.key(o.file) for o in backup.manifest.objects if o.file.startswith(file))
    store.write(key, change(store.read(key)))


def flipped(body: bytes) -> bytes:
    middle = len(body) * 2 // 3
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


@pytest.mark.slow
class TestWhatIsFoundOut:
    @pytest.mark.parametrize("file", ["data-000", "schema", "globals"])
    def test_a_flipped_byte(self, stack: Stack, file: str) -> None:
        damaged(stack, file, flipped)
        result = drill(stack)
        assert f"{file}." in failed(result)["restored"].splitlines()[0]
        assert "is damaged" in failed(result)["restored"].splitlines()[0]
        assert "could not run" in failed(result)["rows"]
        assert not newest(stack).drilled
        assert left_over(stack) == []
        assert "Verdict: **FAILED**: restored" in ObjectStore(stack.bucket).read(result.report_key).decode()

    def test_a_flipped_byte_in_a_redis_snapshot(self, stack: Stack, redis: RedisServer) -> None:
        redis.cli("FLUSHALL\nSET a 1\n")
        take_backup(stack, "cache", ObjectStore(stack.bucket), quiet, quiet)
        damaged(stack, "snapshot", flipped, "cache")
        assert "is damaged" in failed(drill(stack, "cache"))["restored"]

    def test_a_truncated_and_a_missing_object(self, stack: Stack) -> None:
        damaged(stack, "data-000", lambda body: body[:-100])
        assert "data-000.dump.zst is damaged: it has" in failed(drill(stack))["restored"]
        ObjectStore(stack.bucket).delete(newest(stack).path.key("data-000.dump.zst"))
        assert "data-000.dump.zst is gone" in failed(drill(stack))["restored"]

    def test_wrong_and_missing_keys(
        self, production: PostgresServer, stack_of: StackOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key, wrong = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
        monkeypatch.setenv("TEST_KEY", str(wrong))
        extra = f"encryption: {{recipients: [{key.to_public()}], identity: {{env: TEST_KEY}}}}"
        stack = with_drills(stack_of(databases=PLAIN, extra=extra), tmp_path)
        take_backup(stack, "market", ObjectStore(stack.bucket), quiet, quiet)
        assert "was not encrypted for the key given" in failed(drill(stack))["restored"]
        store = ObjectStore(stack.bucket)
        without = run_drill(stack, "market", store, Request(), (), quiet, quiet)
        assert "no private key is at hand" in failed(without)["restored"]
        monkeypatch.setenv("TEST_KEY", "AGE-SECRET-KEY-1NONSENSE")
        said = failed(drill(stack))["restored"]
        assert "an age identity given is none" in said
        assert "NONSENSE" not in said

    def test_a_dump_that_lost_rows(self, stack: Stack) -> None:
        """The manifest counts more than what comes back."""
        store, backup = ObjectStore(stack.bucket), newest(stack)
        text = store.read(backup.path.key(MANIFEST)).decode()
        store.write(backup.path.key(MANIFEST), text.replace('"rows": 20000', '"rows": 20001').encode())
        assert failed(drill(stack)) == {"rows": "table public.prices has 20,000 rows, the manifest says 20,001"}

    def test_what_was_done_to_a_copy_before_it_was_proved(self, stack: Stack, production: PostgresServer) -> None:
        production.sql("DROP DATABASE IF EXISTS drilled_copy WITH (FORCE)")
        store, backup = ObjectStore(stack.bucket), newest(stack)
        restore_backup(stack, "market", store, NEWEST, Target(database="drilled_copy"), (), quiet, quiet)
        facts = backup.manifest.source
        assert isinstance(facts, PostgresFacts)
        retrieval = Retrieval(store, backup, (), time.monotonic() + 60, Meter("", 0), quiet)

        def after(sql: str) -> dict[str, str]:
            production.sql(sql, "drilled_copy")
            found = list(prove_database(stack.servers["pg"], "drilled_copy", facts, {}, retrieval))
            return {finding.check: "\n".join(finding.faults) for finding in found if not finding.passed}

        assert after("") == {}
        emptied = after("CREATE TABLE kept AS TABLE prices; TRUNCATE prices")
        assert emptied["rows"].splitlines() == [
            "table public.prices has 0 rows, the manifest says 20,000",
            "table public.kept is there and should not be",
        ]
        assert set(emptied) == {"rows", "checksums", "schema"}
        assert after("INSERT INTO prices TABLE kept; DROP TABLE kept") == {}
        changed = after("UPDATE prices SET price = price + 1 WHERE id = 5")
        assert changed == {"checksums": "table public.prices has other contents than the source had"}
        others = after(
            "SELECT setval('orders_id_seq', 1); ALTER TABLE prices DROP CONSTRAINT prices_pkey;"
            " ALTER TABLE orders ADD CONSTRAINT late CHECK (id > 0) NOT VALID;"
            " REVOKE ALL ON prices FROM drill_reader; CREATE EXTENSION hstore;"
            " REFRESH MATERIALIZED VIEW totals WITH NO DATA; SELECT lo_create(0)"
        )
        assert "sequence public.orders_id_seq stands at 1, the manifest says 10" in others["sequences"]
        assert "2 valid indexes, the manifest says" not in others["indexes"]
        assert "valid indexes, the manifest says" in others["indexes"]
        assert "orders: late is not validated" in others["constraints"]
        assert "extension hstore is there and should not be" in others["extensions"]
        assert "materialised view public.totals is not filled" in others["rows"]
        assert "2 large objects, the manifest says 1" in others["rows"]
        assert "acl public.TABLE prices is missing" in others["schema"]
        assert "constraint public.prices prices_pkey is missing" in others["schema"]

    def test_no_server_of_its_version_here(self, stack: Stack) -> None:
        store, backup = ObjectStore(stack.bucket), newest(stack)
        text = store.read(backup.path.key(MANIFEST)).decode()
        store.write(backup.path.key(MANIFEST), text.replace('"server_major": 15', '"server_major": 9').encode())
        assert "there is no Postgres 9 server here" in failed(drill(stack))["restored"]

    def test_the_size_limit(self, production: PostgresServer, stack_of: StackOf, tmp_path: Path) -> None:
        production.sql("DROP DATABASE IF EXISTS roomy WITH (FORCE)")
        production.sql("CREATE DATABASE roomy")
        production.sql("CREATE TABLE t AS SELECT repeat(md5(n::text), 10) FROM generate_series(1, 800000) n", "roomy")
        stack = stack_of(databases="{market: {server: pg, database: roomy}}")
        take_backup(stack, "market", ObjectStore(stack.bucket), quiet, quiet)
        small = with_drills(stack, tmp_path, size_limit_gb=0.15)
        assert "drills.size_limit_gb allows 0.15" in failed(drill(small))["restored"]
        assert left_over(small) == []
        full = with_drills(stack, tmp_path, keep_free_gb=10**6)
        assert "drills.keep_free_gb keeps" in failed(drill(full))["restored"]


@pytest.mark.slow
class TestInterruptions:
    def test_the_server_killed_in_the_middle(self, stack: Stack) -> None:
        killer = threading.Thread(target=_kill_servers, args=(stack.drills.directory,))
        killer.start()
        said = failed(drill(stack))["restored"]
        killer.join()
        assert any(sign in said for sign in ("went away", "is the server running", "was stopped")), said
        assert left_over(stack) == []

    def test_two_at_once(self, stack: Stack) -> None:
        results: list[Drill] = []
        both = [threading.Thread(target=lambda: results.append(drill(stack))) for _ in range(2)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        assert [result.passed for result in results] == [True, True]
        assert left_over(stack) == []

    def test_killed_in_the_middle_and_swept_by_the_next(self, stack: Stack, tmp_path: Path) -> None:
        saved = tmp_path / "stack.json"
        saved.write_text(stack.model_dump_json())
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, saved],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while not list(stack.drills.directory.glob("*/data/postmaster.pid")) and time.monotonic() < deadline:
            time.sleep(0.02)
        [directory] = [path for path in stack.drills.directory.iterdir() if path.is_dir()]
        child.send_signal(signal.SIGKILL)
        child.wait(10)
        assert directory.exists()
        assert drill(stack).passed
        assert left_over(stack) == []

    def test_production_is_untouched(
        self, area: Path, stack_of: StackOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may even be switched off: no byte of its directory changes, and no object of the backup does."""
        with PostgresServer(area / "untouched") as own:
            own.sql("CREATE DATABASE drilled")
            own.sql(SCHEMA, "drilled")
            monkeypatch.setenv("TEST_PG", own.password)
            stack = with_drills(stack_of(databases=PLAIN, postgres_server=own), tmp_path)
            take_backup(stack, "market", ObjectStore(stack.bucket), quiet, quiet)
        store = ObjectStore(stack.bucket)
        before = _tree(own.data), _bodies(store, stack)
        assert drill(stack).passed
        assert (_tree(own.data), _bodies(store, stack)) == before
        damaged(stack, "data-000", flipped)
        before = _tree(own.data), _bodies(store, stack)
        assert not drill(stack).passed
        assert (_tree(own.data), _bodies(store, stack)) == before


def _tree(directory: Path) -> dict[str, bytes]:
    return {str(path): hashlib.sha256(path.read_bytes()).digest() for path in directory.rglob("*") if path.is_file()}


def _bodies(store: ObjectStore, stack: Stack) -> dict[str, bytes]:
    """Every object of the backups, but the marks and reports that drills write."""
    found = [key for key in keys(store, stack.bucket.prefix) if "/drills/" not in key and "drilled" not in key]
    return {key: store.read(key) for key in found}


CHILD = """
import sys
from pathlib import Path
from ops_platform.stack import Stack
from ops_platform.systems.object_store import ObjectStore
from ops_platform.systems.progress import Meter
from ops_platform.drills.drill import Request, run_drill
stack = Stack.model_validate_json(Path(sys.argv[1]).read_text())
run_drill(stack, "market", ObjectStore(stack.bucket), Request(), (), print, print)
"""


def _kill_servers(directory: Path) -> None:
    """Wait for the drill's server to have a database that grows, then kill its postmaster."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for file in directory.glob("*/data/postmaster.pid"):
            if len(list(file.parent.glob("base/*"))) > 3:
                os.kill(int(file.read_text().splitlines()[0]), signal.SIGKILL)
                return
        time.sleep(0.01)


@pytest.mark.slow
def test_a_newer_servers_backup_is_drilled_on_its_own_version(
    area: Path, stack_of: StackOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PostgresServer(area / "newer_drilled", bin=wheel_bin()) as newer:
        newer.sql("CREATE DATABASE drilled")
        newer.sql("CREATE TABLE t AS SELECT generate_series(1, 10) AS a", "drilled")
        stack = with_drills(stack_of(databases=PLAIN, postgres_server=newer), tmp_path)
        monkeypatch.setenv("TEST_PG", newer.password)
        take_backup(stack, "market", ObjectStore(stack.bucket), quiet, quiet)
        assert failed(drill(stack)) == {}
