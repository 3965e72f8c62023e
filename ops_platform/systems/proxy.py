"""The proxy's table of replicas: written to Traefik's file provider, and read back from its API until it holds.

Both happen inside the proxy's container (`docker exec`), so neither is reachable from anywhere else. Traefik takes
a new file in without a reload: no connection is cut.
"""

from __future__ import annotations

import ipaddress
import json
import sys
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
    """The proxy did not take in a table."""


class ProxyAway(ProxyError):
    """The proxy cannot be asked or told, for now: it does not run, or is only starting."""


@dataclass(frozen=True)
class Proxy:
    """Traefik in the container that is called `container`."""

    container: str

    def serving(self, service: str) -> frozenset[str] | None:
        """The hosts that it gives the service's requests to; None while it goes by the service's name.

        Raises ProxyAway.
        """
        printed = self._run("cannot be asked what it serves", "wget", "-q", "-T", "5", "-O", "-", API)
        for found in json.loads(printed):
            if found["name"] == f"{service}-replicas@file":
                return frozenset(str(urlsplit(s["url"]).hostname) for s in found["loadBalancer"]["servers"])
        return None

    def serve(self, service: str, hosts: Collection[str], port: int, health: str) -> None:
        """Give the service's requests to `hosts` alone, as long as the path `health` of one of them answers.

        Returns once the proxy does so. Raises ProxyError, ProxyAway.
        """
        if not hosts:
            raise ProxyError(f"refused to leave {service} without any replica in the proxy's table")
        table = yaml.safe_dump(_table(service, sorted(hosts), port, health), sort_keys=False).encode()
        self._run("cannot be given its table", "sh", "-c", _WRITE, service, stdin=table)
        deadline = time.monotonic() + TAKES_IN_S
        while (found := self.serving(service)) != frozenset(hosts):
            if time.monotonic() > deadline:
                raise ProxyError(
                    f"proxy {self.container[:12]} did not take in the table of {service} within {TAKES_IN_S:.0f} s:"
                    f" wanted {', '.join(sorted(hosts))}, serves {', '.join(sorted(found or ())) or 'by name'}:"
                    " read its log"
                )
            time.sleep(0.05)

    def reach(self, host: str, port: int, path: str) -> None:
        """Ask a replica for its health from where the proxy stands. Raises ProxyAway, which says what was asked."""
        url = f"http://{host}:{port}{path}"
        self._run(f"cannot reach {url}", "wget", "-q", "-T", "5", "-O", "/dev/null", url)

    def connections(self, addresses: Collection[str], port: int) -> int:
        """How many connections the proxy has open to `port` of these addresses. Raises ProxyAway."""
        read = "cat /proc/net/tcp /proc/net/tcp6 2>/dev/null || :"
        listing = self._run("cannot be asked for its connections", "sh", "-c", read).decode()
        return open_connections(listing, addresses, port)

    def _run(self, trouble: str, program: str, *arguments: str, stdin: bytes = b"") -> bytes:
        try:
            return Host(self.container).run(program, arguments, {}, CALL_S, stdin)
        except CommandFailed as error:
            raise ProxyAway(f"proxy {self.container[:12]} {trouble}: {error.advised(())}") from error


def open_connections(listing: str, addresses: Collection[str], port: int) -> int:
    """Of /proc/net/tcp and tcp6 (proc(5)): how many established ones lead to `port` of one of the IPv4 `addresses`.

    A remote address is hexadecimal in the machine's byte order; in tcp6 an IPv4 one is the last of four words.
    """
    wanted = {f"{int.from_bytes(ipaddress.IPv4Address(a).packed, sys.byteorder):08X}:{port:04X}" for a in addresses}
    rows = (line.split() for line in listing.splitlines())
    return sum(1 for row in rows if len(row) > 3 and row[3] == "01" and row[2][-13:] in wanted)


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
