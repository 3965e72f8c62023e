"""What the streams of one backup share, and the record of each object they stored."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ops_platform.backups.layout import BackupPath, file_name
from ops_platform.backups.manifest import Content, StoredObject
from ops_platform.systems.object_store import ObjectStore, Stored
from ops_platform.systems.progress import Meter


@dataclass(frozen=True)
class Order:
    """What a backup's streams share: where to write, for whom, until when (seconds of the monotonic clock)."""

    store: ObjectStore
    path: BackupPath
    recipients: tuple[str, ...]
    deadline: float
    meter: Meter
    say: Callable[[str], None]

    def left_s(self) -> float:
        return max(1.0, self.deadline - time.monotonic())

    def key(self, stem: str) -> str:
        """The key under which the object of `stem` is stored."""
        return self.path.key(file_name(stem, bool(self.recipients)))

    def record(
        self, stored: Stored, content: Content, raw_bytes: int, begun: float, listed_tables: tuple[int, ...] = ()
    ) -> StoredObject:
        """The manifest's entry of an object whose stream began at `begun` (monotonic seconds)."""
        return StoredObject(
            file=stored.key.rsplit("/", 1)[1],
            content=content,
            stored_bytes=stored.bytes,
            raw_bytes=raw_bytes,
            sha256=stored.sha256,
            seconds=round(time.monotonic() - begun, 3),
            listed_tables=listed_tables,
        )
