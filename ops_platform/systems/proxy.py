"""The proxy's table of replicas: written to Traefik's file provider, and read back from its API until it holds.

Both happen inside the proxy's container (`docker exec`), so neither is reachable from anywhere else. Traefik takes
a new file in without a reload: no connection is cut.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

import yaml

from ops_platform.systems.command import CommandFailed, Host

CALL_S = 20.0
TAKES_IN_S = 10.0
API = "http://127.0.0.1:8081/api/http/services?per_page=500"
ROUTES = "/etc/traefik/routes"
_WRITE = f'umask 22; cd {ROUTES} && cat >".$0.new" && mv -f ".$0.new" "$0.yaml"'


class ProxyError(RuntimeError):
    """The proxy cannot be asked, or did not take in a table."""


@dataclass(frozen=True)
class Proxy:
    """Traefik in the container that is called `container`."""

    container: str

    def serving(self, service: str) -> frozenset[str] | None:
        """The hosts that it gives the service's requests to; None while it goes by the service's name.

        Raises ProxyError.
        """
        try:
            printed = Host(self.container).run("wget", ["-q", "-T", "5", "-O", "-", API], {}, CALL_S)
        except CommandFailed as error:
            raise ProxyError(f"proxy {self.container} cannot be asked what it serves: {error.advised(())}") from error
        for found in json.loads(printed):
            if found["name"] == f"{service}-replicas@file":
                return frozenset(str(urlsplit(s["url"]).hostname) for s in found["loadBalancer"]["servers"])
        return None

    def serve(self, service: str, hosts: Collection[str], port: int, health: str) -> None:
        """Give the service's requests to `hosts` alone, as long as the path `health` of one of them answers.

        Returns once the proxy does so. Raises ProxyError.
        """
        if not hosts:
            raise ProxyError(f"refused to leave {service} without any replica in the proxy's table")
        table = yaml.safe_dump(_table(service, sorted(hosts), port, health), sort_keys=False).encode()
        try:
            Host(self.container).run("sh", ["-c", _WRITE, service], {}, CALL_S, table)
        except CommandFailed as error:
            raise ProxyError(f"proxy {self.container}: its table cannot be written: {error.advised(())}") from error
        deadline = time.monotonic() + TAKES_IN_S
        while (found := self.serving(service)) != frozenset(hosts):
            if time.monotonic() > deadline:
                raise ProxyError(
                    f"proxy {self.container} did not take in the table of {service} within {TAKES_IN_S:.0f} s: wanted"
                    f" {', '.join(sorted(hosts))}, serves {', '.join(sorted(found or ())) or 'by name'}: read its log"
                )
            time.sleep(0.05)


@dataclass
class NoProxy:
    """For a service that nobody sends requests to: who serves is remembered here."""

    hosts: frozenset[str] | None = None

    def serving(self, service: str) -> frozenset[str] | None:
        return self.hosts

    def serve(self, service: str, hosts: Collection[str], port: int, health: str) -> None:
        self.hosts = frozenset(hosts)


def _table(service: str, hosts: list[str], port: int, health: str) -> dict[str, object]:
    """Replicas by name, and behind them whoever answers to the service's name: a table that somebody's
    `docker compose up` made stale costs a second, not the site."""
    check = {"path": health, "interval": "1s", "timeout": "3s"}
    replicas = {"healthCheck": check, "servers": [{"url": f"http://{host}:{port}"} for host in hosts]}
    by_name = {"servers": [{"url": f"http://{service}:{port}"}]}
    services = {
        service: {"failover": {"service": f"{service}-replicas", "fallback": f"{service}-name"}},
        f"{service}-replicas": {"loadBalancer": replicas},
        f"{service}-name": {"loadBalancer": by_name},
    }
    return {"http": {"services": services}}
