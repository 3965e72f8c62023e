"""Starts an image as the service that it is for, with what that depends on, and waits for its own health check.

It runs in a project of its own with new volumes and no published port, so it meets no data and nobody meets it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ops_platform.deployment import Image
from ops_platform.systems.compose import Compose, ComposeError

PROJECT = "ops-probe"


class ProbeFailed(RuntimeError):
    """The image did not become healthy; the message ends with what it wrote."""


def probe(compose: Compose, image: str, settings: Image, scratch: Path) -> None:
    """Start `image` and return once it is healthy. Raises ProbeFailed, ComposeError, ToolMissing."""
    trial = Compose(compose.file, PROJECT)
    scratch.parent.mkdir(parents=True, exist_ok=True)
    scratch.touch(mode=0o600)
    scratch.write_text(json.dumps(throwaway(trial.resolved(), settings, image)), encoding="utf-8")
    trial.remove(scratch)  # one that was killed
    try:
        trial.start_and_wait(scratch, settings.probe, settings.probe_deadline_s)
    except ComposeError as error:
        words = trial.log(scratch, settings.probe)
        raise ProbeFailed(
            f"started as {settings.probe} it did not become healthy: {error}\nit wrote:\n{words}"
        ) from None
    finally:
        trial.remove(scratch)
        scratch.unlink(missing_ok=True)


def throwaway(resolved: Mapping[str, Any], settings: Image, image: str) -> dict[str, Any]:
    """The resolved compose file with `image` for the probed service, without ports, restarts and fixed names."""
    services = {}
    for name, service in resolved["services"].items():
        dropped = ("ports", "container_name", "restart")
        services[name] = {key: value for key, value in service.items() if key not in dropped}
    probed = {**services[settings.probe], "image": image, "pull_policy": "never"}
    if settings.probe_alone:
        probed.pop("depends_on", None)
    services[settings.probe] = probed
    volumes: dict[str, Any] = {name: {} for name in resolved.get("volumes") or {}}
    networks: dict[str, Any] = {name: {} for name in resolved.get("networks") or {}}
    return {**resolved, "name": PROJECT, "services": services, "volumes": volumes, "networks": networks}
