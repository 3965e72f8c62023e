"""The throw-away server of a drill: of the manifest's version, where production's own image or binaries are at hand.

It can reach nothing of production: on loopback with a random password, or in a container without a network. No
background worker of TimescaleDB, no other preloaded library runs in it, so restored jobs stay still.
"""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from ops_platform.backups.loading import TIMESCALE
from ops_platform.backups.manifest import PostgresFacts, RedisFacts
from ops_platform.drills.quarters import Quarters
from ops_platform.stack import Drills, Secret, Server
from ops_platform.systems.command import CommandFailed, Host, ToolMissing
from ops_platform.systems.throwaway.container import DIRECTORY, image_of, start_postgres, start_redis, wait_for
from ops_platform.systems.throwaway.postgres import PostgresServer, bin_of
from ops_platform.systems.throwaway.process import ServerDidNotStart, ServerProcess
from ops_platform.systems.throwaway.redis import RedisBinaries, RedisServer, redis_binaries

SUPERUSER = "ops_drill"  # no role of the source is called so, hence every one of them comes back
WATCH_EVERY_S = 1.0
GIGABYTE = 10**9
# What is lost with a crash is made anew by the next drill.
_HASTY = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum": "off",
    "max_locks_per_transaction": "256",
}


class OutOfRoom(RuntimeError):
    """The drill's server was ended because it took more of the disk than it may."""


class Killable(Protocol):
    def kill(self) -> None: ...


@dataclass
class DrillServer:
    """A running throw-away server: as restores see it, what it is, and why it was ended, where it was."""

    server: Server
    described: str
    engine: Killable
    ended_because: str | None = None


@contextmanager
def throw_away(
    source: Server, facts: PostgresFacts | RedisFacts, held: Quarters, drills: Drills, lifetime_s: float
) -> Iterator[DrillServer]:
    """A server for one drill, watched so that it stays within its limits; it ends with the block unless kept.

    `lifetime_s` bounds it whatever happens. Raises ServerDidNotStart.
    """
    with ExitStack() as stack:
        if source.container is not None:
            started = _in_container(source.container, facts, held, lifetime_s)
            host, where = Host(held.name), DIRECTORY
        else:
            started = stack.enter_context(_here(source, facts, held, lifetime_s))
            host, where = Host(), str(held.directory)
        stack.enter_context(_watched(started, host, where, drills))
        yield started


def _in_container(
    container: str, facts: PostgresFacts | RedisFacts, held: Quarters, lifetime_s: float
) -> DrillServer:
    image = image_of(container)
    held.note.container = held.name
    held.write_note()
    if isinstance(facts, PostgresFacts):
        running = start_postgres(held.name, image, facts.server_major, SUPERUSER, _settings(facts), lifetime_s)
        wait_for(running, ["psql", "-h", "127.0.0.1", "-U", SUPERUSER, "-d", "postgres", "-c", "SELECT 1"])
        url = f"postgresql://{SUPERUSER}@127.0.0.1:5432"
    else:
        running = start_redis(held.name, image, lifetime_s)
        wait_for(running, ["redis-cli", "PING"])
        url = "redis://127.0.0.1:6379"
    described = f"container {held.name} of image {image[:19]}, without a network"
    return DrillServer(Server(url=url, container=held.name), described, running)


@contextmanager
def _here(
    source: Server, facts: PostgresFacts | RedisFacts, held: Quarters, lifetime_s: float
) -> Iterator[DrillServer]:
    lifetime = lifetime_s if held.note.kept_until else None  # else it ends with this process
    running: ServerProcess
    if isinstance(facts, PostgresFacts):
        binaries = bin_of(facts.server_major, source.client_tools)
        running = PostgresServer(
            held.directory, settings=_settings(facts), bin=binaries, superuser=SUPERUSER, lifetime_s=lifetime
        )
        url, tools = running.url, str(binaries)
    else:
        chosen = redis_of(facts.server_version)
        running = RedisServer(held.directory, binaries=chosen, lifetime_s=lifetime)
        url, tools = running.url, str(running.link_tools())
    with running:
        secret = Secret(file=str(held.directory / "password"))
        yield DrillServer(
            Server(url=url, password=secret, client_tools=tools), f"{running.name} process at {url}", running
        )
        if held.note.kept_until:
            running.release()


def _settings(facts: PostgresFacts) -> dict[str, str]:
    if TIMESCALE not in facts.extensions:
        return _HASTY
    return {**_HASTY, "shared_preload_libraries": TIMESCALE, "timescaledb.max_background_workers": "0"}


def redis_of(version: str) -> RedisBinaries:
    """The installed server of this major and minor version, else the next newer one. Raises ServerDidNotStart."""
    wanted = _numbers(version)
    on_offer = [binaries for binaries in redis_binaries() if _version_of(binaries) >= wanted]
    if not on_offer:
        raise ServerDidNotStart(
            f"there is no Redis {version} or newer here: apt-get install redis-server, or give the server of"
            " stack.yaml its `container`, whose image is then used"
        )
    return min(on_offer, key=_version_of)


def _version_of(binaries: RedisBinaries) -> tuple[int, ...]:
    printed = subprocess.run(
        [binaries.server, "--version"], capture_output=True, text=True, timeout=30, check=True
    ).stdout
    return _numbers(printed.split("v=")[-1])


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


@contextmanager
def _watched(running: DrillServer, host: Host, where: str, drills: Drills) -> Iterator[None]:
    """Look at the disk once a second, and end the server before it takes what others need. Raises OutOfRoom."""
    left = threading.Event()

    def watch() -> None:
        while running.ended_because is None:
            with suppress(CommandFailed, ToolMissing, ValueError):  # the server has ended: the drill itself says so
                running.ended_because = _too_much(*_disk(host, where), drills)
            if running.ended_because is not None:
                running.engine.kill()
            if left.wait(WATCH_EVERY_S):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except Exception as error:
        if running.ended_because is not None:
            raise OutOfRoom(running.ended_because) from error
        raise
    finally:
        left.set()
        watcher.join(5)


def _too_much(used: int, free: int, drills: Drills) -> str | None:
    """Why a server that uses so many bytes of a disk with so many free must end, None while it may go on."""
    if used > drills.size_limit_gb * GIGABYTE:
        return (
            f"the drill's server took {used / GIGABYTE:.2f} GB, drills.size_limit_gb allows"
            f" {drills.size_limit_gb:g}: raise it if the disk has room"
        )
    if free < drills.keep_free_gb * GIGABYTE:
        return (
            f"only {free / GIGABYTE:.1f} GB of the disk were left, drills.keep_free_gb keeps"
            f" {drills.keep_free_gb:g}: make room, or name another drills.directory"
        )
    return None


def _disk(host: Host, where: str) -> tuple[int, int]:
    """Bytes used below a directory and free on its disk."""
    # du complains of files that went while it counted, and counts on.
    look = 'du -sk "$0" 2>/dev/null | tail -n 1; df -Pk "$0" | tail -n 1'
    used, disk = host.run("sh", ["-c", look, where], {}, 60).decode().splitlines()
    return int(used.split()[0]) * 1024, int(disk.split()[3]) * 1024
