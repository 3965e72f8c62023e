"""Rollouts by Docker Swarm, on a real one and under load."""

from __future__ import annotations

import pytest

from ops_platform.systems.swarm import SwarmError
from tests.rollouts.conftest import BROKEN, Room
from tests.rollouts.test_compose import lost_nothing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_a_rollout_and_a_rollback_under_load(swarm_room: Room) -> None:
    service = f"{swarm_room.project}_backend"
    swarm_room.engine.docker("service", "scale", f"{service}=2")
    with swarm_room.load() as met:
        there = swarm_room.roll("v2")
        back = swarm_room.roll(None)
    lost_nothing("swarm, rollout and rollback of two replicas", met, there, back)
    assert (there.result, back.result) == ("rolled out", "rolled out")
    assert swarm_room.tasks() == ["v1", "v1"]
    assert set(met.versions) == {"v1", "v2"}
    swarm_room.engine.docker("service", "scale", f"{service}=1")


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_image_never_serves(swarm_room: Room, broken: str) -> None:
    with swarm_room.load() as met:
        outcome = swarm_room.roll(broken)
    lost_nothing(f"swarm, an image that {broken}", met, outcome)
    assert outcome.result == "put back"
    assert outcome.why_not
    assert set(met.versions) == {"v1"}
    assert swarm_room.tasks() == ["v1"]
    assert outcome.seconds < 12 + 10


def test_a_killed_rollout_is_finished(swarm_room: Room) -> None:
    """By the next one; what serves is then nothing to do, nor a release of its own, which going back would go to."""
    with swarm_room.load() as met:
        swarm_room.kill("v2", "0 of 1")
        outcome = swarm_room.roll("v2")
    assert (outcome.result, outcome.cut_off) == ("rolled out", swarm_room.web["v2"])
    assert met.lost == []
    assert swarm_room.tasks() == ["v2"]
    assert swarm_room.roll("v2").result == "nothing to do"
    assert swarm_room.roll(None).image == swarm_room.web["v1"]


def test_a_killed_rollout_is_put_back(swarm_room: Room) -> None:
    with swarm_room.load() as met:
        swarm_room.kill("v2", "0 of 1")
        outcome = swarm_room.roll(None)
    assert (outcome.result, outcome.cut_off) == ("rolled out", swarm_room.web["v2"])
    assert met.lost == []
    assert swarm_room.tasks() == ["v1"]


def test_a_service_that_is_not_deployed(swarm_room: Room) -> None:
    swarm_room.describe("swarm", services="    site: {port: 8080}")
    with pytest.raises(SwarmError, match="deploy the stack first"):
        swarm_room.roll("v2", service="site")
