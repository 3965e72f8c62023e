"""What a rollout finds may be in any state: dead replicas, stale tables, hands that worked beside it."""

from __future__ import annotations

import pytest

from ops_platform.rollouts.rollout import roll_out
from tests.conftest import quiet
from tests.rollouts.conftest import QUICK, Room
from tests.stand_ins import Registry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class TestOldReplicas:
    """What befalls those that serve must not stand in the way of a better release, nor of going back."""

    def test_a_dead_service_is_repaired(self, room: Room) -> None:
        room.describe(rollout=QUICK)
        assert room.roll("v2").good
        room.engine.docker("stop", "--time", "1", *room.ids())
        assert room.answer() is None
        assert room.roll("v3").result == "rolled out"
        assert room.answer() == "v3"
        assert room.versions() == ["v3"]

    def test_one_that_dies_meanwhile_is_replaced_when_put_back(self, room: Room) -> None:
        room.replicas = 2
        room.up()
        stack = room.describe(rollout=QUICK)
        oldest = room.ids()[-1]

        def say(line: str) -> None:
            if line.startswith("wait:") and oldest in room.ids():
                room.engine.docker("stop", "--time", "1", oldest)

        outcome = roll_out(stack, "backend", room.web["never healthy"], say, quiet)
        assert outcome.result == "put back"
        assert room.versions() == ["v1", "v1"]
        assert oldest not in room.ids()
        assert room.answer() == "v1"

    def test_one_that_is_dead_at_the_start_counts(self, room: Room) -> None:
        room.replicas = 2
        room.up()
        room.describe(rollout=QUICK)
        room.engine.docker("stop", "--time", "1", room.ids()[0])
        assert room.roll("v2").replicas == 2
        assert room.versions() == ["v2", "v2"]

    def test_a_service_of_which_nothing_ran(self, room: Room) -> None:
        room.compose("rm", "--stop", "--force", "backend")
        room.describe(rollout=QUICK)
        outcome = room.roll("never healthy")
        assert (outcome.result, outcome.before, outcome.replicas) == ("put back", None, 0)
        assert room.ids() == []
        assert room.roll("v1").result == "rolled out"
        assert room.answer() == "v1"


class TestGoingBack:
    def test_it_needs_no_registry_no_secret_and_no_command(self, room: Room, registry: Registry) -> None:
        room.describe(rollout=QUICK)
        assert room.roll("v2").good
        settings = f"registry: {{repository: {registry.address}, user: ops, password: {{file: none}}}}"
        room.describe(rollout=QUICK + ', before: ["false"], after: ["false"]', extra=settings)
        assert room.roll(None).result == "rolled out"
        assert room.versions() == ["v1"]


def test_compose_up_by_hand_undoes_no_rollout(room: Room) -> None:
    room.describe(rollout=QUICK)
    assert room.roll("v2").good
    before = room.ids()
    room.compose("up", "--detach")
    assert room.ids() == before
    assert room.versions() == ["v2"]


def test_an_override_file_of_somebody_else_is_left_alone(room: Room) -> None:
    theirs = "services: {backend: {environment: {A: b}}}\n"
    (room.directory / "compose.override.yaml").write_text(theirs)
    room.describe(rollout=QUICK)
    assert room.roll("v2").good
    assert (room.directory / "compose.override.yaml").read_text() == theirs
    assert any("is not of rollouts' making" in line for line in room.said)


def test_a_worker_ends_what_it_has_in_hand(room: Room) -> None:
    """Nobody sends it requests, so its drain is the time to SIGKILL: also for one that a killed rollout left."""
    services = room.services()
    ends_slowly = "trap 'sleep 4; exit 0' TERM; while :; do sleep 0.2; done"
    health = {"test": ["CMD", "true"], "interval": "1s", "timeout": "3s"}
    limits = {"resources": {"limits": {"cpus": "0.5", "memory": "64M"}}, "replicas": 2}
    services["worker"] = {
        "image": room.web["v1"],
        "command": ["sh", "-c", ends_slowly],
        "healthcheck": health,
        "deploy": limits,
    }
    room.write(services)
    room.compose("up", "--detach", "--wait")
    room.describe(services="    worker: {deadline_s: 20, settle_s: 0, drain_s: 20}")
    room.kill("v2", "retire:", service="worker")
    outcome = room.roll("v2", service="worker")
    assert outcome.result == "rolled out"
    assert outcome.replicas == 2
    dead = ("--since", outcome.began.isoformat(), "--until", outcome.ended.isoformat(), "--filter", "event=die")
    listed = room.engine.docker("events", *dead, "--format", "{{.Actor.Attributes.exitCode}}")
    assert set(listed.split()) == {"0"}


def test_a_stale_table_heals_itself(room: Room) -> None:
    """Somebody made the replica anew by hand: the proxy goes by name, and the next rollout by the new one."""
    room.describe(rollout=QUICK)
    assert room.roll("v2").good
    room.compose("up", "--detach", "--force-recreate", "--no-deps", "--timeout", "1", "backend")
    room.wait_until_served()
    assert room.roll("v3").result == "rolled out"
    assert room.answer() == "v3"
    assert room.versions() == ["v3"]
