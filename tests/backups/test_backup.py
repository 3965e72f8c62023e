"""Whole backups of real servers: what lies in the bucket, and that stock tools bring it back."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pyrage
import pytest

from ops_platform.backups.archives import LEAST_BYTES, Table, plan_archives
from ops_platform.backups.backup import take_backup
from ops_platform.backups.catalog import Backup, read_catalog
from ops_platform.backups.manifest import PostgresFacts, RedisFacts
from ops_platform.backups.verification import verify
from ops_platform.stack import Stack
from ops_platform.systems.object_store import ObjectStore
from ops_platform.systems.throwaway.postgres import PostgresServer
from ops_platform.systems.throwaway.redis import RedisServer
from tests.conftest import StackOf, keys, quiet

SCHEMA = """
CREATE TABLE prices (id int PRIMARY KEY, price numeric(12,4));
INSERT INTO prices SELECT n, n / 7.0 FROM generate_series(1, 20000) n;
CREATE SCHEMA "odd ""name"".x";
CREATE TABLE "odd ""name"".x"."Table $1 é" (a text, b jsonb);
INSERT INTO "odd ""name"".x"."Table $1 é" VALUES ('x', '{"k": 1}'), (NULL, NULL);
CREATE TABLE empty (a int);
CREATE TABLE parent (a int) PARTITION BY RANGE (a);
CREATE TABLE child PARTITION OF parent FOR VALUES FROM (0) TO (100);
INSERT INTO parent SELECT generate_series(0, 99);
CREATE SEQUENCE numbers START 41; SELECT nextval('numbers');
SELECT lo_from_bytea(4711, 'a large object');
"""


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    postgres.sql("DROP DATABASE IF EXISTS market")
    postgres.sql("CREATE DATABASE market")
    postgres.sql(SCHEMA, "market")
    return "market"


def back_up(stack: Stack, name: str) -> tuple[ObjectStore, Backup]:
    store = ObjectStore(stack.bucket)
    return store, take_backup(stack, name, store, quiet, quiet).backup


def fetched(store: ObjectStore, backup: Backup, into: Path) -> dict[str, Path]:
    paths = {}
    for stored in backup.manifest.objects:
        paths[stored.file.split(".zst")[0]] = path = into / stored.file
        path.write_bytes(store.read(backup.path.key(stored.file)))
    return paths


def test_a_database_backup_holds_what_the_snapshot_held(database: str, stack_of: StackOf) -> None:
    stack = stack_of(databases='{market: {server: pg, database: market, checksums: ["public.prices"]}}')
    store, backup = back_up(stack, "market")
    source = backup.manifest.source
    assert isinstance(source, PostgresFacts)
    assert {t.name: t.rows for t in source.tables} == {
        "prices": 20_000, "Table $1 é": 2, "empty": 0, "child": 100,
    }  # fmt: skip
    assert [t.name for t in source.tables if t.checksum] == ["prices"]
    assert source.extensions.keys() == {"plpgsql"}
    assert source.server_major == int(source.dump_version.split()[2].split(".")[0])
    assert not source.role_passwords  # nothing is encrypted, so no password verifier is stored
    assert {o.file for o in backup.manifest.objects} == {
        "data-000.dump.zst", "schema.dump.zst", "globals.sql.zst",
    }  # fmt: skip
    assert all(finding.passed for finding in verify(store, backup, quiet))
    assert [b.path for b in read_catalog(store, stack.bucket.prefix, "market").backups] == [backup.path]
    assert not list(store.open_uploads(stack.bucket.prefix))


def test_a_checksum_does_not_depend_on_the_order_of_rows(
    database: str, postgres: PostgresServer, stack_of: StackOf
) -> None:
    stack = stack_of(databases="{market: {server: pg, database: market, checksums: all}}")
    sums = []
    for change in ("", "CREATE TABLE p2 AS SELECT * FROM prices ORDER BY id DESC; TRUNCATE prices;"
                   " INSERT INTO prices SELECT * FROM p2; DROP TABLE p2",
                   "UPDATE prices SET price = price + 1 WHERE id = 5"):  # fmt: skip
        postgres.sql(change, "market")
        source = back_up(stack, "market")[1].manifest.source
        assert isinstance(source, PostgresFacts)
        sums.append({t.name: t.checksum for t in source.tables}["prices"])
    assert sums[0] == sums[1] != sums[2]


def test_stock_tools_restore_an_encrypted_backup(
    database: str, postgres: PostgresServer, stack_of: StackOf, tmp_path: Path
) -> None:
    identity = pyrage.x25519.Identity.generate()
    other = pyrage.x25519.Identity.generate()
    stack = stack_of(
        databases="{market: {server: pg, database: market}}",
        extra=f"encryption: {{recipients: [{other.to_public()}, {identity.to_public()}]}}",
    )
    store, backup = back_up(stack, "market")
    paths = fetched(store, backup, tmp_path)
    key = tmp_path / "key.txt"
    key.write_text(str(identity))
    postgres.sql("DROP DATABASE IF EXISTS restored")
    postgres.sql("CREATE DATABASE restored")
    script = "set -eo pipefail\n"
    for part, section in (("schema", "pre-data"), ("data-000", ""), ("schema", "post-data")):
        option = f"--section={section}" if section else ""
        script += (
            f"age -d -i {key} {paths[f'{part}.dump']} | zstd -dc"
            f" | {postgres.bin}/pg_restore {option} --exit-on-error -d {postgres.url}/restored\n"
        )
    subprocess.run(["bash", "-c", script], env=postgres.environment_of_clients(), check=True, timeout=120)
    assert _dump(postgres, "restored") == _dump(postgres, "market")
    roles = subprocess.run(
        ["bash", "-c", f"age -d -i {key} {paths['globals.sql']} | zstd -dc"], capture_output=True, check=True
    )
    assert b"SCRAM-SHA-256$" in roles.stdout  # with recipients, the roles come with their verifiers
    assert b"PGDMP" not in paths["data-000.dump"].read_bytes()
    assert backup.manifest.recipients == stack.encryption.recipients  # type: ignore[union-attr]


def test_big_tables_get_dumps_of_their_own_and_nothing_is_left_out() -> None:
    sizes = [LEAST_BYTES * 10, LEAST_BYTES, LEAST_BYTES - 11, 10]
    tables = [Table(oid, "s", f"t{oid}", size) for oid, size in enumerate(sizes)]
    plan = plan_archives(tables, together=False)
    assert [(a.stem, a.content, [t.oid for t in a.tables]) for a in plan] == [
        ("data-001.dump", "tables", [0]),
        ("data-002.dump", "tables", [1]),
        ("data-000.dump", "rest", [0, 1]),
        ("schema.dump", "schema", []),
    ]
    assert [a.stem for a in plan_archives(tables, together=True)] == ["data-000.dump", "schema.dump"]


@pytest.mark.slow
def test_a_database_in_several_dumps_comes_back_whole(
    postgres: PostgresServer, stack_of: StackOf, tmp_path: Path
) -> None:
    postgres.sql("DROP DATABASE IF EXISTS big")
    postgres.sql("CREATE DATABASE big")
    postgres.sql(SCHEMA, "big")
    for name in ('"Big ""one"" é"', "big_two"):
        postgres.sql(
            f"CREATE TABLE {name} (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, t text);"
            f" INSERT INTO {name} (t) SELECT repeat(md5(n::text), 12) FROM generate_series(1, 90000) n",
            "big",
        )
    store, backup = back_up(stack_of(databases="{big: {server: pg, database: big}}"), "big")
    paths = fetched(store, backup, tmp_path)
    data = sorted(stem for stem in paths if stem.startswith("data"))
    assert data == ["data-000.dump", "data-001.dump", "data-002.dump"]
    postgres.sql("DROP DATABASE IF EXISTS restored")
    postgres.sql("CREATE DATABASE restored")
    steps = [
        ("schema.dump", "--section=pre-data"),
        *((d, "") for d in data),
        ("schema.dump", "--section=post-data"),
    ]
    for stem, option in steps:
        line = (
            f"zstd -dc {paths[stem]} | {postgres.bin}/pg_restore {option} --exit-on-error -d {postgres.url}/restored"
        )
        subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            env=postgres.environment_of_clients(),
            check=True,
            timeout=120,
        )
    assert _dump(postgres, "restored") == _dump(postgres, "big")


def test_a_redis_backup_counts_its_keys_and_loads(redis: RedisServer, stack_of: StackOf, tmp_path: Path) -> None:
    redis.cli("FLUSHALL\nSET a 1\nHSET h f v\nSETEX soon 5000 x\nSELECT 2\nRPUSH l 1 2 3\nSET big 7\n")
    store, backup = back_up(stack_of(), "cache")
    source = backup.manifest.source
    assert isinstance(source, RedisFacts)
    assert source.keys == {0: 3, 2: 2}
    assert source.expiring == {0: 1}
    paths = fetched(store, backup, tmp_path)
    copy = tmp_path / "copy"
    copy.mkdir()
    with (copy / "dump.rdb").open("wb") as rdb:
        subprocess.run(["zstd", "-dc", paths["snapshot.rdb"]], stdout=rdb, check=True, timeout=30)
    with RedisServer(copy) as restored:
        assert restored.cli("GET a\nTTL soon\nSELECT 2\nLRANGE l 0 -1\nDBSIZE\n").split()[0] == "1"
        assert "db2:keys=2" in restored.cli("INFO keyspace\n")


@pytest.mark.parametrize("diskless", ["yes", "no"])
def test_a_redis_snapshot_ends_where_the_rdb_ends(redis: RedisServer, stack_of: StackOf, diskless: str) -> None:
    redis.cli(f"CONFIG SET repl-diskless-sync {diskless}\nFLUSHALL\nSET a 1\n")
    store, backup = back_up(stack_of(), "cache")
    stored = backup.manifest.objects[0]
    raw = subprocess.run(
        ["zstd", "-dc"], input=store.read(backup.path.key(stored.file)), capture_output=True, check=True
    ).stdout
    assert len(raw) == stored.raw_bytes
    assert raw[-9] == 0xFF  # RDB's end opcode, then eight bytes of CRC and nothing more


def test_the_manifest_is_json_with_a_version_and_no_secret(
    database: str, stack_of: StackOf, postgres: PostgresServer
) -> None:
    store, backup = back_up(stack_of(databases="{market: {server: pg, database: market}}"), "market")
    body = store.read(backup.path.key("manifest.json")).decode()
    assert json.loads(body)["version"] == 1
    assert postgres.password not in body


def test_backups_of_names_that_begin_alike_stay_apart(database: str, stack_of: StackOf) -> None:
    stack = stack_of(databases="{app: {server: pg, database: market}, app2: {server: pg, database: market}}")
    store, _ = back_up(stack, "app2")
    assert not read_catalog(store, stack.bucket.prefix, "app").backups
    assert all("/app2/" in key for key in keys(store, stack.bucket.prefix))


def _dump(postgres: PostgresServer, database: str) -> str:
    done = subprocess.run(
        [postgres.bin / "pg_dump", "-d", f"{postgres.url}/{database}"],
        env=postgres.environment_of_clients(), capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    # pg_dump frames its output with a random word against injection (\restrict), since 15.14.
    return "\n".join(line for line in done.stdout.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))
