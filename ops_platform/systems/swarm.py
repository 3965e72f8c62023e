"""Docker Swarm's own orchestrator: one service's update, how it goes, and going back."""

from __future__ import annotations

import base64
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker.errors
from docker.auth import INDEX_NAME, INDEX_URL, resolve_repository_name

from ops_platform.systems.command import CommandFailed, run
from ops_platform.systems.engine import Engine, by_digest

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
        image=by_digest(spec["TaskTemplate"]["ContainerSpec"]["Image"]),
        replicas=int(spec["Mode"]["Replicated"]["Replicas"]),
        update=status.get("State", ""),
        message=status.get("Message", ""),
        tasks=tuple(_task(task) for task in sorted(tasks, key=lambda task: task["CreatedAt"], reverse=True)),
    )


def _task(found: dict[str, Any]) -> Task:
    status = found["Status"]
    image = by_digest(found["Spec"]["ContainerSpec"]["Image"])
    return Task(image, status["State"], found["DesiredState"], status.get("Err", ""))


def update(name: str, image: str, options: Sequence[str], credentials: Mapping[str, str] | None) -> None:
    """Begin to update a service to `image`; returns at once. `credentials` go with it to every machine that pulls.

    Raises SwarmError, ToolMissing.
    """
    begin = ("service", "update", "--detach", "--no-resolve-image", "--image", image, *options)
    if credentials is None:
        return _docker(*begin, name)
    host, _ = resolve_repository_name(image)
    with _login_file(name, INDEX_URL if host == INDEX_NAME else host, credentials) as directory:
        return _docker(*begin, "--with-registry-auth", name, DOCKER_CONFIG=str(directory))


@contextmanager
def _login_file(name: str, host: str, credentials: Mapping[str, str]) -> Iterator[Path]:
    """The client takes a login only from its configuration; one that a killed run left is removed first."""
    directory = Path(tempfile.gettempdir()) / f"ops-login-{os.getuid()}-{name}"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700)  # fails where somebody else has put one
    try:
        pair = f"{credentials['username']}:{credentials['password']}".encode()
        auths = {host: {"auth": base64.b64encode(pair).decode()}}
        (directory / "config.json").write_text(json.dumps({"auths": auths}), encoding="utf-8")
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def roll_back(name: str) -> None:
    """Begin to put a service's former settings back; returns at once. Raises SwarmError, ToolMissing."""
    _docker("service", "rollback", "--detach", name)


def _docker(*arguments: str, **environment: str) -> None:
    try:
        run(["docker", *arguments], environment, program=f"docker {' '.join(arguments[:2])}", deadline_s=CALL_S)
    except CommandFailed as error:
        raise SwarmError(error.advised(_ADVICE)) from error


_ADVICE = (
    ("not a swarm manager", "this engine manages no swarm: run `docker swarm init`, or set engine.kind to compose"),
)
