"""The backup of one Redis instance: its snapshot, decoded on the way by the server's own checker."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any, cast

from ops_platform.backups.manifest import RedisFacts, StoredObject
from ops_platform.backups.order import Order
from ops_platform.stack import Server
from ops_platform.systems.command import Child, CommandFailed
from ops_platform.systems.object_store import part_size
from ops_platform.systems.rdb import RdbScanner, UnreadableRdb
from ops_platform.systems.redis import FINISHED, Redis, RedisError, explain, keys_read
from ops_platform.systems.sealing import seal


class UnloadableSnapshot(RedisError):
    """What the server sent is no snapshot that a Redis could load."""


def back_up_instance(
    server: Server, label: str, order: Order
) -> tuple[tuple[StoredObject, ...], RedisFacts, dict[str, float]]:
    """Stream a snapshot of the instance into the order's folder.

    Returns the object stored, what the snapshot holds, and seconds by phase. Raises RedisError, StoreError,
    ToolMissing, SecretMissing; what was stored until then is the caller's to remove.
    """
    redis = Redis(server)
    begun = time.monotonic()
    info = redis.info()
    order.meter.expected_bytes = order.meter.expected_bytes or int(info.get("used_memory_dataset", "0"))
    order.say(f"{label}: snapshot of Redis {info['redis_version']} over the replication protocol")
    key = order.key("snapshot.rdb")
    with ExitStack() as stack:
        upload = stack.enter_context(order.store.upload(key, part_size(int(info.get("used_memory", "0")))))
        checker = stack.enter_context(redis.check(order.left_s()))
        child = stack.enter_context(redis.snapshot(order.left_s()))
        source = _Snapshot(child, checker, order)
        try:
            raw = seal(cast(Any, source), upload, order.recipients, lambda piece: None)
        except UnreadableRdb as error:
            raise UnloadableSnapshot(f"{label}: the snapshot of {redis.where} cannot be read: {error}") from None
        _insist_on_whole(source.scanner, child, label, redis.where)
        _insist_on_loadable(source, checker, label, redis.where)
        stored = upload.finish()
    record = order.record(stored, "rdb", raw, begun)
    return (
        (record,),
        RedisFacts(
            server_version=info["redis_version"],
            rdb_version=source.scanner.rdb_version,
            **vars(source.scanner.whole),
        ),
        {"snapshot": record.seconds},
    )


class _Snapshot:
    """The snapshot's bytes as they come, shown to scanner and checker, without the mark that may follow them."""

    def __init__(self, child: Child, checker: Child, order: Order) -> None:
        self._child, self._checker, self._meter = child, checker, order.meter
        self.scanner = RdbScanner()
        self.checker_left = False

    def readinto(self, buffer: memoryview) -> int:
        count = cast(Any, self._child.stdout).readinto(buffer) or 0
        before = self.scanner.length
        self.scanner.feed(buffer[:count])
        ours = self.scanner.length - before if self.scanner.done else count
        self._meter.add(ours)
        if not self.checker_left:
            try:
                self._checker.write(buffer[:ours])
            except BrokenPipeError:
                self.checker_left = True  # its exit code and last words are read at the end
        return ours


def _insist_on_whole(scanner: RdbScanner, child: Child, label: str, where: str) -> None:
    # redis-cli's exit code is no witness: some versions exit 1 after success, some 0 after a failure. Its
    # word that the transfer ended and the snapshot's own end mark are.
    code = child.wait()
    if child.overdue or not scanner.done or FINISHED not in child.last_words():
        failure = CommandFailed("redis-cli --rdb", None if child.overdue else code, child.last_words())
        raise explain(f"{label}: the snapshot of {where} broke off after {scanner.length:,} bytes", failure)


def _insist_on_loadable(source: _Snapshot, checker: Child, label: str, where: str) -> None:
    checker.stdin.close()
    printed = b"".join(iter(lambda: checker.stdout.read(1 << 16), b"")).decode("utf-8", "replace")
    scanned = sum(source.scanner.whole.keys.values())
    try:
        checker.finish()
    except CommandFailed as error:
        raise UnloadableSnapshot(
            f"{label}: redis-check-rdb cannot decode the snapshot of {where}: install the server's own version"
            f" of it, else look at the server's memory\n{error}\n{printed[-500:]}"
        ) from None
    if keys_read(printed) not in (None, scanned):
        raise UnloadableSnapshot(
            f"{label}: redis-check-rdb counts {keys_read(printed)} keys in the snapshot of {where}, the stream"
            f" held {scanned}: nothing was published; run again, and report it if it recurs"
        )
