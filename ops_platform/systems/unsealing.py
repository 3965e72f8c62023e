"""The stream's way back from the store: hash, decrypt (age), decompress (zstd), hand on; or say what broke."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import pyrage
from backports import zstd

from ops_platform.systems.sealing import Sink

READ_BYTES = 1 << 20
# What one read may grow to: a few bytes can stand for gigabytes of zeros.
PIECE_BYTES = 4 << 20


class WrongKey(ValueError):
    """No identity given opens the object, or one given is no age identity. Never holds a key."""


class Damaged(ValueError):
    """The stored bytes are not what was sealed: changed, cut short or too long."""


class Readable(Protocol):
    def read(self, amount: int, /) -> bytes: ...


class Hashed:
    """A source whose bytes are counted and hashed (SHA-256) as they are read."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._sha256 = hashlib.sha256()
        self.bytes = 0
        self.error: BaseException | None = None

    def read(self, amount: int = READ_BYTES) -> bytes:
        try:
            piece = self._source.read(amount)
        except BaseException as error:
            self.error = error
            raise
        self._sha256.update(piece)
        self.bytes += len(piece)
        return piece

    def sha256(self) -> str:
        return self._sha256.hexdigest()


def recipients_of(identities: Sequence[str]) -> tuple[str, ...]:
    """The age public keys that belong to private ones. Raises WrongKey for one that is none."""
    return tuple(str(identity.to_public()) for identity in _parsed(identities))


def unseal(source: Hashed, sink: Sink, identities: Sequence[str], encrypted: bool) -> int:
    """Stream `source` to its end, decrypted with one of `identities` where `encrypted`, decompressed, into `sink`.

    Returns the raw bytes written. Raises Damaged, WrongKey, and what source and sink raise; memory does not grow
    with the stream. That every byte was the stored one is the caller's to check, by the source's hash.
    """
    expanded = _Expanded(sink)
    try:
        if encrypted:
            pyrage.decrypt_io(source, expanded, _parsed(identities))
        else:
            while piece := source.read(READ_BYTES):
                expanded.write(piece)
    except (pyrage.DecryptError, OSError, zstd.ZstdError) as error:
        # pyrage turns what its reader and writer raise into errors of its own.
        for own in (source.error, expanded.error):
            if own is not None and not isinstance(own, zstd.ZstdError):
                raise own from None
        if "No matching keys" in str(error):
            raise WrongKey("none of the age identities given is a recipient of this backup") from None
        raise Damaged(f"it cannot be {'decrypted' if encrypted else 'decompressed'} ({error})") from None
    expanded.insist_on_the_end()
    return expanded.raw_bytes


def _parsed(identities: Sequence[str]) -> list[pyrage.x25519.Identity]:
    try:
        return [pyrage.x25519.Identity.from_str(identity) for identity in identities]
    except pyrage.IdentityError as error:
        raise WrongKey(f"an age identity given is none ({error}): it begins with AGE-SECRET-KEY-1") from None


class _Expanded:
    """A sink of one zstd frame that hands its contents on."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._zstd = zstd.ZstdDecompressor()
        self.raw_bytes = 0
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        try:
            self._expand(data)
        except BaseException as error:
            self.error = error
            raise
        return len(data)

    def flush(self) -> None:
        """Part of a writable stream; nothing is held back."""

    def _expand(self, data: bytes) -> None:
        if self._zstd.eof:
            raise Damaged("there is more in it than was sealed")
        piece = self._zstd.decompress(data, PIECE_BYTES)
        while piece:
            self.raw_bytes += len(piece)
            self._sink.write(piece)
            if self._zstd.eof or self._zstd.needs_input:
                break
            piece = self._zstd.decompress(b"", PIECE_BYTES)
        if self._zstd.eof and self._zstd.unused_data:
            raise Damaged("there is more in it than was sealed")

    def insist_on_the_end(self) -> None:
        if not self._zstd.eof:
            raise Damaged("it is cut short")
