"""The job `rollout` and `ops rollout`, by running them: what they show, and the record that they keep."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from ops_platform.changes.builds import Build, note_build
from ops_platform.cli import main
from ops_platform.definitions import build_defs
from ops_platform.deployment import Registry as RegistrySettings
from ops_platform.doctor import examine
from ops_platform.resources import Operations
from ops_platform.stack import Stack
from ops_platform.systems.object_store import ObjectStore
from ops_platform.systems.throwaway.process import free_port
from ops_platform.systems.throwaway.s3 import S3Server
from tests.rollouts.conftest import Room
from tests.stand_ins import Registry
from tests.test_dagster import QUIET, metadata_of

KEY = Path(__file__).parent.parent.parent / "infrastructure" / "rollout-from-ci.sh"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def stack(room: Room, registry: Registry, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """The room's stack with a real bucket; v2 is the newest good build."""
    monkeypatch.setenv("TEST_AK", s3.access_key)
    monkeypatch.setenv("TEST_SK", s3.secret_key)
    room.bucket = f"""
bucket:
  name: backups
  endpoint: "{s3.endpoint}"
  prefix: "t/{room.project}"
  access_key: {{env: TEST_AK}}
  secret_key: {{env: TEST_SK}}
"""
    stack = room.describe(
        rollout=", settle_s: 0, image: web",
        extra=f"registry: {{repository: {registry.address}}}\nimages: {{web: {{context: ., probe: backend}}}}",
    )
    note_build(stack.state_dir, "web", Build(image=room.web["v2"], revision="r", inputs="i", at=datetime.now(UTC)))
    return stack


def run(stack: Stack, **config: object) -> dg.ExecuteInProcessResult:
    job = build_defs(Operations(stack)).resolve_job_def("rollout")
    ops = {"rollouts__backend": {"config": config}}
    return job.execute_in_process(run_config={**QUIET, "ops": ops}, raise_on_error=False)


def test_the_newest_build_then_back(room: Room, stack: Stack) -> None:
    shown = metadata_of(run(stack, why="prices were rounded wrongly"), "rollouts", "backend")
    assert room.versions() == ["v2"]
    assert shown["result"] == "rolled out"
    assert shown["image"] == room.web["v2"]
    assert 0 < shown["health_seconds"] + shown["drain_seconds"] < shown["seconds"]
    record = shown["change_record"]
    for part in ("Why: prices were rounded wrongly", "+0.00 $ a month", "## Rollback plan", "### Alert thresholds"):
        assert part in record
    store = ObjectStore(stack.bucket)
    [kept] = store.list(f"{stack.bucket.prefix}/changes/")
    assert store.read(kept.key).decode() == record
    assert metadata_of(run(stack, back=True), "rollouts", "backend")["image"] == room.web["v1"]
    assert room.versions() == ["v1"]


def test_a_broken_image_fails_the_run_and_says_why(room: Room, stack: Stack) -> None:
    result = run(stack, image=room.web["exits"])
    assert not result.success
    [failure] = [event for event in result.all_node_events if event.event_type_value == "STEP_FAILURE"]
    told = failure.step_failure_data.user_failure_data
    assert told is not None
    assert "the rollout of backend failed and was put back" in str(told.description)
    assert "this version cannot start: no such table" in str(told.metadata["change_record"].value)
    [kept] = ObjectStore(stack.bucket).list(f"{stack.bucket.prefix}/changes/")
    assert kept.key.endswith("rollout-of-backend.md")


def test_ops_rollout(room: Room, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPS_STACK", str(room.directory / "stack.yaml"))
    command = CliRunner()
    there = command.invoke(main, ["--json", "rollout", "backend"])
    assert there.exit_code == 0, there.output
    assert json.loads(there.stdout)[0]["image"] == room.web["v2"]
    again = command.invoke(main, ["rollout", "backend"])
    assert again.exit_code == 0
    assert "nothing to do" in again.stdout
    broken = command.invoke(main, ["rollout", "backend", "--image", room.web["exits"]])
    assert broken.exit_code == 1
    assert "put back" in broken.stdout
    wrong = command.invoke(main, ["rollout", "backend", "--image", "web:latest"])
    assert wrong.exit_code == 2
    assert "not named by digest" in wrong.stderr
    assert command.invoke(main, ["rollout", "backend", "--back"]).exit_code == 0
    assert room.versions() == ["v1"]


def test_the_key_of_a_ci_leaves_a_run_in_the_ui(room: Room, stack: Stack, tmp_path: Path) -> None:
    home = tmp_path / "dagster"
    home.mkdir()
    environment = {"OPS_STACK": str(room.directory / "stack.yaml"), "DAGSTER_HOME": str(home)}

    def asked(version: str) -> int:
        command = {**os.environ, **environment, "SSH_ORIGINAL_COMMAND": f"backend {room.web[version]}"}
        return subprocess.run([KEY], env=command, capture_output=True, timeout=120, check=False).returncode

    assert asked("v2") == 0
    assert room.versions() == ["v2"]
    assert asked("exits") != 0
    assert room.versions() == ["v2"]
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert [run.status.value for run in instance.get_runs()] == ["FAILURE", "SUCCESS"]
        shown = instance.get_latest_materialization_event(dg.AssetKey(["rollouts", "backend"]))
    assert shown is not None
    assert shown.asset_materialization is not None
    assert "a build of the main branch" in str(shown.asset_materialization.metadata["change_record"].value)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGHUP], ids=["ctrl-c", "terminal closed"])
def test_a_rollout_that_is_stopped_by_hand(room: Room, stack: Stack, sign: signal.Signals) -> None:
    """As by Ctrl-C or by a run that is cancelled: put back, and recorded all the same, whoever still listens."""
    command = [str(Path(sys.executable).with_name("ops")), "rollout", "backend", "--image", room.web["never healthy"]]
    environment = {**os.environ, "OPS_STACK": str(room.directory / "stack.yaml")}
    running = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(sign, signal.SIG_DFL),  # noqa: PLW1509  tests may run under nohup, or as a job
    )
    assert running.stderr is not None
    for line in running.stderr:
        if line.startswith("wait:"):
            break
    running.stderr.close()
    running.send_signal(sign)
    assert running.wait(60) == 130
    assert room.versions() == ["v1"]
    store = ObjectStore(stack.bucket)
    [kept] = store.list(f"{stack.bucket.prefix}/changes/")
    assert "# rollout of backend: put back" in store.read(kept.key).decode()
    assert "it was stopped by hand" in store.read(kept.key).decode()


def test_the_doctor_looks_at_the_engine(room: Room, stack: Stack, registry: Registry) -> None:
    def told(stack: Stack, what: str) -> tuple[str, str]:
        [found] = [d for d in examine(stack) if d.what.startswith(what)]
        return found.verdict, found.said

    assert told(stack, "engine")[0] == "ok"
    assert told(stack, "rollouts of backend") == ("ok", f"1 replicas of {room.web['v1']}")
    assert told(stack, "registry") == ("ok", "answers; no login is made")
    away = stack.model_copy(update={"registry": RegistrySettings(repository=f"127.0.0.1:{free_port()}/r")})
    assert told(away, "registry")[0] == "failed"
    services = room.services()
    del services["backend"]["healthcheck"]
    room.write(services)
    verdict, said = told(stack, "rollouts of backend")
    assert verdict == "failed"
    assert "has no health check" in said
