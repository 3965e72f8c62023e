"""What backups there are, by their manifests alone, and the carrying out of deletions and sweeps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ops_platform.backups.layout import DRILLED, MANIFEST, VERIFIED, BackupPath, family
from ops_platform.backups.manifest import Manifest, UnreadableManifest, Verification, read_manifest
from ops_platform.backups.retention import Snapshot
from ops_platform.systems.object_store import ListedObject, ObjectStore

ABANDONED_AFTER = timedelta(days=1)


@dataclass(frozen=True)
class Backup:
    """A whole backup: `verified` when every object was read back, `drilled` when a restore of it was proved."""

    path: BackupPath
    manifest: Manifest
    verified: bool
    drilled: bool = False

    def snapshot(self) -> Snapshot:
        """What retention needs to know of it: to count as verified there it must have been drilled."""
        taken = self.manifest.taken_at.astimezone(UTC)
        return Snapshot(self.path.id, taken, self.drilled, self.manifest.stored_bytes)


@dataclass(frozen=True)
class Catalog:
    """All whole backups of one name, newest first; `unreadable` says why some manifest was passed over."""

    backups: tuple[Backup, ...]
    unreadable: tuple[str, ...]


def read_catalog(store: ObjectStore, prefix: str, name: str) -> Catalog:
    """Read every manifest of `name`. Raises StoreError."""
    keys = _keys_by_path(store, prefix, name)
    backups, unreadable = [], []
    for path, listed in keys.items():
        files = {item.key.rsplit("/", 1)[1] for item in listed}
        if MANIFEST not in files:
            continue
        where = store.uri(path.key(MANIFEST))
        try:
            manifest = read_manifest(store.read(path.key(MANIFEST)), where)
            if (manifest.name, manifest.id) != (name, path.id):
                raise UnreadableManifest(f"{where}: speaks of {manifest.name}/{manifest.id}: it is left alone")
        except UnreadableManifest as error:
            unreadable.append(str(error))
        else:
            backups.append(Backup(path, manifest, VERIFIED in files, DRILLED in files))
    backups.sort(key=lambda backup: (backup.manifest.taken_at, backup.path.id), reverse=True)
    return Catalog(tuple(backups), tuple(unreadable))


def publish(store: ObjectStore, path: BackupPath, manifest: Manifest) -> None:
    """Make a backup exist. Raises StoreError."""
    store.write(path.key(MANIFEST), manifest.model_dump_json(indent=1).encode(), "application/json")


def mark_verified(store: ObjectStore, path: BackupPath, now: datetime) -> None:
    """Note that the stored bytes were read back and are what the manifest says. Raises StoreError."""
    mark = Verification(at=now, how="read back")
    store.write(path.key(VERIFIED), mark.model_dump_json(exclude_none=True).encode(), "application/json")


def mark_drilled(store: ObjectStore, path: BackupPath, now: datetime, rto_s: float) -> None:
    """Note that a drill restored the backup and found everything in place. Raises StoreError."""
    mark = Verification(at=now, how="drill", rto_s=rto_s)
    store.write(path.key(DRILLED), mark.model_dump_json(exclude_none=True).encode(), "application/json")


def delete_backup(store: ObjectStore, backup: Backup) -> None:
    """Delete a backup's objects, the manifest last, so that one half deleted can be deleted again.

    Only keys that the manifest names are touched. Raises StoreError.
    """
    for mark in (DRILLED, VERIFIED):  # first: half a backup must not count as a verified one
        store.delete(backup.path.key(mark))
    for stored in backup.manifest.objects:
        store.delete(backup.path.key(stored.file))
    store.delete(backup.path.key(MANIFEST))


def erase_unfinished(store: ObjectStore, path: BackupPath) -> None:
    """Remove what a failed backup left: a manifest first, then open uploads and objects. Raises StoreError."""
    store.delete(path.key(MANIFEST))  # its write may have failed on the way back only
    for upload in store.open_uploads(path.folder):
        store.abort(upload)
    for item in _own(store.list(path.folder), path):
        store.delete(item.key)


def sweep(store: ObjectStore, prefix: str, name: str, interrupted: str | None, now: datetime) -> tuple[str, ...]:
    """Remove what killed runs left: the `interrupted` folder at once, whatever else after a day.

    A folder that has a manifest is a backup and stays. Returns the keys removed. Raises StoreError.
    """
    removed = []
    for upload in store.open_uploads(family(prefix, name)):
        path = BackupPath.of_key(prefix, name, upload.key)
        if path and (path.folder == interrupted or upload.begun < now - ABANDONED_AFTER):
            store.abort(upload)
            removed.append(f"{upload.key} (open upload)")
    for path, listed in _keys_by_path(store, prefix, name).items():
        if any(item.key == path.key(MANIFEST) for item in listed):
            continue
        if path.folder == interrupted or path.begun < now - ABANDONED_AFTER:
            for item in listed:
                store.delete(item.key)
                removed.append(item.key)
    return tuple(removed)


def _keys_by_path(store: ObjectStore, prefix: str, name: str) -> dict[BackupPath, list[ListedObject]]:
    found: dict[BackupPath, list[ListedObject]] = {}
    for item in store.list(family(prefix, name)):
        path = BackupPath.of_key(prefix, name, item.key)
        if path is not None:
            found.setdefault(path, []).append(item)
    return found


def _own(listed: Iterable[ListedObject], path: BackupPath) -> list[ListedObject]:
    return [item for item in listed if BackupPath.of_key(path.prefix, path.name, item.key) == path]
