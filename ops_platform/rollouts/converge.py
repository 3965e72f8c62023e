"""Step by step to the goal: look, decide, act, look again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from ops_platform.rollouts.plan import Goal, Replica, Step, next_step
from ops_platform.systems.engine import EngineUnreachable
from ops_platform.systems.proxy import ProxyAway

Answer = TypeVar("Answer")
LOOK_EVERY_S = 0.2
ENGINE_AWAY_S = 120.0  # an engine that is restarted, its containers with it
STEP_S = 60.0  # what a step may cost beyond the waiting for health and the drain


class RolloutFailed(RuntimeError):
    """A wanted replica will not do, or the goal was not reached in time; the message says which and why."""


class Service(Protocol):
    """A service's replicas and the proxy before them, as a rollout needs them."""

    def replicas(self) -> Sequence[Replica]:
        """What is there now, oldest first."""

    def act(self, step: Step) -> None:
        """Do a step: route, retire or start."""


def patiently(ask: Callable[[], Answer], say: Callable[[str], None]) -> Answer:
    """What `ask` returns, waiting out an engine or a proxy that is away.

    Raises EngineUnreachable or ProxyAway after two minutes, and what else `ask` raises.
    """
    away_since: float | None = None
    told = ""
    while True:
        try:
            return ask()
        except (EngineUnreachable, ProxyAway) as error:
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > ENGINE_AWAY_S:
                raise
            if told != str(error):
                say(f"{error}; waiting up to {ENGINE_AWAY_S:.0f} s for it")
            told = str(error)
            time.sleep(1)


def converge(service: Service, goal: Goal, drain_s: float, say: Callable[[str], None]) -> bool:
    """Bring `service` to `goal`, waiting out an engine or a proxy that is restarted; returns whether a replica came
    or went.

    Raises RolloutFailed, EngineUnreachable or ProxyAway after two minutes, and what looking and acting raise.
    """
    ends = time.monotonic() + (goal.deadline_s + goal.settle_s + drain_s + STEP_S) * (goal.count + 1)
    waiting, changed = "", False

    def turn() -> Step:
        nonlocal waiting, changed
        step = next_step(service.replicas(), goal)
        if step.action in ("done", "fail"):
            return step
        if step.why != waiting:
            say(f"{step.action}: {step.why}")
        waiting = step.why if step.action == "wait" else ""
        changed = changed or step.action in ("start", "retire")
        service.act(step)
        return step

    while (step := patiently(turn, say)).action != "done":
        if step.action == "fail":
            raise RolloutFailed(step.why)
        if time.monotonic() > ends:
            raise RolloutFailed(f"not at its end after its whole time; the last step was {step.action}: {step.why}")
        time.sleep(LOOK_EVERY_S)
    return changed
