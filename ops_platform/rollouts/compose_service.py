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
from ops_platform.systems.proxy import NoProxy, Proxy

FAILED_GRACE_S = 2.0  # what serves nobody has nothing to end in order
LOOK_EVERY_S = 0.1


@dataclass(frozen=True)
class Timing:
    """Seconds that a step took, for the record: `what` is health, drain …"""

    what: str
    replica: str
    seconds: float


@dataclass
class ComposeService:
    """`resolved` is the frozen compose file that new replicas are made from; `wanted_hashes` are Compose's hashes of
    the settings that count as reached."""

    name: str
    settings: Rollout
    compose: Compose
    engine: Engine
    proxy: Proxy | NoProxy
    resolved: Path
    wanted_hashes: Collection[str]
    say: Callable[[str], None]
    timings: list[Timing] = field(default_factory=list)
    last_words: str = ""
    _healthy_since: dict[str, float] = field(default_factory=dict)
    _restarts_before: dict[str, int] | None = None

    def replicas(self) -> list[Replica]:
        """What is there now, oldest first. Raises EngineError, ProxyError."""
        containers = self.engine.containers(self.compose.project, self.name)
        serving = self.proxy.serving(self.name) or frozenset()
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

    def _replica(self, container: Container, routed: bool) -> Replica:
        now = time.monotonic()
        state = _state(container, (self._restarts_before or {}).get(container.id, 0))
        since = self._healthy_since.setdefault(container.id, now) if state == "healthy" else now
        age_s = (datetime.now(UTC) - container.created_at).total_seconds()
        wanted = container.config_hash in self.wanted_hashes
        if state == "healthy" and since == now and wanted and not routed:
            self.timings.append(Timing("health", container.name, age_s))
        if wanted and state in ("unhealthy", "ended"):
            self.last_words = self.engine.log(container.id)
        return Replica(container.id, wanted, state, routed, age_s, now - since, container.described())

    def _route(self, table: Collection[str]) -> None:
        hosts = [identity[:12] for identity in table]
        self.proxy.serve(self.name, hosts, self.settings.port or 0, self.settings.health)

    def _retire(self, identity: str) -> None:
        """Take it out of the proxy's table, let its requests end, stop it, remove it by its id."""
        serving = self.proxy.serving(self.name) or frozenset()
        began = time.monotonic()
        if identity[:12] in serving:
            self._route(serving - {identity[:12]})
            self._drain(identity)
            self.engine.stop(identity, max(1.0, self.settings.drain_s - (time.monotonic() - began)))
            self.timings.append(Timing("drain", identity[:12], time.monotonic() - began))
        else:
            self.engine.stop(identity, FAILED_GRACE_S)
        self.engine.remove(identity)

    def _drain(self, identity: str) -> None:
        """Wait until no connection is open to it, at most `drain_s`; the proxy keeps no idle ones."""
        if self.settings.port is None:
            return
        ends = time.monotonic() + self.settings.drain_s
        while (open_ := self.engine.connections(identity, self.settings.port)) and time.monotonic() < ends:
            time.sleep(LOOK_EVERY_S)
        if open_:
            self.say(f"{open_} connections to {identity[:12]} are still open after {self.settings.drain_s:g} s")


def _state(container: Container, restarts_before: int) -> State:
    """A replica that the engine had to start again since the rollout began counts as ended."""
    if not container.running or container.restarts > restarts_before:
        return "ended"
    if container.health == "healthy":
        return "healthy"
    return "unhealthy" if container.health == "unhealthy" else "starting"
