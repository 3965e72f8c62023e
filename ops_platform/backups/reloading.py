"""Putting a Redis snapshot into a running server, with or without AOF: each key by RESTORE, through redis-cli --pipe.

A server that is given an RDB file ignores it when AOF is on; commands it takes, and writes to its AOF itself.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

import anycrc

from ops_platform.backups.manifest import RedisFacts
from ops_platform.backups.placing import Placed, Unfit
from ops_platform.backups.retrieval import DamagedBackup, Retrieval, check_objects
from ops_platform.stack import Server
from ops_platform.systems.command import Child, CommandFailed, ToolMissing
from ops_platform.systems.progress import Clock
from ops_platform.systems.rdb import Entry, Keyspace, RdbScanner, UnreadableRdb, decode_string
from ops_platform.systems.redis import Redis, RedisError, explain

BATCH_BYTES = 1 << 18
_CRC = anycrc.Model("CRC64-REDIS")
_REPLIES = re.compile(r"errors: (\d+), replies: (\d+)")


@dataclass(frozen=True)
class Reloaded:
    """Every key of the snapshot, and those that last beyond the horizon."""

    whole: Keyspace
    lasting: Keyspace


def place_snapshot(server: Server, retrieval: Retrieval, instead: bool = False) -> Placed:
    """Restore a Redis backup onto `server`, which is empty; with `instead`, in the stead of all it holds.

    Raises Unfit, RedisError, DamagedBackup, NoKey, StoreError, ToolMissing; then the server is as it was, or the
    error says what is left.
    """
    clock = Clock()
    redis = Redis(server)
    check_objects(retrieval)
    _insist_on_fitness(redis, retrieval, instead)
    if instead:
        reload_snapshot(None, retrieval, 0)  # read to its end first: what is there goes only for a sound snapshot
        clock.lap("rehearsal")
        redis.flush()
    try:
        reload_snapshot(redis, retrieval, 0)
    except BaseException as error:
        left = _clean(redis, instead)
        error.add_note(left)
        retrieval.say(left)
        raise
    clock.lap("load")
    return Placed(clock.laps, (), None)


def reload_snapshot(redis: Redis | None, retrieval: Retrieval, horizon_ms: int) -> Reloaded:
    """Stream the snapshot into `redis`, or nowhere, to see whether it can be read. Raises as `place_snapshot`."""
    if redis is None:
        scanner = RdbScanner(horizon_ms)
        _scan(retrieval, scanner, _Feed(scanner, None))
        return Reloaded(scanner.whole, scanner.lasting)
    with redis.pipe(retrieval.left_s()) as child:
        commands = _Commands(child)
        scanner = RdbScanner(horizon_ms, commands.restore, commands.load_function)
        commands.scanner = scanner
        try:
            _scan(retrieval, scanner, _Feed(scanner, commands))
            child.stdin.close()
            printed = child.stdout.read().decode("utf-8", "replace")
            child.finish()
        except BrokenPipeError:
            child.wait()
            raise explain(f"{redis.where} stopped taking keys", _failure(child)) from None
        except CommandFailed as error:
            raise explain(f"{redis.where} refused keys", error) from None
    found = _REPLIES.search(printed)
    if found is None or (int(found[1]), int(found[2])) != (0, commands.count):
        raise RedisError(
            f"{redis.where} took {found[2] if found else 'no'} of {commands.count:,} commands: its own message"
            f" follows\n{printed[-500:]}{child.last_words()}"
        )
    return Reloaded(scanner.whole, scanner.lasting)


def _failure(child: Child) -> CommandFailed:
    return CommandFailed(child.program, None if child.overdue else child.process.returncode, child.last_words())


def _scan(retrieval: Retrieval, scanner: RdbScanner, feed: _Feed) -> None:
    [stored] = retrieval.objects("rdb")
    try:
        retrieval.feed(stored, feed)
        scanner.close()
    except UnreadableRdb as error:
        key = retrieval.store.uri(retrieval.backup.path.key(stored.file))
        raise DamagedBackup(f"{key} is no snapshot that can be read: {error}") from None


class _Feed:
    """Hands the snapshot's bytes to the scanner, and the commands it made of them to the server."""

    def __init__(self, scanner: RdbScanner, commands: _Commands | None) -> None:
        self._scanner, self._commands = scanner, commands

    def write(self, data: bytes) -> int:
        self._scanner.feed(data)
        if self._commands is not None:
            self._commands.flush()
        return len(data)

    def flush(self) -> None:
        """Part of a writable stream; nothing is held back."""


class _Commands:
    """Turns entries into commands of the Redis protocol; `count` of them have been made."""

    scanner: RdbScanner

    def __init__(self, child: Child) -> None:
        self._child = child
        self._pending = bytearray()
        self._database = 0
        self.count = 0

    def restore(self, entry: Entry) -> None:
        if entry.database != self._database:
            self._add(b"SELECT", b"%d" % entry.database)
            self._database = entry.database
        # DUMP's format: type, value, RDB version, and the CRC-64 of all that (cluster.c, createDumpPayload).
        payload = b"%c%b%b" % (entry.kind, entry.value, self.scanner.rdb_version.to_bytes(2, "little"))
        payload += _CRC.calc(payload).to_bytes(8, "little")
        key = decode_string(entry.key)
        self._add(b"RESTORE", key, b"%d" % (entry.expiry_ms or 0), payload, b"REPLACE", b"ABSTTL")

    def load_function(self, code: bytes) -> None:
        self._add(b"FUNCTION", b"LOAD", b"REPLACE", decode_string(code))

    def flush(self) -> None:
        if self._pending:
            self._child.write(bytes(self._pending))
            self._pending.clear()

    def _add(self, *words: bytes) -> None:
        self.count += 1
        self._pending += b"*%d\r\n" % len(words)
        for word in words:
            self._pending += b"$%d\r\n%b\r\n" % (len(word), word)
        if len(self._pending) >= BATCH_BYTES:
            self.flush()


def _insist_on_fitness(redis: Redis, retrieval: Retrieval, instead: bool) -> None:
    facts = retrieval.backup.manifest.source
    assert isinstance(facts, RedisFacts)
    info = redis.info()
    if info.get("role") != "master":
        raise Unfit(f"{redis.where} is a replica, which takes no writes: name its master")
    if _version(info["redis_version"]) < _version(facts.server_version):
        raise Unfit(
            f"{redis.where} is Redis {info['redis_version']}, the backup is of {facts.server_version}, which an older"
            " one cannot load: restore to a server of that version or newer"
        )
    keys = redis.count_keys()
    if keys and not instead:
        raise Unfit(
            f"{redis.where} holds {keys:,} keys: restore onto an empty server, or type its name to replace it"
        )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def _clean(redis: Redis, instead: bool) -> str:
    """Empty a server that was empty; say of one that was not what it holds now."""
    try:
        if not instead:
            redis.flush()
            return f"{redis.where} is empty again, as it was"
        return (
            f"{redis.where} was emptied and holds {redis.count_keys():,} keys of the backup: what was there is in the"
            " backup taken just before; restore that, or run this one again"
        )
    except (RedisError, ToolMissing) as error:
        return f"{redis.where} does not answer, it may hold a part of the backup: {str(error).splitlines()[0]}"


def now_ms() -> int:
    """Unix time in milliseconds, as Redis counts expiry."""
    return time.time_ns() // 1_000_000
