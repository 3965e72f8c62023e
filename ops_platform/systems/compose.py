"""Docker Compose: a project's file as Compose understands it, and one more replica of one of its services."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops_platform.systems.command import CommandFailed, ToolMissing, run
from ops_platform.systems.engine import EngineUnreachable

CONFIG_S = 60.0
UP_S = 120.0


class ComposeError(RuntimeError):
    """Compose refused a file or a command; the message is Compose's own, after what to do."""


def _program() -> list[str]:
    """The one that is pinned with this package, else the plugin of the docker client. Raises ToolMissing."""
    beside = Path(sys.executable).with_name("docker-compose")
    if os.access(beside, os.X_OK):
        return [str(beside)]
    if shutil.which("docker") is None:
        raise ToolMissing("neither docker-compose nor docker is installed: install this package's requirements")
    return ["docker", "compose"]


@dataclass(frozen=True)
class Compose:
    """A project: its name, and the file that describes it."""

    file: Path
    project: str

    def resolved(self) -> dict[str, Any]:
        """The file with variables, defaults and includes filled in. Raises ComposeError, ToolMissing."""
        printed = self._run(self.file, "config", "--format", "json", deadline_s=CONFIG_S)
        found = json.loads(printed)
        assert isinstance(found, dict)
        return found

    def config_hash(self, resolved: Path, service: str) -> str:
        """Compose's hash of a service's settings, which its containers carry as a label. Raises ComposeError."""
        printed = self._run(resolved, "config", "--hash", service, deadline_s=CONFIG_S)
        return printed.decode().split()[-1]

    def start_one_more(self, resolved: Path, service: str, total: int) -> None:
        """Have `total` replicas of `service`, as `resolved` says; those that run are not touched.

        Raises ComposeError, ToolMissing.
        """
        self._run(
            resolved,
            *("up", "--detach", "--no-deps", "--no-recreate", "--no-build", "--pull", "never"),
            *("--scale", f"{service}={total}", service),
            deadline_s=UP_S,
        )

    def start_and_wait(self, resolved: Path, service: str, deadline_s: float) -> None:
        """Start `service` and what it depends on; returns once all are healthy. Raises ComposeError, ToolMissing."""
        self._run(
            resolved,
            *("up", "--detach", "--no-build", "--wait", "--wait-timeout", f"{deadline_s:.0f}", service),
            deadline_s=deadline_s + UP_S,
        )

    def log(self, resolved: Path, service: str, lines: int = 20) -> str:
        """The end of what the service's containers wrote. Raises ComposeError, ToolMissing."""
        arguments = ("logs", "--no-color", "--no-log-prefix", "--tail", str(lines), service)
        return self._run(resolved, *arguments, deadline_s=CONFIG_S).decode("utf-8", "replace").strip()

    def remove(self, resolved: Path) -> None:
        """Remove the project and its volumes; it need not be there. Raises ComposeError, ToolMissing."""
        self._run(resolved, "down", "--volumes", "--remove-orphans", "--timeout", "2", deadline_s=UP_S)

    def _run(self, file: Path, *arguments: str, deadline_s: float) -> bytes:
        command = [
            *(*_program(), "--project-name", self.project, "--project-directory", str(self.file.parent)),
            *("--file", str(file), *arguments),
        ]
        try:
            return run(command, {}, program=f"docker compose {arguments[0]}", deadline_s=deadline_s)
        except CommandFailed as error:
            if any(sign in error.last_words for sign in _ENGINE_AWAY):
                raise EngineUnreachable(f"docker compose {arguments[0]}: {error.last_words.strip()}") from error
            raise ComposeError(error.advised(_ADVICE)) from error


_ENGINE_AWAY = ("Cannot connect to the Docker daemon", "failed to connect to the docker API", "error during connect")
_ADVICE = (
    ("yaml: ", "the compose file cannot be read"),
    ("no such file or directory", "the compose file is not where stack.yaml's engine.compose_file says"),
    ("port is already allocated", "a port that the service publishes is taken: stop what listens there (ss -ltnp)"),
    ("address already in use", "a port that the service publishes is taken: stop what listens there (ss -ltnp)"),
    ("no space left on device", "the engine's disk is full: make room (docker system df shows what takes it)"),
    ("required variable", "a variable that the compose file needs is not set: see its .env"),
)


def frozen(resolved: Mapping[str, Any], service: str, image: str) -> str:
    """`resolved` as JSON with another image for one service: what a rollout acts from, whoever edits the file."""
    services = {**resolved["services"]}
    wanted = {key: value for key, value in services[service].items() if key != "build"}
    services[service] = {**wanted, "image": image, "pull_policy": "never"}
    return json.dumps({**resolved, "services": services}, indent=1, sort_keys=True)
