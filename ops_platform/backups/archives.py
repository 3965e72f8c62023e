"""Which tables go into which dump of one snapshot, so that dumps run side by side and restores can too."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

MIB = 1 << 20
# A dump of its own costs pg_dump's start (it reads the whole catalogue), so only for tables that matter:
# no more than 20 can hold a twentieth each.
LEAST_BYTES = 32 * MIB
LEAST_SHARE = 20


@dataclass(frozen=True)
class Table:
    """A table with rows of its own; `bytes` is its size on disk with TOAST, without indexes."""

    oid: int
    schema: str
    name: str
    bytes: int


@dataclass(frozen=True)
class Archive:
    """One dump: the schema, the data of `tables`, or the data of all tables but `tables` (`rest`)."""

    stem: str
    content: Literal["schema", "tables", "rest"]
    tables: tuple[Table, ...] = ()
    estimate: int = 0


def plan_archives(tables: Iterable[Table], together: bool) -> tuple[Archive, ...]:
    """Divide a database into dumps, longest first, the schema last.

    What no archive names falls to `rest`, so nothing can be forgotten: large objects, sequences, tables
    that this plan never heard of. With `together` (TimescaleDB, whose catalogue must come back in one go)
    all data is in `rest`.
    """
    every = sorted(tables, key=lambda table: (-table.bytes, table.schema, table.name))
    total = sum(table.bytes for table in every)
    big = [t for t in every if t.bytes >= LEAST_BYTES and t.bytes * LEAST_SHARE >= total and not together]
    own = [
        Archive(f"data-{number:03}.dump", "tables", (table,), table.bytes)
        for number, table in enumerate(big, start=1)
    ]
    rest = Archive("data-000.dump", "rest", tuple(big), total - sum(table.bytes for table in big))
    by_size = sorted([*own, rest], key=lambda archive: -archive.estimate)
    return (*by_size, Archive("schema.dump", "schema"))
