"""What the streams of one restore share: an object flows out of the bucket whole, or its damage is named."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ops_platform.backups.catalog import Backup
from ops_platform.backups.manifest import Content, StoredObject
from ops_platform.stack import Encryption
from ops_platform.systems.object_store import NoSuchObject, ObjectStore
from ops_platform.systems.progress import Meter
from ops_platform.systems.sealing import Sink
from ops_platform.systems.unsealing import READ_BYTES, Damaged, Hashed, WrongKey, recipients_of, unseal


class DamagedBackup(RuntimeError):
    """What the bucket holds is not what the manifest says: this backup is good for nothing."""


class NoKey(RuntimeError):
    """The backup is encrypted, and no key at hand opens it."""


@dataclass(frozen=True)
class Retrieval:
    """Where a restore reads, with which age identities, until when (monotonic seconds)."""

    store: ObjectStore
    backup: Backup
    identities: tuple[str, ...]
    deadline: float
    meter: Meter
    say: Callable[[str], None]

    def left_s(self) -> float:
        return max(1.0, self.deadline - time.monotonic())

    def objects(self, *contents: Content) -> list[StoredObject]:
        """The backup's objects of these contents, the biggest first."""
        found = [stored for stored in self.backup.manifest.objects if stored.content in contents]
        return sorted(found, key=lambda stored: -stored.raw_bytes)

    def feed(self, stored: StoredObject, sink: Sink) -> None:
        """Stream one object, opened, into `sink`.

        Raises DamagedBackup when the stored bytes are not the manifest's, even where the sink fails over them
        first; else what the sink raises, StoreError, NoKey.
        """
        where = self.store.uri(self.backup.path.key(stored.file))
        try:
            source = Hashed(self.store.open(self.backup.path.key(stored.file)))
        except NoSuchObject as error:
            raise DamagedBackup(f"{error}: take another backup (ops backups lists them)") from None
        encrypted = self.backup.manifest.encryption is not None
        problem: Exception | None = None
        try:
            unseal(source, _Metered(sink, self.meter), self.identities, encrypted)
        except WrongKey as error:
            raise NoKey(f"{where}: {error}") from None
        except (Damaged, BrokenPipeError) as error:
            problem = error
        while source.read(READ_BYTES):
            pass  # to the end, so that damage is told from a target that would not take it
        if (source.bytes, source.sha256()) != (stored.stored_bytes, stored.sha256) or isinstance(problem, Damaged):
            raise DamagedBackup(
                f"{where} is damaged: {problem or 'its SHA-256 is not that of the manifest'}"
                f" ({source.bytes:,} bytes, the manifest says {stored.stored_bytes:,}): take another backup"
                " (ops backups lists them)"
            )
        if problem is not None:
            raise problem

    def text(self, stored: StoredObject) -> str:
        """A small object, opened. Raises as `feed` does."""
        kept = _Kept()
        self.feed(stored, kept)
        return kept.body.decode("utf-8")


def check_objects(retrieval: Retrieval) -> None:
    """Ask for every object's size and the key's fitness, before anything is touched. Raises DamagedBackup, NoKey."""
    manifest, path = retrieval.backup.manifest, retrieval.backup.path
    if manifest.encryption:
        if not retrieval.identities:
            raise NoKey(
                f"{path.name}/{path.id} is encrypted and no private key is at hand: name it as encryption.identity"
                " in stack.yaml, or give ops restore --identity FILE"
            )
        try:
            ours = recipients_of(retrieval.identities)
        except WrongKey as error:
            raise NoKey(str(error)) from None
        if not set(ours) & set(manifest.recipients):
            raise NoKey(
                f"{path.name}/{path.id} was not encrypted for the key given ({', '.join(ours)}): it opens with the"
                f" private key of {' or '.join(manifest.recipients)}"
            )
    for stored in manifest.objects:
        where = retrieval.store.uri(path.key(stored.file))
        try:
            size = retrieval.store.size(path.key(stored.file))
        except NoSuchObject:
            raise DamagedBackup(f"{where} is gone: take another backup (ops backups lists them)") from None
        if size != stored.stored_bytes:
            raise DamagedBackup(
                f"{where} is damaged: it has {size:,} bytes, the manifest says {stored.stored_bytes:,}:"
                " take another backup (ops backups lists them)"
            )


def identities_of(encryption: Encryption | None) -> tuple[str, ...]:
    """The private keys that stack.yaml names, one a line as age-keygen writes them. Raises SecretMissing."""
    if encryption is None or encryption.identity is None:
        return ()
    return parse_identities(encryption.identity.reveal())


def parse_identities(text: str) -> tuple[str, ...]:
    """The keys in an age identity file, without its comments."""
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


class _Metered:
    def __init__(self, sink: Sink, meter: Meter) -> None:
        self._sink, self._meter = sink, meter

    def write(self, data: bytes) -> int:
        self._meter.add(len(data))
        return self._sink.write(data)

    def flush(self) -> None:
        self._sink.flush()


class _Kept:
    def __init__(self) -> None:
        self.body = bytearray()

    def write(self, data: bytes) -> int:
        self.body += data
        return len(data)

    def flush(self) -> None:
        """Part of a writable stream; nothing is held back."""
