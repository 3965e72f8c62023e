"""Reading a Redis snapshot (RDB) as it streams by: keys per logical database, and where it exactly ends.

Values are skipped, not decoded: whether they decode is `redis-check-rdb`'s verdict. The format is that of
Redis' src/rdb.h and src/rdb.c (versions to 7.4); https://rdb.fnordig.de/file_format.html describes it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field

# A step of the parse: yields when it wants more bytes, returns what it read.
Step = Generator[None, None, int]
Steps = Generator[None, None, None]

ONE_STRING = {0, 9, 10, 11, 12, 13, 16, 17, 20}  # strings, zipmaps, ziplists, intsets, listpacks
STRINGS = {1: 1, 2: 1, 4: 2, 14: 1}  # list, set, hash, quicklist: strings an element
ZSET_TEXT, ZSET_BINARY, MODULE, QUICKLIST_2 = 3, 5, 7, 18
STREAMS = {15: 1, 19: 2, 21: 3}
HASH_WITH_TTL, HASH_LISTPACK_WITH_TTL = 24, 25
SLOT_INFO, FUNCTION, FUNCTION_PRE_GA, MODULE_AUX = 244, 245, 246, 247
IDLE, FREQ, AUX, RESIZE, EXPIRE_MS, EXPIRE_S, SELECT, EOF = 248, 249, 250, 251, 252, 253, 254, 255
CHECKSUM_SINCE = 5
_KINDS = {
    "string": (0,),
    "list": (1, 10, 14, 18),
    "set": (2, 11, 20),
    "zset": (3, 5, 12, 17),
    "hash": (4, 9, 13, 16, 24, 25),
    "module": (7,),
    "stream": (15, 19, 21),
}
TYPES = {number: name for name, numbers in _KINDS.items() for number in numbers}


class UnreadableRdb(ValueError):
    """The stream is no RDB, or one that this scanner does not know; the message gives the byte's offset."""


@dataclass
class Keyspace:
    """Keys by logical database and by type, those that expire, and the sums of their expiry times (Unix ms)."""

    keys: dict[int, int] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    expiring: dict[int, int] = field(default_factory=dict)
    expiry_sums: dict[int, int] = field(default_factory=dict)

    def add(self, database: int, type_name: str, expiry_ms: int | None) -> None:
        self.keys[database] = self.keys.get(database, 0) + 1
        self.types[type_name] = self.types.get(type_name, 0) + 1
        if expiry_ms is not None:
            self.expiring[database] = self.expiring.get(database, 0) + 1
            self.expiry_sums[database] = self.expiry_sums.get(database, 0) + expiry_ms


@dataclass(frozen=True)
class Entry:
    """A key as the RDB holds it: `key` in string encoding, `value` as RESTORE wants it, without its type's byte."""

    database: int
    key: bytes
    kind: int
    value: bytes
    expiry_ms: int | None


class RdbScanner:
    """Takes an RDB in pieces of any size and counts; holds no more than the piece and a few bytes.

    `whole` counts every key, `lasting` those that do not expire before `horizon_ms`; `length` is the number of
    bytes, of those fed, that belong to the RDB (all of them until `done`). With `on_entry` each key is handed on
    whole, and the greatest value is held in memory; `on_function` gets each library's code in string encoding.
    """

    def __init__(
        self,
        horizon_ms: int = 0,
        on_entry: Callable[[Entry], None] | None = None,
        on_function: Callable[[bytes], None] | None = None,
    ) -> None:
        self.whole, self.lasting = Keyspace(), Keyspace()
        self._horizon_ms, self._on_entry, self._on_function = horizon_ms, on_entry, on_function
        self.rdb_version = 0
        self.done = False
        self._buffer = bytearray()
        self._kept: int | None = None
        self._at = 0
        self._dropped = 0
        self._end = 0
        self._parse = self._snapshot()

    @property
    def length(self) -> int:
        return self._end if self.done else self._dropped + len(self._buffer)

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes. Raises UnreadableRdb."""
        if self.done or not data:
            return
        passed = self._at if self._kept is None else self._kept
        self._dropped += passed
        del self._buffer[:passed]
        self._buffer += data
        self._at -= passed
        self._kept = None if self._kept is None else 0
        try:
            next(self._parse)
        except StopIteration:
            self.done = True
            self._end = self._dropped + self._at
            self._buffer = bytearray()

    def close(self) -> None:
        """Say that no more comes. Raises UnreadableRdb when the end was not reached."""
        if not self.done:
            raise UnreadableRdb(f"the snapshot is truncated at byte {self.length:,}: take it again")

    def _unknown(self, what: str) -> UnreadableRdb:
        offset = self._dropped + self._at
        return UnreadableRdb(f"{what} at byte {offset:,}: unknown here: update ops_platform, or report it")

    def _snapshot(self) -> Steps:
        yield from self._wait(9)
        head = bytes(self._buffer[:9])
        if head[:5] != b"REDIS" or not head[5:].isdigit():
            raise UnreadableRdb(f"this is no RDB: it begins with {head!r}, not with REDIS and a version")
        self.rdb_version = int(head[5:])
        self._at = 9
        database = 0
        expiry_ms: int | None = None
        while True:
            kind = yield from self._byte()
            if kind <= HASH_LISTPACK_WITH_TTL:
                yield from self._key(database, kind, expiry_ms)
                expiry_ms = None
            elif kind in (EXPIRE_MS, EXPIRE_S):
                size = 8 if kind == EXPIRE_MS else 4
                yield from self._wait(size)
                expiry = int.from_bytes(self._buffer[self._at : self._at + size], "little", signed=True)
                expiry_ms = expiry if kind == EXPIRE_MS else expiry * 1000
                self._at += size
            elif kind == SELECT:
                database = yield from self._number()
            elif kind == EOF:
                break
            else:
                yield from self._opcode(kind)
        if self.rdb_version >= CHECKSUM_SINCE:
            yield from self._skip(8)

    def _key(self, database: int, kind: int, expiry_ms: int | None) -> Steps:
        if self._on_entry is not None:
            self._kept = self._at
        yield from self._strings(1)
        length = self._at - (self._kept or 0)
        yield from self._value(kind)
        self.whole.add(database, TYPES[kind], expiry_ms)
        if expiry_ms is None or expiry_ms > self._horizon_ms:
            self.lasting.add(database, TYPES[kind], expiry_ms)
        if self._on_entry is not None and self._kept is not None:
            middle = self._kept + length
            key, value = bytes(self._buffer[self._kept : middle]), bytes(self._buffer[middle : self._at])
            self._kept = None
            self._on_entry(Entry(database, key, kind, value, expiry_ms))

    def _opcode(self, kind: int) -> Steps:
        if kind == AUX:
            yield from self._strings(2)
        elif kind in (RESIZE, IDLE, SLOT_INFO):
            yield from self._numbers({RESIZE: 2, IDLE: 1, SLOT_INFO: 3}[kind])
        elif kind == FREQ:
            yield from self._skip(1)
        elif kind == FUNCTION:
            self._kept = self._at
            yield from self._strings(1)
            if self._on_function is not None:
                self._on_function(bytes(self._buffer[self._kept : self._at]))
            self._kept = None
        elif kind == MODULE_AUX:
            yield from self._numbers(3)
            yield from self._module_fields()
        else:
            raise self._unknown(f"opcode {kind}")

    def _value(self, kind: int) -> Steps:  # noqa: PLR0912  a branch for each kind of value
        if kind in ONE_STRING:
            yield from self._strings(1)
        elif kind in STRINGS:
            yield from self._strings(STRINGS[kind] * (yield from self._number()))
        elif kind == ZSET_BINARY:
            for _ in range((yield from self._number())):
                yield from self._strings(1)
                yield from self._skip(8)
        elif kind == QUICKLIST_2:
            for _ in range((yield from self._number())):
                yield from self._numbers(1)
                yield from self._strings(1)
        elif kind in STREAMS:
            yield from self._stream(STREAMS[kind])
        elif kind == ZSET_TEXT:
            for _ in range((yield from self._number())):
                yield from self._strings(1)
                size = yield from self._byte()
                yield from self._skip(size if size < 253 else 0)  # 253 to 255: nan, +inf, -inf
        elif kind == MODULE:
            yield from self._numbers(1)
            yield from self._module_fields()
        elif kind == HASH_WITH_TTL:
            yield from self._skip(8)
            for _ in range((yield from self._number())):
                yield from self._numbers(1)
                yield from self._strings(2)
        elif kind == HASH_LISTPACK_WITH_TTL:
            yield from self._skip(8)
            yield from self._strings(1)
        else:
            raise self._unknown(f"value type {kind}")

    def _stream(self, version: int) -> Steps:
        yield from self._strings(2 * (yield from self._number()))
        yield from self._numbers(3 if version == 1 else 8)  # length, last id; first id, highest deleted, added
        for _ in range((yield from self._number())):
            yield from self._strings(1)
            yield from self._numbers(2 if version == 1 else 3)
            for _ in range((yield from self._number())):
                yield from self._skip(16 + 8)
                yield from self._numbers(1)
            for _ in range((yield from self._number())):
                yield from self._strings(1)
                yield from self._skip(8 if version < 3 else 16)
                yield from self._skip(16 * (yield from self._number()))

    def _module_fields(self) -> Steps:
        while field := (yield from self._number()):
            if field in (1, 2):
                yield from self._numbers(1)
            elif field in (3, 4):
                yield from self._skip(4 if field == 3 else 8)
            elif field == 5:
                yield from self._strings(1)
            else:
                raise self._unknown(f"module field {field}")

    def _wait(self, count: int) -> Steps:
        while len(self._buffer) - self._at < count:
            yield

    def _byte(self) -> Step:
        while self._at >= len(self._buffer):
            yield
        self._at += 1
        return self._buffer[self._at - 1]

    def _skip(self, count: int) -> Steps:
        while (there := len(self._buffer) - self._at) < count:
            count -= there
            self._at = len(self._buffer)
            yield
        self._at += count

    def _number(self) -> Step:
        first = yield from self._byte()
        if first < 0x40:
            return first
        if first < 0x80:
            return (first & 0x3F) << 8 | (yield from self._byte())
        if first not in (0x80, 0x81):
            raise self._unknown(f"length {first:#x}")
        size = 4 if first == 0x80 else 8
        yield from self._wait(size)
        self._at += size
        return int.from_bytes(self._buffer[self._at - size : self._at], "big")

    def _numbers(self, count: int) -> Steps:
        for _ in range(count):
            yield from self._number()

    def _strings(self, count: int) -> Steps:
        while count:
            count -= 1
            buffer, at = self._buffer, self._at
            if at < len(buffer) and (first := buffer[at]) < 0x40 and at + 1 + first <= len(buffer):
                self._at = at + 1 + first  # nearly every string: short and here already
                continue
            while self._at >= len(self._buffer):
                yield
            first = self._buffer[self._at]
            if first < 0xC0:
                yield from self._skip((yield from self._number()))
            elif first < 0xC3:
                yield from self._skip(1 + (1, 2, 4)[first - 0xC0])
            elif first == 0xC3:
                yield from self._skip(1)
                compressed = yield from self._number()
                yield from self._numbers(1)
                yield from self._skip(compressed)
            else:
                raise self._unknown(f"string encoding {first:#x}")


def decode_string(encoded: bytes) -> bytes:
    """The plain bytes of a string in RDB's encoding: raw, an integer, or compressed (LZF)."""
    first = encoded[0]
    if first < 0x40:
        return encoded[1:]
    if first < 0x80:
        return encoded[2:]
    if first in (0x80, 0x81):
        return encoded[5 if first == 0x80 else 9 :]
    if first < 0xC3:
        return str(int.from_bytes(encoded[1:], "little", signed=True)).encode()
    compressed, at = _length(encoded, 1)
    _, at = _length(encoded, at)
    return _lzf(encoded[at : at + compressed])


def _length(encoded: bytes, at: int) -> tuple[int, int]:
    """A length and where it ends; the scanner has checked the bytes."""
    first = encoded[at]
    if first < 0x40:
        return first, at + 1
    if first < 0x80:
        return (first & 0x3F) << 8 | encoded[at + 1], at + 2
    size = 4 if first == 0x80 else 8
    return int.from_bytes(encoded[at + 1 : at + 1 + size], "big"), at + 1 + size


def _lzf(data: bytes) -> bytes:
    """LibLZF's decompression (lzf_d.c): literal runs, and copies of what came out before."""
    out = bytearray()
    at = 0
    while at < len(data):
        control = data[at]
        at += 1
        if control < 32:
            out += data[at : at + control + 1]
            at += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += data[at]
            at += 1
        start = len(out) - ((control & 0x1F) << 8 | data[at]) - 1
        at += 1
        for offset in range(start, start + length + 2):  # may run into what it writes
            out.append(out[offset])
    return bytes(out)
