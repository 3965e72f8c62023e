"""Rollouts by Docker Swarm, on a real one and under load."""

from __future__ import annotations

import pytest

from tests.rollouts.conftest import BROKEN, Room
from tests.rollouts.test_compose import lost_nothing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_a_rollout_and_a_rollback_under_load(swarm_room: Room) -> None:
    with swarm_room.load() as met:
        there = swarm_room.roll("v2")
        back = swarm_room.roll(None)
    print(met, there, back, swarm_room.said)
    assert (there.result, back.result) == ("rolled out", "rolled out")
    assert swarm_room.tasks() == ["v1", "v1"]
    assert set(met.versions) == {"v1", "v2"}
    lost_nothing(met, sum((outcome.ended - outcome.began).total_seconds() for outcome in (there, back)))


@pytest.mark.parametrize("broken", [broken for broken in BROKEN if broken != "dies after 5 s"])
def test_a_broken_image_never_serves(swarm_room: Room, broken: str) -> None:
    with swarm_room.load() as met:
        outcome = swarm_room.roll(broken)
    print(outcome, met, swarm_room.said)
    seconds = (outcome.ended - outcome.began).total_seconds()
    assert outcome.result == "put back"
    assert set(met.versions) == {"v1"}
    assert swarm_room.tasks() == ["v1", "v1"]
    lost_nothing(met, seconds)
    assert seconds < 20 + 10
