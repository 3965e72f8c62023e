"""A Redis server through its own client tools: its facts, a snapshot over the replication protocol, a check.

A snapshot over the replication protocol cannot race with BGSAVE, as copying dump.rdb does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from ops_platform.stack import Server
from ops_platform.systems.command import Child, CommandFailed, Host

QUICK_S = 60.0
# redis-cli says "Transfer finished with success after N bytes" when a diskless snapshot ended at a mark of
# 40 bytes, which then stands at the end of what it wrote to standard output (redis-cli.c, getRDB).
FINISHED = "Transfer finished with success"

_ADVICE = (
    ("WRONGPASS", "the password or user is wrong: check the server's `password` and `url`"),
    ("NOAUTH", "the server wants another password than it was given: check the server's `password`"),
    ("AUTH failed", "the password or user is wrong: check the server's `password` and `url`"),
    ("NOPERM", "the user lacks a right: it needs +info, +ping, +sync, +psync and +replconf"),
    ("Connection refused", "nothing listens there: is the server running, are host and port right?"),
    ("Could not connect", "it cannot be reached: is the server running, are host and port right?"),
    ("I/O Error", "the server went away in the middle: look at its log, then run again"),
    ("Server closed the connection", "the server went away in the middle: look at its log, then run again"),
    ("passed its deadline", "it took longer than allowed: look at the server's log and memory"),
)


class RedisError(RuntimeError):
    """Redis, or a tool that speaks to it, failed; the first line says what, where and what to do."""


def explain(doing: str, error: CommandFailed) -> RedisError:
    """Put advice before a tool's last words."""
    return RedisError(f"{doing}: {error.advised(_ADVICE)}")


class Redis:
    """One server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.where = server.where
        self._host = Host(server.container, (server.client_tools,) if server.client_tools else ())

    def info(self) -> dict[str, str]:
        """INFO's fields. Raises RedisError, ToolMissing."""
        printed = self._cli(["INFO"])
        if "redis_version" not in printed:
            raise explain(f"{self.where} did not tell its facts", CommandFailed("redis-cli INFO", 0, printed))
        return dict(line.split(":", 1) for line in printed.splitlines() if ":" in line)

    @contextmanager
    def snapshot(self, deadline_s: float) -> Iterator[Child]:
        """A running `redis-cli --rdb -`, whose output is the snapshot and, it may be, a mark after it."""
        arguments = [*self._address(), "--rdb", "-"]
        with self._host.running("redis-cli", arguments, self._secrets(), deadline_s) as child:
            child.stdin.close()
            yield child

    @contextmanager
    def check(self, deadline_s: float) -> Iterator[Child]:
        """A running redis-check-rdb that decodes the snapshot written to its standard input."""
        with self._host.running("redis-check-rdb", ["/dev/stdin"], {}, deadline_s) as child:
            yield child

    @contextmanager
    def pipe(self, deadline_s: float) -> Iterator[Child]:
        """A running `redis-cli --pipe`, to be fed commands in the Redis protocol; at its end it prints a count."""
        with self._host.running("redis-cli", [*self._address(), "--pipe"], self._secrets(), deadline_s) as child:
            yield child

    def flush(self) -> None:
        """Delete every key and function. Raises RedisError."""
        for command in (["FLUSHALL"], ["FUNCTION", "FLUSH"]):
            answer = self._cli(command).strip()
            if answer != "OK" and "unknown command" not in answer:  # functions came with Redis 7
                raise explain(f"{self.where} would not be emptied", CommandFailed("redis-cli", 0, answer))

    def count_keys(self) -> int:
        """Keys in all logical databases. Raises RedisError."""
        return sum(int(n) for n in re.findall(r"^db\d+:keys=(\d+)", self._cli(["INFO", "keyspace"]), re.MULTILINE))

    def _cli(self, arguments: Sequence[str]) -> str:
        try:
            printed = self._host.run("redis-cli", [*self._address(), *arguments], self._secrets(), QUICK_S)
            return printed.decode("utf-8", "replace")
        except CommandFailed as error:
            raise explain(f"could not ask {self.where}", error) from None

    def _secrets(self) -> dict[str, str]:
        password = self._server.password
        return {"REDISCLI_AUTH": password.reveal()} if password else {}

    def _address(self) -> list[str]:
        parts = urlsplit(self._server.url)
        address = ["-h", parts.hostname or "127.0.0.1", "-p", str(parts.port or 6379), "--no-auth-warning"]
        if parts.scheme == "rediss":
            address.append("--tls")
        if parts.username:
            address += ["--user", parts.username]
        return address


def keys_read(printed: str) -> int | None:
    """The number of keys that redis-check-rdb says it decoded, None where it says none."""
    found = re.search(r"(\d+) keys read", printed)
    return int(found[1]) if found else None
