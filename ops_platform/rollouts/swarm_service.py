"""A rollout by the swarm: begun here, done by its own orchestrator, followed to the end and checked.

The swarm starts the new task first, gives it requests once its health check is green, takes the old one out of its
name before it is stopped, and puts the old image back by itself when a new task fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from ops_platform.deployment import Rollout
from ops_platform.rollouts.converge import RolloutFailed, patiently
from ops_platform.systems import swarm
from ops_platform.systems.engine import Engine

LOOK_EVERY_S = 0.3
MONITOR_S = 3.0  # how long the swarm watches a task that has become healthy before it takes the next
ENDED = ("completed", "rollback_completed", "paused", "rollback_paused")


def update(
    engine: Engine,
    name: str,
    image: str,
    settings: Rollout,
    credentials: Mapping[str, str] | None,
    say: Callable[[str], None],
) -> None:
    """Have all tasks of the service `name` run `image`. Raises RolloutFailed, SwarmError, EngineError.

    When it raises RolloutFailed the swarm has been told to put the former image back, or has done so.
    """
    options = [
        *("--update-order", "start-first", "--update-parallelism", "1", "--update-delay", "0s"),
        *("--update-failure-action", "rollback", "--update-max-failure-ratio", "0"),
        *("--update-monitor", f"{MONITOR_S:g}s", "--rollback-order", "start-first", "--rollback-monitor", "0s"),
        *("--stop-grace-period", f"{settings.drain_s:g}s"),
    ]
    swarm.update(name, image, options, credentials)
    try:
        _follow(engine, name, image, settings, say)
    except RolloutFailed:
        if not swarm.service(engine, name).update.startswith("rollback"):
            swarm.roll_back(name)
        raise


def _follow(engine: Engine, name: str, image: str, settings: Rollout, say: Callable[[str], None]) -> None:
    """Every task has `deadline_s` of its own to become healthy; its health check's retries may give it less."""
    ends = time.monotonic() + settings.deadline_s
    told, serving = "", 0
    while True:
        found = patiently(lambda: swarm.service(engine, name), say)
        if found.image == image and found.update in ("", "completed") and found.serving(image) == found.replicas:
            return
        failed = next((task for task in found.tasks if task.image == image and task.state in _BROKEN), None)
        if found.update.startswith("rollback") or found.update == "paused":
            raise RolloutFailed(_why(found, failed))
        if found.serving(image) > serving:
            serving = found.serving(image)
            ends = time.monotonic() + settings.drain_s + MONITOR_S + settings.deadline_s
        line = f"{serving} of {found.replicas} tasks run the new image ({found.update or 'beginning'})"
        if line != told:
            say(line)
        told = line
        if time.monotonic() > ends:
            raise RolloutFailed(
                f"a task of {name} was not healthy within {settings.deadline_s:.0f} s: {_why(found, failed)}"
            )
        time.sleep(LOOK_EVERY_S)


_BROKEN = ("failed", "rejected")


def _why(found: swarm.SwarmService, failed: swarm.Task | None) -> str:
    said = failed.error or failed.state if failed else found.message or "the swarm gives no reason"
    return f"a new task failed: {said}" if failed else said


def serves(found: swarm.SwarmService, image: str) -> bool:
    """Whether the service serves by `image` alone, and no update is under way."""
    return found.update in ("", *ENDED) and found.image == image and found.serving(image) == found.replicas


def wait_for(engine: Engine, name: str, image: str, deadline_s: float, say: Callable[[str], None]) -> None:
    """Wait until the service serves by `image` alone, as after going back. Raises RolloutFailed, SwarmError."""
    ends = time.monotonic() + deadline_s
    while True:
        found = patiently(lambda: swarm.service(engine, name), say)
        if serves(found, image):
            return
        if time.monotonic() > ends:
            raise RolloutFailed(
                f"{found.serving(image)} of {found.replicas} tasks of {name} run {image} after {deadline_s:.0f} s"
                f" ({found.update}: {found.message})"
            )
        time.sleep(LOOK_EVERY_S)
