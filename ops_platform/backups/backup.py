"""Taking one backup from start to manifest: lock, sweep, stream, publish; or leave nothing behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from ops_platform.backups.catalog import Backup, erase_unfinished, publish, read_catalog, sweep
from ops_platform.backups.database import back_up_database
from ops_platform.backups.instance import back_up_instance
from ops_platform.backups.layout import BackupPath, new_id
from ops_platform.backups.manifest import Manifest, PostgresFacts, RedisFacts
from ops_platform.backups.order import Order
from ops_platform.backups.verification import holds_its_source
from ops_platform.stack import Stack
from ops_platform.systems.lock import Lock, locked
from ops_platform.systems.object_store import ObjectStore, StoreError
from ops_platform.systems.progress import Meter, Report, telling
from ops_platform.systems.sealing import check_recipients

Say = Callable[[str], None]


class IncompleteBackup(RuntimeError):
    """The dumps do not hold what the snapshot held."""


@dataclass(frozen=True)
class Taken:
    """A backup that now exists, and the keys of killed runs that were removed before it began."""

    backup: Backup
    swept: tuple[str, ...]


def take_backup(stack: Stack, name: str, store: ObjectStore, say: Say, report: Report) -> Taken:
    """Back up the database or Redis instance that `stack` calls `name`, and publish its manifest last.

    Waits for another backup of the same server, at most the stack's backup deadline. Raises what the systems
    raise (PostgresError, RedisError, StoreError, ToolMissing, SecretMissing), LockBusy, NoState, BadRecipient;
    then nothing of this backup is left in the bucket, or, where the bucket is out of reach, it is noted so that
    the next run removes it.
    """
    server = stack.server_of(name)
    check_recipients(stack.encryption.recipients if stack.encryption else ())
    store.check()
    with locked(
        stack.state_dir, server, f"backup of server {server}", stack.backup_deadline.total_seconds(), say
    ) as lock:
        now = datetime.now(UTC)
        swept = _sweep(stack, store, lock, name, now)
        for key in swept:
            say(f"{name}: removed what a killed run left: {key}")
        previous = read_catalog(store, stack.bucket.prefix, name)
        for fault in previous.unreadable:
            say(fault)
        path = BackupPath(stack.bucket.prefix, name, new_id(now))
        meter = Meter(name, previous.backups[0].manifest.raw_bytes if previous.backups else 0)
        lock.note(path.folder)
        try:
            with telling(meter, report):
                manifest = _stream(stack, name, store, path, meter, say, now)
            _insist_on_its_source(manifest)
            publish(store, path, manifest)
        except BaseException:
            with suppress(StoreError):  # the bucket is away: the note stays, and the next run removes the rest
                erase_unfinished(store, path)
                lock.clear()
            raise
        lock.clear()
    return Taken(Backup(path, manifest, verified=False), swept)


def _insist_on_its_source(manifest: Manifest) -> None:
    finding = holds_its_source(manifest)
    if not finding.passed:
        raise IncompleteBackup(
            f"{manifest.name}: {finding.faults[0]} ({len(finding.faults)} faults): nothing was published;"
            " run again, and report it if it recurs"
        )


def _sweep(stack: Stack, store: ObjectStore, lock: Lock, name: str, now: datetime) -> tuple[str, ...]:
    """The killed run may have been another backup of the same server: clean under the name it noted."""
    swept: list[str] = []
    interrupted = lock.interrupted
    if interrupted is not None:
        other = interrupted.removeprefix(f"{stack.bucket.prefix}/").split("/")[0]
        swept += sweep(store, stack.bucket.prefix, other, interrupted, now)
        lock.clear()
    swept += sweep(store, stack.bucket.prefix, name, None, now)
    return tuple(swept)


def _stream(
    stack: Stack, name: str, store: ObjectStore, path: BackupPath, meter: Meter, say: Say, now: datetime
) -> Manifest:
    recipients = stack.encryption.recipients if stack.encryption else ()
    deadline = time.monotonic() + stack.backup_deadline.total_seconds()
    order = Order(store, path, recipients, deadline, meter, say)
    begun = time.monotonic()
    source: PostgresFacts | RedisFacts
    if name in stack.databases:
        database = stack.databases[name]
        objects, source, seconds = back_up_database(stack.servers[database.server], database, name, order)
    else:
        objects, source, seconds = back_up_instance(stack.servers[stack.redis[name].server], name, order)
    return Manifest(
        id=path.id,
        name=name,
        taken_at=now,
        finished_at=datetime.now(UTC),
        seconds={**seconds, "total": round(time.monotonic() - begun, 3)},
        encryption="age" if recipients else None,
        recipients=recipients,
        objects=objects,
        source=source,
    )
