"""The rollout planner by value, and by property: a simulated engine on which replicas fail as they like."""

from __future__ import annotations

import dataclasses
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops_platform.rollouts.plan import Goal, Replica, State, Step, next_step

GOAL = Goal(count=1, deadline_s=60, settle_s=5)


def replica(
    name: str, wanted: bool, state: State = "healthy", routed: bool = False, healthy_s: float = 99
) -> Replica:
    return Replica(name, wanted, state, routed, age_s=10, healthy_s=healthy_s, said=f"{name} is {state}")


OLD = replica("old", wanted=False, routed=True)
NEW = replica("new", wanted=True)

CASES: dict[str, tuple[list[Replica], str, str | None]] = {
    "only the old": ([OLD], "start", None),
    "nothing at all": ([], "start", None),
    "new one starts": ([OLD, replica("new", True, "starting")], "wait", None),
    "healthy for a moment": ([OLD, replica("new", True, healthy_s=1)], "wait", None),
    "healthy for long": ([OLD, NEW], "route", None),
    "both serve": ([OLD, dataclasses.replace(NEW, routed=True)], "retire", "old"),
    "old one drained, then the run was killed": (
        [replica("old", False), dataclasses.replace(NEW, routed=True)],
        "retire",
        "old",
    ),
    "done": ([dataclasses.replace(NEW, routed=True)], "done", None),
    "new one exits": ([OLD, replica("new", True, "ended")], "fail", "new"),
    "new one turns red": ([OLD, replica("new", True, "unhealthy")], "fail", "new"),
    "new one dies after it served": ([OLD, replica("new", True, "ended", routed=True)], "fail", "new"),
    "the dead old one": ([replica("old", False, "ended"), NEW], "route", None),
    "nobody is in the table": ([replica("old", False)], "route", None),
    "the only one is dead, and named in the table": ([replica("old", False, "ended", routed=True)], "start", None),
    "its successor is ready": ([replica("old", False, "ended", routed=True), NEW], "route", None),
    "the dead one, after that": (
        [replica("old", False, "ended"), dataclasses.replace(NEW, routed=True)],
        "retire",
        "old",
    ),
    "nobody serves, and one that might is not wanted": (
        [replica("old", False, "starting"), replica("new", True, "starting")],
        "wait",
        None,
    ),
    "a red old one goes on while it is the only one": (
        [replica("old", False, "unhealthy", routed=True)],
        "start",
        None,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_next_step(case: str) -> None:
    replicas, action, whom = CASES[case]
    step = next_step(replicas, GOAL)
    assert (step.action, step.replica) == (action, whom)


def test_never_healthy_fails_at_the_deadline() -> None:
    slow = dataclasses.replace(replica("new", True, "starting"), age_s=61)
    assert next_step([OLD, slow], GOAL).action == "fail"
    assert "60 s" in next_step([OLD, slow], GOAL).why


VETERAN = dataclasses.replace(GOAL, veterans=frozenset({"old"}))
PUT_BACK: dict[str, tuple[list[Replica], str, str | None]] = {
    "it serves": ([replica("old", True, routed=True)], "done", None),
    "it turned red, and serves as well as it can": ([replica("old", True, "unhealthy", routed=True)], "done", None),
    "it died": ([replica("old", True, "ended", routed=True)], "start", None),
    "it died, and its successor is ready": ([replica("old", True, "ended", routed=True), NEW], "route", None),
    "it turned red after its drain": ([replica("old", True, "unhealthy")], "start", None),
    "it starts again with the engine": ([replica("old", True, "starting")], "wait", None),
    "its successor fails too": ([replica("old", True, "ended"), replica("new", True, "ended")], "fail", "new"),
}


@pytest.mark.parametrize("case", PUT_BACK)
def test_next_step_when_a_veteran_is_wanted_again(case: str) -> None:
    replicas, action, whom = PUT_BACK[case]
    step = next_step(replicas, VETERAN)
    assert (step.action, step.replica) == (action, whom)


def test_one_more_of_the_wanted_is_retired() -> None:
    serving = [dataclasses.replace(replica(f"new{i}", True), routed=True) for i in range(3)]
    assert next_step(serving, dataclasses.replace(GOAL, count=2)) == Step(
        "retire", "new2 is healthy and has a replacement", "new2"
    )


Fate = Literal["good", "exits", "red", "never", "dies settling"]


@dataclasses.dataclass
class Simulated:
    """An engine whose new replicas have the fates given; every look lets two seconds pass."""

    replicas: list[Replica]
    fates: list[Fate]
    born: int = 0

    def tick(self) -> None:
        self.replicas = [self._older(replica) for replica in self.replicas]

    def _older(self, one: Replica) -> Replica:
        if one.state == "ended":
            return one
        fate = self.fates[int(one.id[3:])] if one.id.startswith("new") else "good"
        age = one.age_s + 2
        state: State = "healthy"
        if one.id.startswith("new"):
            state = "healthy" if age > 6 and fate in ("good", "dies settling") else "starting"
            if age > 6 and fate in ("exits", "red"):
                state = "ended" if fate == "exits" else "unhealthy"
            if age > 8 and fate == "dies settling":
                state = "ended"
        healthy_s = one.healthy_s + 2 if state == "healthy" and one.state == "healthy" else 0.0
        return dataclasses.replace(one, age_s=age, state=state, healthy_s=healthy_s)

    def act(self, step: Step) -> None:
        if step.action == "start":
            self.replicas.append(Replica(f"new{self.born}", True, "starting", False, 0, 0, "starts"))
            self.born += 1
        elif step.action == "route":
            self.replicas = [dataclasses.replace(r, routed=r.id in step.table) for r in self.replicas]
        elif step.action == "retire":
            self.replicas = [r for r in self.replicas if r.id != step.replica]


@settings(max_examples=300)
@given(
    old=st.integers(1, 4),
    fates=st.lists(st.sampled_from(["good", "exits", "red", "never", "dies settling"]), min_size=5, max_size=5),
    leftovers=st.lists(st.booleans(), max_size=2),
)
def test_capacity_never_falls_and_nothing_broken_serves(old: int, fates: list[Fate], leftovers: list[bool]) -> None:
    """Forward, and back when it fails: as many healthy replicas serve as before, at most one more runs."""
    olds = [Replica(f"old{i}", False, "healthy", True, 100, 100, "old") for i in range(old)]
    left = [
        Replica(f"left{i}", False, "healthy", False, 50, 50, "left by a killed run") for i in range(len(leftovers))
    ]
    world = Simulated([*olds, *left], fates)
    goal = Goal(count=old, deadline_s=30, settle_s=5)

    def run() -> str:
        for _ in range(400):
            step = next_step(world.replicas, goal)
            if step.action in ("done", "fail"):
                return step.action
            world.act(step)
            world.tick()
            serving = [r for r in world.replicas if r.routed]
            assert sum(r.state == "healthy" for r in serving) >= old
            assert all(not r.id.startswith("new") or fates[int(r.id[3:])] == "good" for r in serving)
            assert len(world.replicas) <= old + 1 + len(left)
        raise AssertionError("never came to an end")

    if run() == "fail":
        # Put back: the old ones are wanted again.
        world.replicas = [dataclasses.replace(r, wanted=not r.wanted) for r in world.replicas]
        world.fates = ["good"] * 20
        fates = world.fates
        assert run() == "done"
    assert sum(r.routed for r in world.replicas) == len(world.replicas) == old


@given(
    olds=st.lists(st.sampled_from(["serves", "died while routed", "died", "drained"]), min_size=1, max_size=4),
    failed=st.sampled_from(["starting", "unhealthy", "ended"]),
)
def test_putting_back_replaces_who_died(olds: list[str], failed: State) -> None:
    """Whatever became of the old replicas meanwhile: as many as there were serve in the end, and never fewer."""
    veterans = [
        Replica(
            f"old{i}",
            True,
            "ended" if "died" in what else "healthy",
            what in ("serves", "died while routed"),
            9,
            9,
            what,
        )
        for i, what in enumerate(olds)
    ]
    world = Simulated([*veterans, Replica("bad", False, failed, False, 30, 0, "failed")], ["good"] * 20)
    goal = Goal(len(olds), 30, 5, frozenset(replica.id for replica in veterans))
    serve = olds.count("serves")
    for _ in range(400):
        step = next_step(world.replicas, goal)
        if step.action == "done":
            break
        assert step.action != "fail"
        world.act(step)
        world.tick()
        serving = sum(replica.routed and replica.state == "healthy" for replica in world.replicas)
        assert serving >= serve
        serve = serving
    assert serve == len(world.replicas) == len(olds)
