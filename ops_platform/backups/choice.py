"""Which backup a restore or drill takes: a planner over the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from ops_platform.backups.catalog import Backup


class NoSuchBackup(LookupError):
    """No backup is what was asked for; the message says which there are."""


@dataclass(frozen=True)
class Choice:
    """The backup of this `id`, else the newest taken before `before` (aware), else the newest."""

    id: str | None = None
    before: datetime | None = None

    def __post_init__(self) -> None:
        if self.id is not None and self.before is not None:
            raise ValueError("choose a backup by its id or by a time before which it was taken, not by both")
        if self.before is not None and self.before.tzinfo is None:
            raise ValueError(f"{self.before} has no time zone: write it as 2026-11-23T03:00:00Z")


NEWEST = Choice()


def choose(name: str, backups: Sequence[Backup], choice: Choice) -> Backup:
    """The chosen one of `backups`, which are newest first. Raises NoSuchBackup."""
    for backup in backups:
        if choice.id is not None and backup.path.id != choice.id:
            continue
        if choice.before is not None and backup.manifest.taken_at >= choice.before:
            continue
        return backup
    wanted = f" {choice.id}" if choice.id else f" taken before {choice.before}" if choice.before else ""
    there = ", ".join(backup.path.id for backup in backups[:5]) or "none"
    raise NoSuchBackup(f"{name}: there is no backup{wanted}: the newest are {there} (ops backups lists all)")
