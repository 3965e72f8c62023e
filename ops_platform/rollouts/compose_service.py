"""A service on one machine: its containers by Compose and the Docker Engine, its requests by the proxy."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ops_platform.deployment import Rollout
from ops_platform.rollouts.plan import Replica, State, Step
from ops_platform.systems.compose import Compose
from ops_platform.systems.engine import Container, Engine
from ops_platform.systems.proxy import Proxy, ProxyAway

FAILED_GRACE_S = 2.0  # what was never healthy has nothing to end in order
LOOK_EVERY_S = 0.1


@dataclass(frozen=True)
class Timing:
    """Seconds that a step took, for the record: `what` is before, health, drain …, of which replica or command."""

    what: str
    subject: str
    seconds: float


@dataclass
class ComposeService:
    """`resolved` is the frozen compose file that new replicas are made from; `wanted_hashes` are Compose's hashes of
    the settings that count as reached, `veterans` replicas that served before. `find_proxy` finds the one that runs
    now; nobody sends a service without a port requests, so there it is not asked for, and whoever is healthy counts
    as routed.
    """

    name: str
    settings: Rollout
    compose: Compose
    engine: Engine
    find_proxy: Callable[[], Proxy]
    resolved: Path
    wanted_hashes: Collection[str]
    say: Callable[[str], None]
    veterans: frozenset[str] = frozenset()
    timings: list[Timing] = field(default_factory=list)
    last_words: str = ""
    _healthy_since: dict[str, float] = field(default_factory=dict)
    _restarts_before: dict[str, int] | None = None
    _reached: set[str] = field(default_factory=set)

    def replicas(self) -> list[Replica]:
        """What is there now, oldest first. Raises EngineError, ProxyAway."""
        containers = self.engine.containers(self.compose.project, self.name)
        serving = self._serving()
        if self._restarts_before is None:
            self._restarts_before = {container.id: container.restarts for container in containers}
        return [self._replica(container, container.host in serving) for container in containers]

    def act(self, step: Step) -> None:
        """Do a step. Raises EngineError, ProxyError, ComposeError."""
        if step.action == "route":
            self._route(step.table)
        elif step.action == "retire":
            assert step.replica is not None
            self._retire(step.replica)
        elif step.action == "start":
            total = len(self.engine.containers(self.compose.project, self.name)) + 1
            self.compose.start_one_more(self.resolved, self.name, total)

    def _serving(self) -> frozenset[str]:
        if self.settings.port is None:
            return frozenset()
        return self.find_proxy().serving(self.name) or frozenset()

    def _replica(self, container: Container, routed: bool) -> Replica:
        now = time.monotonic()
        before = self._restarts_before or {}
        state, said = _state(container, before.get(container.id, 0)), container.described()
        wanted, veteran = container.config_hash in self.wanted_hashes, container.id in self.veterans
        unproved = state == "healthy" and wanted and not routed and not veteran
        if unproved and (trouble := self._trouble_to_reach(container)):
            state, said, unproved = "starting", f"{said}, but {trouble}", False
        since = self._healthy_since.setdefault(container.id, now) if state == "healthy" else now
        healthy_s = now - since
        age_s = (datetime.now(UTC) - container.created_at).total_seconds()
        if unproved and healthy_s == 0 and container.id not in before:
            self.timings.append(Timing("health", container.name, age_s))
        if wanted and state in ("unhealthy", "ended"):
            self.last_words = self.engine.log(container.id)
        if self.settings.port is None:
            routed = state == "healthy" and (not wanted or veteran or healthy_s >= self.settings.settle_s)
        return Replica(container.id, wanted, state, routed, age_s, healthy_s, said)

    def _trouble_to_reach(self, container: Container) -> str:
        """Why the proxy gets no answer from a replica that calls itself healthy: it listens on loopback, say."""
        if self.settings.port is None or container.id in self._reached:
            return ""
        try:
            self.find_proxy().reach(container.host, self.settings.port, self.settings.health)
        except ProxyAway as error:
            return str(error)
        self._reached.add(container.id)
        return ""

    def _route(self, table: Collection[str]) -> None:
        hosts = [identity[:12] for identity in table]
        self.find_proxy().serve(self.name, hosts, self.settings.port or 0, self.settings.health)

    def _retire(self, identity: str) -> None:
        """Take it out of the proxy's table, let its work end, stop it, remove it by its id."""
        began = time.monotonic()
        serving = self._serving()
        found = self.engine.containers(self.compose.project, self.name)
        container = next((one for one in found if one.id == identity), None)
        if identity[:12] in serving:
            self._route(serving - {identity[:12]})
        if container is not None and (container.health == "healthy" or identity[:12] in serving):
            self._drain(container)
            self.engine.stop(identity, max(1.0, self.settings.drain_s - (time.monotonic() - began)))
            self.timings.append(Timing("drain", container.name, time.monotonic() - began))
        else:
            self.engine.stop(identity, FAILED_GRACE_S)
        self.engine.remove(identity)

    def _drain(self, container: Container) -> None:
        """Wait until the proxy has no connection to it, at most `drain_s`; the proxy keeps no idle ones."""
        if self.settings.port is None:
            return
        proxy = self.find_proxy()
        ends = time.monotonic() + self.settings.drain_s
        while (open_ := proxy.connections(container.addresses, self.settings.port)) and time.monotonic() < ends:
            time.sleep(LOOK_EVERY_S)
        if open_:
            self.say(f"{open_} connections to {container.name} are still open after {self.settings.drain_s:g} s")


def _state(container: Container, restarts_before: int) -> State:
    """A replica that the engine had to start again since the rollout began counts as ended."""
    if not container.running or container.restarts > restarts_before:
        return "ended"
    if container.health == "healthy":
        return "healthy"
    return "unhealthy" if container.health == "unhealthy" else "starting"
