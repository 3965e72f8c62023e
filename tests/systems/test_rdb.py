"""The RDB scanner on snapshots that real servers wrote."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops_platform.systems.rdb import RdbScanner, UnreadableRdb
from ops_platform.systems.throwaway.redis import RedisServer, redis_binaries

FUNCTION = "#!lua name=lib\\nredis.register_function('f', function() return 1 end)"
EVERY_TYPE = f"""
SELECT 0
SET short x
SET number 12345
SET negative -70000
SETEX dying 1000 soon
EVAL "redis.call('SET','long',string.rep('abc',9000))" 0
EVAL "for i=1,9000 do redis.call('RPUSH','list','element'..i) end" 0
EVAL "redis.call('RPUSH','plain',string.rep('z',20000))" 0
SADD ints 1 2 3
SADD few a b
EVAL "for i=1,700 do redis.call('SADD','many','m'..i) end" 0
HSET hash a 1 b 2
EVAL "for i=1,700 do redis.call('HSET','bighash','f'..i,i) end" 0
ZADD zset 1.5 a
EVAL "for i=1,700 do redis.call('ZADD','bigzset',i/3,'m'..i) end" 0
XADD stream 1-1 k v
EVAL "for i=2,500 do redis.call('XADD','stream',i..'-1','k','v'..i) end" 0
XGROUP CREATE stream group 0
XREADGROUP GROUP group reader COUNT 5 STREAMS stream >
FUNCTION LOAD "{FUNCTION}"
PFADD hll a b c
SELECT 3
SET other 1
EVAL "for i=1,20000 do redis.call('SET','k'..i,i) end" 0
PEXPIRE other 9999999
"""


@pytest.fixture(scope="module", params=["debian", "wheel"])
def snapshot(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    binaries = [b for b in redis_binaries() if ("valkey" in b.server.name) == (request.param == "wheel")]
    directory = tmp_path_factory.mktemp("redis")
    with RedisServer(directory, binaries=binaries[0]) as server:
        server.cli(EVERY_TYPE + "SAVE\n")
        yield directory / "dump.rdb"


def scan(body: bytes, size: int) -> RdbScanner:
    scanner = RdbScanner()
    for start in range(0, len(body), size):
        scanner.feed(body[start : start + size])
    return scanner


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
def test_counts_every_key_of_every_type_however_the_stream_is_cut(snapshot: Path, size: int) -> None:
    body = snapshot.read_bytes()
    scanner = scan(body, size)
    assert scanner.done
    assert scanner.length == len(body)
    assert scanner.whole.keys == {0: 16, 3: 20_001}
    assert scanner.whole.expiring == {0: 1, 3: 1}
    scanner.close()


def test_what_follows_the_end_is_not_counted(snapshot: Path) -> None:
    body = snapshot.read_bytes()
    for size in (13, 1 << 20):
        assert scan(body + b"f" * 40, size).length == len(body)


def test_a_truncated_snapshot_is_refused_wherever_it_was_cut(snapshot: Path) -> None:
    body = snapshot.read_bytes()
    for end in itertools.chain(range(0, 200, 7), range(200, len(body), 9973), [len(body) - 1]):
        with pytest.raises(UnreadableRdb, match="truncated at byte"):
            scan(body[:end], 1 << 16).close()


def test_garbage_is_refused_with_its_head() -> None:
    with pytest.raises(UnreadableRdb, match="no RDB: it begins with"):
        RdbScanner().feed(b"-ERR no such thing\r\n")


def test_an_unknown_type_is_refused_with_its_offset() -> None:
    with pytest.raises(UnreadableRdb, match="opcode 99 at byte 10"):
        RdbScanner().feed(b"REDIS0011" + bytes([99]))
