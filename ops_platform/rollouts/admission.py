"""What cannot be rolled out without losing requests or data: every reason at once, before anything is done."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ops_platform.deployment import Machine
from ops_platform.rollouts.capacity import claims, faults

_DIGEST = re.compile(r"^\S+@sha256:[0-9a-f]{64}$|^sha256:[0-9a-f]{64}$")


class Refused(RuntimeError):
    """A rollout was refused before it began; nothing was changed."""


def refusals(resolved: Mapping[str, Any], service: str, image: str, machine: Machine | None) -> list[str]:
    """Why `service` of the resolved compose file cannot run a new replica of `image` beside the old one on `machine`.

    Empty when it can.
    """
    own = _own_refusals(resolved, service, image)
    if own or machine is None:
        return own
    return faults(claims(resolved), machine.cpus, machine.memory_gb, service)


def foreign(image: str, repository: str) -> list[str]:
    """Why `image` is not one of `repository`: a CI's key, or a slip, must not bring in what nobody here built."""
    if image.startswith(f"{repository}@"):
        return []
    return [f"image {image} is not of {repository}, where this service's images are pushed"]


def _own_refusals(resolved: Mapping[str, Any], service: str, image: str) -> list[str]:
    services = resolved.get("services") or {}
    found = services.get(service)
    if found is None:
        return [f"the compose file has no service {service}; it has {', '.join(sorted(services)) or 'none'}"]
    reasons = []
    if not _DIGEST.match(image):
        reasons.append(
            f"image {image} is not named by digest (repository@sha256:…): a tag can change under a rollout"
        )
    check = found.get("healthcheck") or {}
    if check.get("disable") or not check.get("test") or check["test"] == ["NONE"]:
        reasons.append(f"{service} has no health check: nothing would tell a good replica from a broken one; add one")
    if found.get("container_name"):
        reasons.append(f"{service} has container_name: a second replica cannot have it too; remove it")
    for port in found.get("ports") or ():
        if str(port.get("published") or "0") != "0":
            reasons.append(
                f"{service} publishes port {port['published']} of the host, which a second replica cannot: publish"
                " the proxy's alone"
            )
    for volume in found.get("volumes") or ():
        if volume.get("type") in ("volume", "bind") and volume.get("source") and not volume.get("read_only"):
            reasons.append(
                f"{service} writes to {volume['type']} {volume['source']}: two replicas at once could damage it; roll"
                " out what keeps nothing, and restart what does by hand"
            )
    if found.get("network_mode") == "host":
        reasons.append(f"{service} uses the host's network: a second replica would find its ports taken")
    return reasons
