"""Rollouts on one machine, on a real engine and under load: nothing lost, and nothing broken ever serves."""

from __future__ import annotations

import pytest

from ops_platform.rollouts.attempt import Outcome
from tests.conftest import FIGURES
from tests.rollouts.conftest import BROKEN, QUICK, UNREACHABLE, Room
from tests.rollouts.load import Load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def lost_nothing(what: str, met: Load, *outcomes: Outcome) -> None:
    """Every request of the load was answered within a second, from before the outcomes began until they ended."""
    seconds = sum(outcome.seconds for outcome in outcomes)
    steps = ", ".join(f"{t.what} {t.seconds:.1f} s" for outcome in outcomes for t in outcome.timings)
    FIGURES.append(
        f"{what}: {seconds:.1f} s ({steps or 'put back'}); {met.requests} requests, {met.rate:g} a second,"
        f" {len(met.lost)} lost, slowest {met.slowest_s * 1000:.0f} ms, p99 {met.p99_s * 1000:.0f} ms"
    )
    assert met.lost == []
    assert met.slowest_s < 1.0
    assert met.requests >= met.rate * seconds * 0.99


def seconds(outcome: Outcome, what: str) -> float:
    return sum(timing.seconds for timing in outcome.timings if timing.what == what)


def test_a_rollout_and_a_rollback_under_load(room: Room) -> None:
    with room.load() as met:
        there = room.roll("v2")
        back = room.roll(None)
    lost_nothing("compose, rollout and rollback of one replica", met, there, back)
    assert (there.result, back.result) == ("rolled out", "rolled out")
    assert room.versions() == ["v1"]
    assert set(met.versions) == {"v1", "v2"}


def test_a_rollout_takes_its_health_its_drain_and_five_seconds(room: Room) -> None:
    """With a health check that itself asks for six good seconds, as infrastructure/compose.yaml has them."""
    services = room.services()
    probe = "import os, time, urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=2)"
    services["backend"]["healthcheck"]["test"][-1] = f"{probe}; assert time.time() - os.stat('/proc/1').st_ctime > 6"
    services["backend"]["healthcheck"]["retries"] = 15
    room.write(services)
    room.describe(rollout=QUICK)
    outcome = room.roll("v2")
    own = seconds(outcome, "health") + seconds(outcome, "drain")
    FIGURES.append(
        f"compose, rollout of one replica: {outcome.seconds:.1f} s, of which its health and drain {own:.1f} s"
    )
    assert outcome.result == "rolled out"
    assert outcome.seconds <= own + 5


def test_three_replicas_one_after_the_other(room: Room) -> None:
    room.replicas = 3
    room.up()
    room.describe(rollout=QUICK)
    with room.load() as met:
        outcome = room.roll("v2")
    lost_nothing("compose, rollout of three replicas", met, outcome)
    assert room.versions() == ["v2"] * 3


def test_requests_in_flight_end(room: Room) -> None:
    """Answers that take three seconds, of a service that dies at once on SIGTERM: the drain waits for them."""
    with room.load("/api/x") as met:
        room.describe(rollout=QUICK)
        with room.slow_requests(seconds_each=3.0) as answers:
            outcome = room.roll("v2")
    lost_nothing("compose, rollout with answers in flight that take 3 s", met, outcome)
    assert set(answers) <= {"v1", "v2"}
    assert answers.count("v1") >= 2
    assert seconds(outcome, "drain") >= 0.9  # whatever the moment, one of two requests had that long to go


@pytest.mark.parametrize("broken", (*BROKEN, UNREACHABLE))
def test_a_broken_image_never_serves(room: Room, broken: str) -> None:
    with room.load() as met:
        outcome = room.roll(broken)
    lost_nothing(f"compose, an image that {broken}", met, outcome)
    assert outcome.result == "put back"
    assert outcome.why_not
    assert set(met.versions) == {"v1"}
    assert room.versions() == ["v1"]
    assert outcome.seconds < 12 + 10


def test_images_of_the_last_three_rollouts_stay(room: Room) -> None:
    room.describe(rollout=QUICK)
    first = room.engine.docker("image", "inspect", "--format", "{{.Id}}", room.web["v1"])
    for version in ("v2", "v3", "v4"):
        last = room.roll(version)
    repository = room.web["v1"].partition("@")[0]
    listed = room.engine.docker("images", "--digests", "--format", "{{.Repository}}@{{.Digest}}", repository).split()
    assert {room.web[version] for version in ("v2", "v3", "v4")} <= set(listed)
    assert room.web["v1"] in last.pruned
    left = room.engine.docker("images", "--all", "--quiet", "--no-trunc").split()
    assert first not in left  # no tag that a build gave it keeps it on the disk
    assert room.roll(None).image == room.web["v3"]
    assert room.roll(None).image == room.web["v2"]
