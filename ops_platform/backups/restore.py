"""Restoring one backup: which one, where to; over what lives only by its typed name, after a fresh backup of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ops_platform.backups.backup import take_backup
from ops_platform.backups.catalog import Backup, read_catalog
from ops_platform.backups.choice import Choice, choose
from ops_platform.backups.placing import Placed, place_database
from ops_platform.backups.reloading import place_snapshot
from ops_platform.backups.retrieval import Retrieval
from ops_platform.stack import Stack
from ops_platform.systems.object_store import ObjectStore
from ops_platform.systems.progress import Meter, Report, telling

Say = Callable[[str], None]


class Refused(ValueError):
    """What was asked for would be unsafe or has no meaning; nothing was touched."""


@dataclass(frozen=True)
class Target:
    """Where a restore goes.

    Beside: a new `database` on `server` (by default the backup's own); for Redis an empty `server`. Over what
    lives: `over` holds, typed by a person, the name of what is replaced: the database, or the Redis instance as
    stack.yaml calls it.
    """

    server: str | None = None
    database: str | None = None
    over: str | None = None


@dataclass(frozen=True)
class Restored:
    """What was restored where; `fresh` is the backup that was taken of what was replaced."""

    backup: Backup
    where: str
    placed: Placed
    fresh: Backup | None


def restore_backup(
    stack: Stack,
    name: str,
    store: ObjectStore,
    choice: Choice,
    target: Target,
    identities: tuple[str, ...],
    say: Say,
    report: Report,
) -> Restored:
    """Restore the chosen backup of `name`.

    Raises Refused, NoSuchBackup, DamagedBackup, NoKey, Unfit and what the systems raise (PostgresError, RedisError,
    StoreError, ToolMissing, SecretMissing); then the target is as it was, or the error says what is left.
    """
    kind = "postgres" if name in stack.databases else "redis"
    server = _server_of(stack, name, kind, target)
    live = stack.databases[name].database if name in stack.databases else name
    if target.over is not None and target.over != live:
        raise Refused(f"to restore over {live} its name must be typed as it is; {target.over!r} was typed")
    if kind == "postgres" and target.over is None and not target.database:
        raise Refused(f"{name}: say under which name it is to be restored, or type its own name to replace it")
    backup = choose(name, read_catalog(store, stack.bucket.prefix, name).backups, choice)
    say(f"{name}: restoring {backup.path.id} to {stack.servers[server].where}")
    fresh = None
    if target.over is not None:
        say(f"{name}: taking a backup of what is to be replaced first")
        fresh = take_backup(stack, name, store, say, report).backup
    meter = Meter(name, backup.manifest.raw_bytes)
    deadline = time.monotonic() + stack.backup_deadline.total_seconds()
    retrieval = Retrieval(store, backup, identities, deadline, meter, say)
    with telling(meter, report):
        if kind == "postgres":
            database = target.database or live
            placed = place_database(stack.servers[server], database, retrieval, instead=target.over is not None)
            where = f"{database} at {stack.servers[server].where}"
        else:
            placed = place_snapshot(stack.servers[server], retrieval, instead=target.over is not None)
            where = stack.servers[server].where
    return Restored(backup, where, placed, fresh)


def _server_of(stack: Stack, name: str, kind: str, target: Target) -> str:
    own = stack.server_of(name)
    if target.over is not None and (target.server not in (None, own) or target.database):
        raise Refused(f"{name}: what is replaced lives on {own}: give no other server or database with its name")
    server = target.server or own
    allowed = sorted(key for key, entry in stack.servers.items() if entry.kind == kind)
    if server not in allowed:
        raise Refused(f"{server!r} is no {kind} server of stack.yaml: allowed are {', '.join(allowed)}")
    if kind == "redis" and target.database:
        raise Refused(f"{name} is a Redis instance: it is restored whole, onto a server, without a database's name")
    return server
