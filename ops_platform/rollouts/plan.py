"""The next step of a rollout on one machine, decided from nothing but what the replicas look like now.

No step depends on an earlier one having been remembered. So a rollout that was killed, an engine that was
restarted and a replica that somebody removed by hand are no cases of their own: whoever comes next asks again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["starting", "healthy", "unhealthy", "ended"]
Action = Literal["route", "retire", "start", "wait", "fail", "done"]


@dataclass(frozen=True)
class Replica:
    """A container of the service.

    `wanted`: made from the image and settings that are rolled out. `routed`: the proxy gives it requests.
    `healthy_s`: for how many seconds it has been healthy; `age_s`: since it was made. `said`: its state in words.
    """

    id: str
    wanted: bool
    state: State
    routed: bool
    age_s: float
    healthy_s: float
    said: str


@dataclass(frozen=True)
class Goal:
    """`count` wanted replicas, each healthy within `deadline_s` and for `settle_s` before it serves.

    `veterans`, when a rollout is put back, are replicas that served before it and are wanted again: one that has died
    meanwhile is replaced, and is no reason to give up.
    """

    count: int
    deadline_s: float
    settle_s: float
    veterans: frozenset[str] | None = None


@dataclass(frozen=True)
class Step:
    """What to do: `table` is who shall be routed (route), `replica` whom to end (retire), `why` is for the log."""

    action: Action
    why: str
    replica: str | None = None
    table: frozenset[str] = frozenset()


def next_step(replicas: Sequence[Replica], goal: Goal) -> Step:  # noqa: PLR0911  a return a case
    """The one next step towards `goal`; `replicas` are in order of age, oldest first.

    A replica that is routed is retired only while more than `goal.count` are, so capacity never falls below what it
    was; at most one replica more than that runs. While nobody serves, nobody who might is retired.
    """
    wanted = [replica for replica in replicas if replica.wanted and not _fallen(replica, goal)]
    others = [replica for replica in replicas if replica not in wanted]
    if failed := next((replica for replica in wanted if _failed(replica, goal)), None):
        return Step("fail", _failed(failed, goal), failed.id)
    routed = {replica.id for replica in replicas if replica.routed}
    table = _table(wanted, others, goal)
    if table and table != routed:
        return Step("route", f"the proxy takes in {len(table - routed)}, {len(table)} then serve", table=table)
    if idle := next((r for r in others if not r.routed and (table or r.state == "ended")), None):
        return Step("retire", f"{idle.said}, serves nobody and is not wanted", idle.id)
    if len(table) > goal.count:
        leaving = _leaving(others or wanted[::-1])
        return Step("retire", f"{leaving.said} and has a replacement", leaving.id)
    if any(replica.id not in table for replica in wanted):
        return Step("wait", "a new replica is not healthy long enough yet")
    if len(wanted) < goal.count:
        return Step("start", f"{len(wanted)} of {goal.count} replicas are the wanted ones")
    return Step("done", f"{goal.count} wanted replicas serve")


def _fallen(replica: Replica, goal: Goal) -> bool:
    """Whether it is a veteran that needs a successor: a red one serves as well as it can while it is routed."""
    red = replica.state == "unhealthy" and not replica.routed
    return replica.id in (goal.veterans or ()) and (replica.state == "ended" or red)


def _failed(replica: Replica, goal: Goal) -> str:
    """Why a wanted replica will not do, or nothing."""
    if replica.id in (goal.veterans or ()):
        return ""
    if replica.state in ("unhealthy", "ended"):
        return replica.said
    if replica.state == "starting" and not replica.routed and replica.age_s > goal.deadline_s:
        return f"{replica.said}, and was not healthy within {goal.deadline_s:.0f} s"
    return ""


def _table(wanted: Sequence[Replica], others: Sequence[Replica], goal: Goal) -> frozenset[str]:
    """Who shall be routed: those that are and can answer, and those wanted that are ready.

    When that is nobody, whoever is healthy: a table that names only replicas that are gone, or none yet. But when a
    rollout is put back those are of the image that failed, and must not serve.
    """
    ready = {r.id for r in wanted if r.state == "healthy" and r.healthy_s >= goal.settle_s}
    kept = {r.id for r in (*wanted, *others) if r.routed and r.state != "ended"}
    found = {r.id for r in others if r.state == "healthy" and goal.veterans is None}
    return frozenset(ready | kept or found)


def _leaving(candidates: Sequence[Replica]) -> Replica:
    return next((replica for replica in candidates if replica.state != "healthy"), candidates[0])
