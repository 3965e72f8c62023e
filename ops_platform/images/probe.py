"""Starts an image as the service that it is for, with what that depends on, and waits for its own health check.

It runs in a project of its own with new volumes and no published port, so it meets no data and nobody meets it. It
finds OPS_PROBE=1 in its environment, for images that would tell the world of themselves.
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
    """The resolved compose file with `image` for the probed service, and nothing in it that reaches outside: no port,
    fixed name or network of the host's; what would be written to a directory of the host goes into a new volume."""
    services = {}
    volumes: dict[str, Any] = {name: {} for name in resolved.get("volumes") or {}}
    for name, service in resolved["services"].items():
        services[name] = {key: value for key, value in service.items() if key not in _OUTSIDE}
        if mounts := [_inside(mount, f"{name}-{i}") for i, mount in enumerate(service.get("volumes") or ())]:
            services[name]["volumes"] = mounts
            volumes |= {mount["source"]: {} for mount in mounts if mount["type"] == "volume" and "source" in mount}
    environment = {**(services[settings.probe].get("environment") or {}), "OPS_PROBE": "1"}
    probed = {**services[settings.probe], "image": image, "pull_policy": "never", "environment": environment}
    if settings.probe_alone:
        probed.pop("depends_on", None)
    services[settings.probe] = probed
    networks: dict[str, Any] = {name: {} for name in resolved.get("networks") or {}}
    return {**resolved, "name": PROJECT, "services": services, "volumes": volumes, "networks": networks}


_OUTSIDE = ("ports", "container_name", "restart", "network_mode")


def _inside(mount: dict[str, Any], volume: str) -> dict[str, Any]:
    """A mount that cannot write to the host: what is mounted to be written becomes a volume of that name."""
    if mount["type"] != "bind" or mount.get("read_only"):
        return mount
    return {"type": "volume", "source": volume, "target": mount["target"]}
