"""Dagster's face, by running the job on real servers."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ops_platform.backups.catalog import Backup, publish, read_catalog
from ops_platform.backups.layout import BackupPath, new_id
from ops_platform.backups.verification import CHECKS, verify
from ops_platform.definitions import build_defs
from ops_platform.resources import Operations
from ops_platform.stack import Stack
from ops_platform.systems.object_store import ObjectStore
from ops_platform.systems.throwaway.postgres import PostgresServer
from ops_platform.systems.throwaway.s3 import S3Server
from tests.conftest import StackOf, keys, quiet
from tests.faulty_proxy import Fault, proxy_to

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@pytest.fixture
def stack(stack_of: StackOf, postgres: PostgresServer) -> Stack:
    if postgres.sql("SELECT count(*) FROM pg_database WHERE datname = 'shown'") == "0":
        postgres.sql("CREATE DATABASE shown")
        postgres.sql("CREATE TABLE t AS SELECT generate_series(1, 100) AS a", "shown")
    return stack_of(databases="{market: {server: pg, database: shown}}")


def run(stack: Stack, selection: list[dg.AssetKey] | None = None, **config: Any) -> dg.ExecuteInProcessResult:
    job = build_defs(Operations(stack)).resolve_job_def("backup")
    return job.execute_in_process(asset_selection=selection, run_config={**QUIET, **config}, raise_on_error=False)


def checks_of(result: dg.ExecuteInProcessResult, name: str) -> dict[str, bool]:
    evaluations = result.get_asset_check_evaluations()
    return {e.check_name: e.passed for e in evaluations if e.asset_key == dg.AssetKey(["backups", name])}


def metadata_of(result: dg.ExecuteInProcessResult, *key: str) -> dict[str, Any]:
    """An asset's metadata as this run materialized it; empty where it did not."""
    for event in result.get_asset_materialization_events():
        if event.asset_key == dg.AssetKey(key):
            found = event.step_materialization_data.materialization.metadata
            return {name: value.value for name, value in found.items()}
    return {}


def aged(store: ObjectStore, stack: Stack, days: float, source: Backup) -> Backup:
    """A backup like `source`, as if taken `days` ago: its objects copied, its manifest published."""
    taken = datetime.now(UTC) - timedelta(days=days)
    path = BackupPath(stack.bucket.prefix, "market", new_id(taken))
    for stored in source.manifest.objects:
        store.write(path.key(stored.file), store.read(source.path.key(stored.file)))
    manifest = source.manifest.model_copy(update={"id": path.id, "taken_at": taken})
    publish(store, path, manifest)
    return Backup(path, manifest, False)


def test_the_job_backs_up_checks_and_lets_go(stack: Stack) -> None:
    result = run(stack)
    assert result.success
    store = ObjectStore(stack.bucket)
    for name in ("market", "cache"):
        assert [b.verified for b in read_catalog(store, stack.bucket.prefix, name).backups] == [True]
        assert checks_of(result, name) == dict.fromkeys(CHECKS, True)
    metadata = metadata_of(result, "backups", "market")
    assert metadata["rows"] == 100
    assert metadata["location"].startswith(f"s3://backups/{stack.bucket.prefix}/market/")
    assert {"raw_bytes", "stored_bytes", "seconds", "raw_mb_per_second"} <= metadata.keys()


def test_chosen_names_only(stack: Stack) -> None:
    result = run(stack, [dg.AssetKey(["backups", "market"]), dg.AssetKey(["retention", "market"])])
    assert result.success
    store = ObjectStore(stack.bucket)
    assert all("/market/" in key for key in keys(store, stack.bucket.prefix))


def test_one_that_fails_does_not_stop_the_other(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PG", "wrong")
    result = run(stack)
    assert not result.success
    store = ObjectStore(stack.bucket)
    assert len(read_catalog(store, stack.bucket.prefix, "cache").backups) == 1
    assert not [key for key in keys(store, stack.bucket.prefix) if "/market/" in key]
    assert not result.is_node_untouched("backups__market")


def test_retention_shows_its_plan_and_a_dry_run_deletes_nothing(stack: Stack) -> None:
    run(stack)
    store = ObjectStore(stack.bucket)
    newest = read_catalog(store, stack.bucket.prefix, "market").backups[0]
    old = [aged(store, stack, days, newest) for days in (8, 9, 10, 30)]
    store.write(old[-1].path.key("note.txt"), b"not ours")
    before = keys(store, stack.bucket.prefix)
    dry = run(
        stack,
        [dg.AssetKey(["retention", "market"])],
        ops={"retention__market": {"config": {"dry_run": True}}},
    )
    assert dry.success
    assert keys(store, stack.bucket.prefix) == before
    shown = metadata_of(dry, "retention", "market")
    assert (shown["to_delete"], shown["deleted"]) == (2, 0)
    assert f"{old[-1].path.id} | **delete**" in shown["plan"]
    assert run(stack, [dg.AssetKey(["retention", "market"])]).success
    left = {b.path.id for b in read_catalog(store, stack.bucket.prefix, "market").backups}
    assert left == {newest.path.id, old[0].path.id, old[1].path.id}  # too few are verified: the newest stay
    assert keys(store, old[-1].path.folder) == [old[-1].path.key("note.txt")]


@pytest.mark.slow
def test_retention_works_where_bulk_delete_is_refused(stack: Stack, s3: S3Server) -> None:
    run(stack)
    fault = Fault(refuse=lambda method, path: 501 if method == "POST" and "delete" in path else None)
    with proxy_to(s3.port, fault) as endpoint:
        bucket = stack.bucket.model_copy(update={"endpoint": endpoint})
        store = ObjectStore(bucket)
        newest = read_catalog(store, bucket.prefix, "market").backups[0]
        old = [aged(store, stack, days, newest) for days in (20, 21, 22, 23)]
        assert run(stack.model_copy(update={"bucket": bucket}), [dg.AssetKey(["retention", "market"])]).success
    assert not keys(ObjectStore(stack.bucket), old[-1].path.folder)
    deletions = [line for line in fault.seen if line.startswith("DELETE")]
    assert deletions[-1].endswith("manifest.json")


def test_a_damaged_object_fails_its_check_and_retention_does_not_run(stack: Stack, s3: S3Server) -> None:
    def damage() -> None:
        store = ObjectStore(stack.bucket)
        [key] = [k for k in keys(store, f"{stack.bucket.prefix}/market/") if "data-000" in k]
        body = bytearray(store.read(key))
        body[len(body) // 2] ^= 1
        store.write(key, bytes(body))

    def refuse(method: str, path: str) -> int | None:
        if method == "GET" and path.endswith("manifest.json"):
            damage()  # after the manifest was published, before the objects are read back
        return None

    with proxy_to(s3.port, Fault(refuse=refuse)) as endpoint:
        bucket = stack.bucket.model_copy(update={"endpoint": endpoint})
        result = run(
            stack.model_copy(update={"bucket": bucket}),
            [dg.AssetKey(["backups", "market"]), dg.AssetKey(["retention", "market"])],
        )
    assert not result.success
    assert checks_of(result, "market") == {**dict.fromkeys(CHECKS, True), "stored_as_described": False}
    assert not metadata_of(result, "retention", "market")
    assert not any(key.endswith("verified.json") for key in keys(ObjectStore(stack.bucket), stack.bucket.prefix))


@pytest.mark.slow
def test_a_manifest_that_is_not_ours_to_read_is_left_alone(stack: Stack) -> None:
    run(stack)
    store = ObjectStore(stack.bucket)
    path = BackupPath(stack.bucket.prefix, "market", new_id(datetime.now(UTC) - timedelta(days=90)))
    store.write(path.key("manifest.json"), json.dumps({"version": 2}).encode())
    greedy = BackupPath(stack.bucket.prefix, "market", new_id(datetime.now(UTC) - timedelta(days=91)))
    newest = read_catalog(store, stack.bucket.prefix, "market").backups[0].manifest
    text = newest.model_copy(update={"id": greedy.id}).model_dump_json()
    store.write(greedy.key("manifest.json"), text.replace("schema.dump.zst", "../somebody.else").encode())
    assert run(stack).success
    assert path.key("manifest.json") in keys(store, path.folder)
    assert greedy.key("manifest.json") in keys(store, greedy.folder)
    catalog = read_catalog(store, stack.bucket.prefix, "market")
    assert len(catalog.backups) == 2
    assert all("left alone" in fault for fault in catalog.unreadable)
    assert len(catalog.unreadable) == 2


def test_a_manifest_that_lies_about_its_tables_is_found_out(stack: Stack) -> None:
    run(stack)
    store = ObjectStore(stack.bucket)
    backup = read_catalog(store, stack.bucket.prefix, "market").backups[0]
    objects = tuple(o.model_copy(update={"listed_tables": ()}) for o in backup.manifest.objects)
    lying = Backup(backup.path, backup.manifest.model_copy(update={"objects": objects}), False)
    findings = {finding.check: finding.faults for finding in verify(store, lying, quiet)}
    assert findings["holds_its_source"] == ("table public.t stands 0 times in the dumps, not once",)
    assert findings["manifest_readable"]


def test_the_repositorys_definitions_load() -> None:
    root = Path(__file__).parent.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPS_STACK", str(root / "stack.yaml"))
        from ops_platform.definitions import defs

        loaded = defs() if callable(defs) else defs
    assert isinstance(loaded, dg.Definitions)
    dg.Definitions.validate_loadable(loaded)
    assert {s.name for s in loaded.schedules or []} == {"nightly_backup", "weekly_restore_drill"}
