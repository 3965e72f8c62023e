"""The stream's way from a dump tool to the store: compress (zstd), then encrypt (age) where recipients are given.

Stock tools undo it: `age -d -i key | zstd -d`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import pyrage
from backports import zstd

# Measured on dumps of prices, JSON and news: level 1 costs half of level 3's time and stores no more.
LEVEL = 1
READ_BYTES = 1 << 20


class Source(Protocol):
    def readinto(self, buffer: memoryview, /) -> int | None: ...


class Sink(Protocol):
    def write(self, data: bytes, /) -> int: ...
    def flush(self) -> None: ...


class BadRecipient(ValueError):
    """A recipient is no age public key."""


def check_recipients(recipients: Sequence[str]) -> None:
    """Raises BadRecipient, naming the first that is not an age X25519 public key."""
    for recipient in recipients:
        try:
            pyrage.x25519.Recipient.from_str(recipient)
        except pyrage.RecipientError as error:
            raise BadRecipient(
                f"encryption.recipients: {recipient} is not an age public key ({error}): age-keygen prints one"
            ) from error


class Compressed:
    """A readable stream of `source` compressed; `raw_bytes` counts what went in.

    `watch` sees every raw piece before it is compressed, for instance to read a dump's head.
    """

    def __init__(self, source: Source, watch: Callable[[memoryview], None]) -> None:
        self._source, self._watch = source, watch
        self._buffer = memoryview(bytearray(READ_BYTES))
        parameter = zstd.CompressionParameter
        # A worker thread would read ahead, but on two cores it only takes turns with the dump itself.
        self._compressor = zstd.ZstdCompressor(
            options={parameter.compression_level: LEVEL, parameter.checksum_flag: 1}
        )
        self._ready = memoryview(b"")
        self._ended = False
        self.raw_bytes = 0

    def read(self, amount: int = -1) -> bytes:
        """Up to `amount` compressed bytes; b"" only at the end."""
        while not self._ready and not self._ended:
            count = self._source.readinto(self._buffer) or 0
            if count:
                piece = self._buffer[:count]
                self.raw_bytes += count
                self._watch(piece)
                self._ready = memoryview(self._compressor.compress(piece))
            else:
                self._ready = memoryview(self._compressor.flush())
                self._ended = True
        taken = bytes(self._ready[:amount] if amount >= 0 else self._ready)
        self._ready = self._ready[len(taken) :]  # a view: nothing is copied
        return taken


def seal(source: Source, sink: Sink, recipients: Sequence[str], watch: Callable[[memoryview], None]) -> int:
    """Stream `source` compressed, and encrypted to every one of `recipients`, into `sink`.

    Returns the raw bytes read. Raises what source and sink raise; memory does not grow with the stream.
    """
    compressed = Compressed(source, watch)
    if not recipients:
        while piece := compressed.read():
            sink.write(piece)
    else:
        keys = [pyrage.x25519.Recipient.from_str(recipient) for recipient in recipients]
        caught = _Catch(sink)
        try:
            pyrage.encrypt_io(compressed, caught, keys)
        except Exception:
            if caught.error is not None:  # pyrage wraps the sink's own error in an OSError without its type
                raise caught.error from None
            raise
    return compressed.raw_bytes


class _Catch:
    """Hands bytes on to a sink and remembers the sink's own error."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._sink.write(data)
        except BaseException as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._sink.flush()
