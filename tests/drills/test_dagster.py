"""Drills and restores as Dagster runs them, on real servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ops_platform.backups.backup import take_backup
from ops_platform.backups.catalog import read_catalog
from ops_platform.definitions import build_defs
from ops_platform.drills.findings import POSTGRES_CHECKS, REDIS_CHECKS
from ops_platform.resources import Operations
from ops_platform.stack import Stack
from ops_platform.systems.object_store import ObjectStore
from ops_platform.systems.throwaway.postgres import PostgresServer
from tests.conftest import StackOf, quiet, with_drills
from tests.drills.test_drill import damaged, flipped

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@pytest.fixture
def stack(stack_of: StackOf, postgres: PostgresServer, tmp_path: Path) -> Stack:
    postgres.sql("DROP DATABASE IF EXISTS shown_drilled WITH (FORCE)")
    postgres.sql("DROP DATABASE IF EXISTS shown_copy WITH (FORCE)")
    postgres.sql("CREATE DATABASE shown_drilled")
    postgres.sql("CREATE TABLE t AS SELECT generate_series(1, 100) AS a", "shown_drilled")
    stack = with_drills(stack_of(databases="{market: {server: pg, database: shown_drilled}}"), tmp_path)
    for name in ("market", "cache"):
        take_backup(stack, name, ObjectStore(stack.bucket), quiet, quiet)
    return stack


def run(stack: Stack, job: str, **config: Any) -> dg.ExecuteInProcessResult:
    found = build_defs(Operations(stack)).resolve_job_def(job)
    return found.execute_in_process(run_config={**QUIET, **config}, raise_on_error=False)


def checks_of(result: dg.ExecuteInProcessResult, name: str) -> dict[str, bool]:
    evaluations = result.get_asset_check_evaluations()
    return {e.check_name: e.passed for e in evaluations if e.asset_key == dg.AssetKey(["drills", name])}


def test_the_job_drills_everything_and_shows_figures(stack: Stack) -> None:
    result = run(stack, "restore_drill")
    assert result.success
    assert checks_of(result, "market") == dict.fromkeys(POSTGRES_CHECKS, True)
    assert checks_of(result, "cache") == dict.fromkeys(REDIS_CHECKS, True)
    shown = {
        event.asset_key.path[-1]: event.step_materialization_data.materialization.metadata  # type: ignore[union-attr]
        for event in result.get_asset_materialization_events()
    }
    for name in ("market", "cache"):
        assert all(isinstance(shown[name][key], dg.FloatMetadataValue) for key in (
            "rto_seconds", "rto_find_seconds", "rto_load_seconds", "rto_verify_seconds", "rpo_seconds",
            "largest_gap_seconds", "mb_per_second", "rows_per_second",
        ))  # fmt: skip
        assert "Verdict: **PASSED**" in str(shown[name]["report"].value)
        assert read_catalog(ObjectStore(stack.bucket), stack.bucket.prefix, name).backups[0].drilled


@pytest.mark.slow
def test_a_failed_drill_fails_the_run_and_not_the_other_drill(stack: Stack) -> None:
    damaged(stack, "data-000", flipped)
    result = run(stack, "restore_drill")
    assert not result.success
    assert not any(checks_of(result, "market").values())
    assert checks_of(result, "cache") == dict.fromkeys(REDIS_CHECKS, True)
    assert {event.asset_key for event in result.get_asset_materialization_events()} == {
        dg.AssetKey(["drills", "cache"])
    }
    [failure] = [e for e in result.all_events if e.is_step_failure]
    assert "the drill of market failed: restored" in str(failure.step_failure_data.user_failure_data)


def test_a_wrong_time_is_refused(stack: Stack) -> None:
    result = run(stack, "restore_drill", ops={"drills__market": {"config": {"before": "yesterday"}}})
    [failure] = [e for e in result.all_events if e.is_step_failure]
    assert "before: 'yesterday' is no time" in str(failure.step_failure_data.error)


def test_the_job_restore_brings_back_a_database(stack: Stack, postgres: PostgresServer) -> None:
    def launch(**config: str) -> dg.ExecuteInProcessResult:
        return run(stack, "restore", ops={"restore_one": {"config": config}})

    assert launch(name="market", database="shown_copy").success
    assert postgres.sql("SELECT count(*) FROM t", "shown_copy") == "100"
    postgres.sql("DELETE FROM t", "shown_drilled")
    for wrong in ({"name": "market"}, {"name": "market", "over": "market"}, {"name": "nope", "database": "x"}):
        assert not launch(**wrong).success
    assert launch(name="market", over="shown_drilled").success
    assert postgres.sql("SELECT count(*) FROM t", "shown_drilled") == "100"
