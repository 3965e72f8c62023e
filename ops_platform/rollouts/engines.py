"""The two engines a service can run on, asked and told the same three things."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ops_platform.deployment import Registry, Rollout
from ops_platform.rollouts import swarm_service
from ops_platform.rollouts.compose_service import ComposeService, Timing
from ops_platform.rollouts.converge import RolloutFailed, converge, patiently
from ops_platform.rollouts.plan import Goal
from ops_platform.stack import Stack
from ops_platform.systems import swarm
from ops_platform.systems.compose import Compose
from ops_platform.systems.engine import Container, Engine, by_digest
from ops_platform.systems.proxy import Proxy, ProxyAway

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

    def replace(self, image: str, config: Path, count: int) -> bool:
        """Have `count` replicas of `image` and the settings in `config` serve; whether that took a change.

        Raises RolloutFailed and others."""

    def put_back(self, good: Now, config: Path | None) -> None:
        """Have what was `good` serve again, and nothing else; `config` makes such replicas anew, None where nothing
        ran. Raises likewise."""


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
        """The replicas that serve, or could. Raises EngineError, ProxyError, ProxyAway.

        One that has died counts: how many there were meant to be is how many are there.
        """
        found = self._containers()
        alive = [container for container in found if container.running]
        serving = self._serving(alive)
        good = [container for container in alive if container.host in serving] or alive or list(found)
        hashes = tuple(dict.fromkeys(container.config_hash for container in good))
        count = sum(container.config_hash in hashes for container in found)
        return Now(_image_of(good[0]) if good else None, count, hashes)

    def replace(self, image: str, config: Path, count: int) -> bool:
        wanted = [self.compose.config_hash(config, self.service)]
        return self._converge(config, wanted, count)

    def put_back(self, good: Now, config: Path | None) -> None:
        if config is None:
            for container in patiently(self._containers, self.say):
                self.engine.remove(container.id)
            return
        wanted = [*good.hashes, self.compose.config_hash(config, self.service)]
        there = patiently(self._containers, self.say)
        veterans = frozenset(container.id for container in there if container.config_hash in wanted)
        self._converge(config, wanted, good.count, veterans)

    def _converge(
        self, config: Path, wanted: Sequence[str], count: int, veterans: frozenset[str] | None = None
    ) -> bool:
        replicas = ComposeService(
            name=self.service,
            settings=self.settings,
            compose=self.compose,
            engine=self.engine,
            find_proxy=self._proxy,
            resolved=config,
            wanted_hashes=wanted,
            say=self.say,
            veterans=veterans or frozenset(),
            timings=self.timings,
        )
        goal = Goal(count, self.settings.deadline_s, self.settings.settle_s, veterans)
        try:
            return converge(replicas, goal, self.settings.drain_s, self.say)
        except RolloutFailed as error:
            words = f"; its last words:\n{replicas.last_words}" if replicas.last_words else ""
            raise RolloutFailed(f"{error}{words}") from None

    def _containers(self) -> tuple[Container, ...]:
        return self.engine.containers(self.compose.project, self.service)

    def _serving(self, alive: Sequence[Container]) -> frozenset[str]:
        """The hosts that get requests. Raises ProxyAway when healthy ones are about to be routed, and cannot be."""
        if self.settings.port is None:
            return frozenset(container.host for container in alive)
        proxy = self._proxy()
        serving = proxy.serving(self.service)
        if serving is None:
            for container in alive:
                if container.health == "healthy":
                    proxy.reach(container.host, self.settings.port, self.settings.health)
            return frozenset(container.host for container in alive)
        return serving

    def _proxy(self) -> Proxy:
        found = self.engine.containers(self.compose.project, self.proxy_service)
        running = next((container for container in found if container.running), None)
        if running is None:
            why = f": {found[-1].described()}" if found else ""
            raise ProxyAway(
                f"the proxy ({self.proxy_service} of project {self.compose.project}) does not run: start the stack"
                f" first (docker compose up -d){why}"
            )
        return Proxy(running.id)


def _image_of(container: Container) -> str:
    """Its image by digest where it was asked for so, else by id, which nobody can move as they can a tag."""
    return by_digest(container.image) if "@sha256:" in container.image else container.image_id


@dataclass
class Machines:
    """Docker Swarm, on one machine or many; `registry`'s login goes with an update to every machine that pulls."""

    service: str
    settings: Rollout
    engine: Engine
    registry: Registry | None
    say: Say
    timings: list[Timing] = field(default_factory=list)

    def now(self) -> Now:
        found = swarm.service(self.engine, self.service)
        return Now(found.image, found.replicas)

    def replace(self, image: str, config: Path, count: int) -> bool:
        """Raises RolloutFailed, SwarmError, EngineError. Settings other than the image are `stack deploy`'s."""
        if swarm_service.serves(swarm.service(self.engine, self.service), image):
            return False
        began = time.monotonic()
        self._update(image)
        self.timings.append(Timing("update", self.service, time.monotonic() - began))
        return True

    def put_back(self, good: Now, config: Path | None) -> None:
        assert good.image is not None
        found = patiently(lambda: swarm.service(self.engine, self.service), self.say)
        if found.image != good.image and not found.update.startswith("rollback"):
            self._update(good.image)
        swarm_service.wait_for(self.engine, self.service, good.image, self._deadline_s(good.count), self.say)

    def _update(self, image: str) -> None:
        credentials = self.registry.credentials_for(image) if self.registry else None
        swarm_service.update(self.engine, self.service, image, self.settings, credentials, self.say)

    def _deadline_s(self, count: int) -> float:
        return (self.settings.deadline_s + self.settings.drain_s + swarm_service.MONITOR_S) * count


def orchestrator(stack: Stack, service: str, engine: Engine, say: Say) -> Orchestrator:
    """The one that `stack` names, which has one."""
    settings, rollout = stack.engine, stack.rollouts.services[service]
    assert settings is not None
    if settings.kind == "swarm":
        return Machines(f"{settings.project}_{service}", rollout, engine, stack.registry, say)
    compose = Compose(settings.compose_file, settings.project)
    return OneMachine(service, rollout, compose, engine, settings.proxy, say)
