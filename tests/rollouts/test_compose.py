"""Rollouts on one machine, on a real engine and under load: nothing lost, and nothing broken ever serves."""

from __future__ import annotations

import pytest

from tests.rollouts.conftest import BROKEN, RATE, Load, Room

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def lost_nothing(met: Load, seconds: float) -> None:
    assert met.lost == []
    assert met.slowest_s < 1.0
    assert met.requests >= RATE * seconds * 0.99


def test_a_rollout_and_a_rollback_under_load(room: Room, record_property: pytest.RecordProperty) -> None:  # type: ignore[name-defined]
    with room.load() as met:
        there = room.roll("v2")
        back = room.roll(None)
    assert (there.result, back.result) == ("rolled out", "rolled out")
    assert room.versions() == ["v1"]
    assert set(met.versions) == {"v1", "v2"}
    seconds = sum((outcome.ended - outcome.began).total_seconds() for outcome in (there, back))
    lost_nothing(met, seconds)
    print(met, there.timings, back.timings, seconds)


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_image_never_serves(room: Room, broken: str) -> None:
    with room.load() as met:
        outcome = room.roll(broken)
    seconds = (outcome.ended - outcome.began).total_seconds()
    print(outcome, met)
    assert outcome.result == "put back"
    assert set(met.versions) == {"v1"}
    assert room.versions() == ["v1"]
    lost_nothing(met, seconds)
    assert seconds < 20 + 10
