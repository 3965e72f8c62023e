"""Whether a published backup is in the store as its manifest says: read back, hashed, held against its source."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ops_platform.backups.catalog import Backup, mark_verified
from ops_platform.backups.layout import MANIFEST
from ops_platform.backups.manifest import Manifest, PostgresFacts, UnreadableManifest, read_manifest
from ops_platform.systems.object_store import NoSuchObject, ObjectStore

READ_BYTES = 1 << 20
MANIFEST_READABLE = "manifest_readable"
STORED_AS_DESCRIBED = "stored_as_described"
HOLDS_ITS_SOURCE = "holds_its_source"
CHECKS = {
    MANIFEST_READABLE: "The manifest in the bucket parses and is the one that was published",
    STORED_AS_DESCRIBED: "Every object, read back from the bucket, has the size and SHA-256 of the manifest",
    HOLDS_ITS_SOURCE: "The dumps list every table of the snapshot once; a Redis snapshot was decoded whole",
}


@dataclass(frozen=True)
class Finding:
    """A check's outcome; `faults` is empty when it passed, `numbers` are for the reader."""

    check: str
    faults: tuple[str, ...] = ()
    numbers: Mapping[str, int | str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return not self.faults


def verify(store: ObjectStore, backup: Backup, watch: Callable[[int], None]) -> tuple[Finding, ...]:
    """Check a backup against the store, one finding for each of CHECKS; reads every stored byte once.

    `watch` is told the bytes read as they come. Raises StoreError when the store cannot be asked: that is no
    finding about the backup.
    """
    return (
        _manifest_readable(store, backup),
        _stored_as_described(store, backup, watch),
        holds_its_source(backup.manifest),
    )


def verify_and_mark(store: ObjectStore, backup: Backup) -> tuple[Finding, ...]:
    """`verify`, and the mark beside a backup that passed. Raises StoreError."""
    findings = verify(store, backup, lambda count: None)
    if all(finding.passed for finding in findings):
        mark_verified(store, backup.path, datetime.now(UTC))
    return findings


def _manifest_readable(store: ObjectStore, backup: Backup) -> Finding:
    key = backup.path.key(MANIFEST)
    try:
        body = store.read(key)
        found = read_manifest(body, store.uri(key))
    except (NoSuchObject, UnreadableManifest) as error:
        return Finding(MANIFEST_READABLE, (str(error),))
    faults = () if found == backup.manifest else (f"{store.uri(key)} is not what was published",)
    return Finding(MANIFEST_READABLE, faults, {"version": found.version, "bytes": len(body)})


def _stored_as_described(store: ObjectStore, backup: Backup, watch: Callable[[int], None]) -> Finding:
    faults = []
    total = 0
    for stored in backup.manifest.objects:
        key = backup.path.key(stored.file)
        digest, size = hashlib.sha256(), 0
        try:
            stream = store.open(key)
            while piece := stream.read(READ_BYTES):
                digest.update(piece)
                size += len(piece)
                watch(len(piece))
        except NoSuchObject as error:
            faults.append(str(error))
            continue
        total += size
        if size != stored.stored_bytes:
            faults.append(f"{store.uri(key)} has {size:,} bytes, the manifest says {stored.stored_bytes:,}")
        elif digest.hexdigest() != stored.sha256:
            faults.append(f"{store.uri(key)} has another SHA-256 than the manifest says: it is damaged")
    return Finding(STORED_AS_DESCRIBED, tuple(faults), {"objects": len(backup.manifest.objects), "bytes": total})


def holds_its_source(manifest: Manifest) -> Finding:
    """Hold what the dumps list against what the snapshot held; for Redis, say how many keys were decoded."""
    source = manifest.source
    if not isinstance(source, PostgresFacts):
        return Finding(HOLDS_ITS_SOURCE, (), {"keys": sum(source.keys.values())})
    listed = Counter(oid for stored in manifest.objects for oid in stored.listed_tables)
    faults = [
        f"table {table.schema_name}.{table.name} stands {listed[table.oid]} times in the dumps, not once"
        for table in source.tables
        if listed[table.oid] != 1
    ]
    if not any(stored.content == "schema" for stored in manifest.objects):
        faults.append("there is no dump of the schema")
    return Finding(
        HOLDS_ITS_SOURCE,
        tuple(faults),
        {"tables": len(source.tables), "rows": sum(table.rows for table in source.tables)},
    )
