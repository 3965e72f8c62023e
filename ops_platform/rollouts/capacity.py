"""Whether the services' limits fit the machine, with the one replica more that a rollout needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GIB = 1 << 30


@dataclass(frozen=True)
class Claim:
    """What one service may take at most and is promised, all its replicas together: cores, and bytes of memory."""

    service: str
    replicas: int
    cpus: float
    memory: int
    reserved_cpus: float
    reserved_memory: int


def claims(resolved: Mapping[str, Any]) -> list[Claim]:
    """The claims of a resolved compose file's services; a limit that is missing counts as zero (see `faults`)."""
    return [_claim(name, service) for name, service in sorted((resolved.get("services") or {}).items())]


def _claim(name: str, service: Mapping[str, Any]) -> Claim:
    deploy = service.get("deploy") or {}
    replicas = int(deploy.get("replicas") or service.get("scale") or 1)
    resources = deploy.get("resources") or {}
    limits, reserved = resources.get("limits") or {}, resources.get("reservations") or {}
    return Claim(
        name,
        replicas,
        replicas * float(limits.get("cpus") or 0),
        replicas * int(limits.get("memory") or 0),
        replicas * float(reserved.get("cpus") or 0),
        replicas * int(reserved.get("memory") or 0),
    )


def faults(found: list[Claim], cpus: float, memory_gb: float, surge: str | None = None) -> list[str]:
    """What does not fit a machine with so many cores and 2^30 bytes of memory; `surge` runs one replica more.

    Memory cannot be lent, so limits must fit with the surge. A core can: for the minute of a surge the promised cores
    must fit, the limits without it.
    """
    said = [f"{claim.service} has no memory limit" for claim in found if not claim.memory]
    said += [f"{claim.service} has no CPU limit" for claim in found if not claim.cpus]
    more = next((claim for claim in found if claim.service == surge), None)
    extra = more.memory // more.replicas if more else 0
    extra_cpus = more.reserved_cpus / more.replicas if more else 0.0
    beside = f" with one more replica of {surge}" if more else ""
    memory = sum(claim.memory for claim in found) + extra
    if memory > memory_gb * GIB:
        said.append(f"memory limits sum to {memory / GIB:.2f} GiB{beside}, the machine has {memory_gb:g}")
    limit = sum(claim.cpus for claim in found)
    if limit > cpus:
        said.append(f"CPU limits sum to {limit:.2f} cores, the machine has {cpus:g}")
    promised = sum(claim.reserved_cpus for claim in found) + extra_cpus
    if promised > cpus:
        said.append(f"CPU reservations sum to {promised:.2f} cores{beside}, the machine has {cpus:g}")
    return said
