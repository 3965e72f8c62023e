"""The two engines a service can run on, asked and told the same three things."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ops_platform.deployment import Rollout
from ops_platform.rollouts import swarm_service
from ops_platform.rollouts.compose_service import ComposeService, Timing
from ops_platform.rollouts.converge import RolloutFailed, converge
from ops_platform.rollouts.plan import Goal
from ops_platform.stack import Stack
from ops_platform.systems import swarm
from ops_platform.systems.compose import Compose
from ops_platform.systems.engine import Container, Engine
from ops_platform.systems.proxy import NoProxy, Proxy, ProxyError

Say = Callable[[str], None]


@dataclass(frozen=True)
class Now:
    """What serves before a rollout: the image (None: nothing runs), how many replicas, and their settings' hashes."""

    image: str | None
    count: int
    hashes: tuple[str, ...] = ()


class Orchestrator(Protocol):
    timings: list[Timing]

    def now(self) -> Now:
        """What serves."""

    def replace(self, image: str, config: Path, count: int) -> None:
        """Have `count` replicas of `image` and the settings in `config` serve. Raises RolloutFailed and others."""

    def put_back(self, good: Now, config: Path) -> None:
        """Have what was `good` serve again, and nothing else; `config` makes such replicas anew. Raises likewise."""


@dataclass
class OneMachine:
    """Compose and the proxy on one machine."""

    service: str
    settings: Rollout
    compose: Compose
    engine: Engine
    proxy_service: str
    say: Say
    timings: list[Timing] = field(default_factory=list)

    def now(self) -> Now:
        """The replicas that serve, or could. Raises EngineError, ProxyError."""
        found = self._containers()
        alive = [container for container in found if container.running]
        serving = self._proxy().serving(self.service) or frozenset(container.host for container in alive)
        good = [container for container in alive if container.host in serving] or alive or list(found)
        hashes = tuple(dict.fromkeys(container.config_hash for container in good))
        return Now(_image_of(good[0]) if good else None, len(good), hashes)

    def replace(self, image: str, config: Path, count: int) -> None:
        wanted = [self.compose.config_hash(config, self.service)]
        self._converge(config, wanted, count)

    def put_back(self, good: Now, config: Path) -> None:
        wanted = [*good.hashes, self.compose.config_hash(config, self.service)]
        self._converge(config, wanted, good.count)

    def _converge(self, config: Path, wanted: Sequence[str], count: int) -> None:
        replicas = ComposeService(
            self.service,
            self.settings,
            self.compose,
            self.engine,
            self._proxy(),
            config,
            wanted,
            self.say,
            self.timings,
        )
        goal = Goal(count, self.settings.deadline_s, self.settings.settle_s)
        try:
            converge(replicas, goal, self.settings.drain_s, self.say)
        except RolloutFailed as error:
            words = f"; its last words:\n{replicas.last_words}" if replicas.last_words else ""
            raise RolloutFailed(f"{error}{words}") from None

    def _containers(self) -> tuple[Container, ...]:
        return self.engine.containers(self.compose.project, self.service)

    def _proxy(self) -> Proxy | NoProxy:
        if self.settings.port is None:
            return NoProxy()
        found = self.engine.containers(self.compose.project, self.proxy_service)
        running = next((container for container in found if container.running), None)
        if running is None:
            raise ProxyError(
                f"the proxy ({self.proxy_service} of project {self.compose.project}) does not run: start the stack"
                " first (docker compose up -d)"
            )
        return Proxy(running.id)


def _image_of(container: Container) -> str:
    """Its image by digest where it was asked for so, else by id, which nobody can move as they can a tag."""
    return container.image if "@sha256:" in container.image else container.image_id


@dataclass
class Machines:
    """Docker Swarm, on one machine or many; `credentials` are the registry's, for every machine that pulls."""

    service: str
    settings: Rollout
    engine: Engine
    credentials: Mapping[str, str] | None
    say: Say
    timings: list[Timing] = field(default_factory=list)

    def now(self) -> Now:
        found = swarm.service(self.engine, self.service)
        return Now(found.image, found.replicas)

    def replace(self, image: str, config: Path, count: int) -> None:
        """Raises RolloutFailed, SwarmError, EngineError. Settings other than the image are `stack deploy`'s."""
        began = time.monotonic()
        swarm_service.update(self.engine, self.service, image, self.settings, self.credentials, self.say)
        self.timings.append(Timing("update", self.service, time.monotonic() - began))

    def put_back(self, good: Now, config: Path) -> None:
        assert good.image is not None
        found = swarm.service(self.engine, self.service)
        if found.image != good.image and not found.update.startswith("rollback"):
            swarm_service.update(self.engine, self.service, good.image, self.settings, self.credentials, self.say)
        swarm_service.wait_for(self.engine, self.service, good.image, self._deadline_s(good.count), self.say)

    def _deadline_s(self, count: int) -> float:
        return (self.settings.deadline_s + self.settings.drain_s + swarm_service.MONITOR_S) * count


def orchestrator(stack: Stack, service: str, engine: Engine, say: Say) -> Orchestrator:
    """The one that `stack` names, which has one. Raises SecretMissing."""
    settings, rollout = stack.engine, stack.rollouts.services[service]
    assert settings is not None
    if settings.kind == "swarm":
        credentials = stack.registry.credentials() if stack.registry else None
        return Machines(f"{settings.project}_{service}", rollout, engine, credentials, say)
    compose = Compose(settings.compose_file, settings.project)
    return OneMachine(service, rollout, compose, engine, settings.proxy, say)
