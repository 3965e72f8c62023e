"""Docker Swarm's own orchestrator: one service's update, how it goes, and going back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import docker.errors

from ops_platform.systems.command import CommandFailed, run
from ops_platform.systems.engine import Engine

CALL_S = 60.0


class SwarmError(RuntimeError):
    """The swarm refused a request or has no such service; the message says which."""


@dataclass(frozen=True)
class Task:
    """One replica's task: its image, its state (`running`, `failed` …), the state it should have, and its error."""

    image: str
    state: str
    desired: str
    error: str


@dataclass(frozen=True)
class SwarmService:
    """A service as the swarm describes it; `update` is its newest update's state, `message` what was said of it."""

    image: str
    replicas: int
    update: str
    message: str
    tasks: tuple[Task, ...]

    def serving(self, image: str) -> int:
        """How many tasks of `image` run and shall run."""
        return sum(1 for t in self.tasks if t.image == image and t.state == t.desired == "running")


def service(engine: Engine, name: str) -> SwarmService:
    """Ask for a service and its tasks. Raises SwarmError, EngineError."""
    with engine.asked(f"ask for service {name}") as client:
        try:
            found = client.api.inspect_service(name)  # type: ignore[no-untyped-call]
        except docker.errors.NotFound:
            raise SwarmError(
                f"the swarm has no service {name}: deploy the stack first (docker stack deploy)"
            ) from None
        tasks = client.api.tasks(filters={"service": name})  # type: ignore[no-untyped-call]
    status, spec = found.get("UpdateStatus") or {}, found["Spec"]
    return SwarmService(
        image=spec["TaskTemplate"]["ContainerSpec"]["Image"],
        replicas=int(spec["Mode"]["Replicated"]["Replicas"]),
        update=status.get("State", ""),
        message=status.get("Message", ""),
        tasks=tuple(_task(task) for task in sorted(tasks, key=lambda task: task["CreatedAt"], reverse=True)),
    )


def _task(found: dict[str, Any]) -> Task:
    status = found["Status"]
    return Task(
        found["Spec"]["ContainerSpec"]["Image"], status["State"], found["DesiredState"], status.get("Err", "")
    )


def update(name: str, image: str, options: Sequence[str]) -> None:
    """Begin to update a service to `image`; returns at once. Raises SwarmError, ToolMissing."""
    _docker("service", "update", "--detach", "--no-resolve-image", "--image", image, *options, name)


def roll_back(name: str) -> None:
    """Begin to put a service's former settings back; returns at once. Raises SwarmError, ToolMissing."""
    _docker("service", "rollback", "--detach", name)


def _docker(*arguments: str) -> None:
    try:
        run(["docker", *arguments], {}, program=f"docker {' '.join(arguments[:2])}", deadline_s=CALL_S)
    except CommandFailed as error:
        raise SwarmError(error.advised(_ADVICE)) from error


_ADVICE = (
    ("not a swarm manager", "this engine manages no swarm: run `docker swarm init`, or set engine.kind to compose"),
)
