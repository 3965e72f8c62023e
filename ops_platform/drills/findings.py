"""What came back held against what the manifest says: pure, one finding a check, each difference by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from ops_platform.backups.manifest import Census, PostgresFacts, RedisFacts, TableFacts
from ops_platform.backups.verification import Finding
from ops_platform.systems.rdb import Keyspace

POSTGRES_CHECKS = {
    "restored": "The backup was loaded whole, every object with the size and SHA-256 of the manifest",
    "schema": "Every object's definition, owner and grants are those of the dump",
    "rows": "Every table has exactly the manifest's rows; large objects and materialised views too",
    "checksums": "Every table of which the manifest has a checksum has the same one",
    "sequences": "No sequence is behind the manifest",
    "indexes": "As many valid indexes as at the source, and no invalid one",
    "constraints": "As many constraints as at the source, and validated where they were",
    "extensions": "The same extensions in the same versions",
    "roles": "Every role is there, with its attributes and memberships",
}
REDIS_CHECKS = {
    "restored": POSTGRES_CHECKS["restored"],
    "keys": "Every logical database has the manifest's keys",
    "types": "As many keys of each type",
    "ttls": "As many keys expire, at the same times",
}
ASSERTION = "assertion_"
NOT_RECORDED = "the manifest does not say: it was written by an older version; take a new backup and drill that"

Key = TypeVar("Key")


def could_not_run(check: str, why: str) -> Finding:
    """A check that did not run has failed."""
    return Finding(check, (f"could not run: {why}",))


def compare_rows(expected: PostgresFacts, found: PostgresFacts) -> Finding:
    copy = {(table.schema_name, table.name): table for table in found.tables}
    faults = []
    for table in expected.tables:
        there = copy.pop((table.schema_name, table.name), None)
        if there is None:
            faults.append(f"table {_name(table)} is missing")
        elif there.rows != table.rows:
            faults.append(f"table {_name(table)} has {there.rows:,} rows, the manifest says {table.rows:,}")
    faults += [f"table {_name(table)} is there and should not be" for table in copy.values()]
    if expected.census is not None and found.census is not None:
        faults += _unequal("large objects", expected.census.large_objects, found.census.large_objects)
        empty = set(expected.census.materialized_views) - set(found.census.materialized_views)
        faults += [f"materialised view {view} is not filled" for view in sorted(empty)]
    rows = sum(table.rows for table in found.tables)
    return Finding("rows", tuple(faults), {"tables": len(found.tables), "rows": rows})


def compare_checksums(expected: PostgresFacts, found: PostgresFacts) -> Finding:
    copy = {(table.schema_name, table.name): table for table in found.tables}
    summed = [table for table in expected.tables if table.checksum is not None]
    faults = []
    for table in summed:
        there = copy.get((table.schema_name, table.name))
        if there is None or there.checksum != table.checksum:
            faults.append(f"table {_name(table)} has other contents than the source had")
    rows = sum(table.rows for table in summed)
    return Finding("checksums", tuple(faults), {"tables": len(summed), "rows": rows})


def compare_sequences(expected: Census, found: Census) -> Finding:
    """A sequence may be ahead: the application drew from it between the census and the dump."""
    faults = []
    for name, value in expected.sequences.items():
        there = found.sequences.get(name)
        if name not in found.sequences:
            faults.append(f"sequence {name} is missing")
        elif value is not None and (there is None or (there < value if value >= 0 else there > value)):
            faults.append(f"sequence {name} stands at {there}, the manifest says {value}")
    return Finding("sequences", tuple(faults), {"sequences": len(expected.sequences)})


def compare_indexes(expected: Census, found: Census) -> Finding:
    faults = _unequal("valid indexes", expected.valid_indexes, found.valid_indexes)
    if found.invalid_indexes:
        faults.append(f"{found.invalid_indexes} indexes are invalid")
    return Finding("indexes", tuple(faults), {"indexes": found.valid_indexes})


def compare_constraints(expected: Census, found: Census) -> Finding:
    faults = _unequal("constraints", expected.constraints, found.constraints)
    faults += [f"{name} is not validated" for name in sorted(set(found.unvalidated) - set(expected.unvalidated))]
    return Finding("constraints", tuple(faults), {"constraints": found.constraints})


def compare_extensions(expected: PostgresFacts, found: PostgresFacts) -> Finding:
    faults = _differences("extension", expected.extensions, found.extensions)
    return Finding("extensions", tuple(faults), {"extensions": len(expected.extensions)})


def compare_roles(expected: Census, found: Census, superuser: str) -> Finding:
    """`superuser` is the drill server's own and no fault."""
    others = {name: attributes for name, attributes in found.roles.items() if name != superuser}
    return Finding("roles", tuple(_differences("role", expected.roles, others)), {"roles": len(expected.roles)})


def compare_keyspaces(expected: RedisFacts, loaded: Keyspace, lasting: Keyspace, copy: Keyspace) -> list[Finding]:
    """Hold what was loaded against the manifest, and what the copy holds against what was loaded.

    `lasting` and `copy` count only keys that outlive the drill: the others may go while it runs.
    """
    if expected.types is None or expected.expiry_sums is None:
        return [could_not_run(check, NOT_RECORDED) for check in ("keys", "types", "ttls")]
    keys = _differences("keys of database", expected.keys, loaded.keys)
    keys += _in_the_copy("keys of database", lasting.keys, copy.keys)
    types = _differences("keys of type", expected.types, loaded.types)
    types += _in_the_copy("keys of type", lasting.types, copy.types)
    ttls = _differences("expiring keys of database", expected.expiring, loaded.expiring)
    ttls += _in_the_copy("expiring keys of database", lasting.expiring, copy.expiring)
    ttls += _differences("expiry times of database", expected.expiry_sums, loaded.expiry_sums)
    ttls += _in_the_copy("expiry times of database", lasting.expiry_sums, copy.expiry_sums)
    total = sum(loaded.keys.values())
    gone = total - sum(lasting.keys.values())
    return [
        Finding("keys", tuple(keys), {"keys": total, "expiring_during_the_drill": gone}),
        Finding("types", tuple(types), {"types": len(loaded.types)}),
        Finding("ttls", tuple(ttls), {"expiring": sum(loaded.expiring.values())}),
    ]


def _name(table: TableFacts) -> str:
    return f"{table.schema_name}.{table.name}"


def _unequal(what: str, expected: int, found: int) -> list[str]:
    return [] if found == expected else [f"{found:,} {what}, the manifest says {expected:,}"]


def _differences(what: str, expected: Mapping[Key, object], found: Mapping[Key, object]) -> list[str]:
    faults = [f"{what} {key} is missing" for key in _sorted(expected.keys() - found.keys())]
    faults += [f"{what} {key} is there and should not be" for key in _sorted(found.keys() - expected.keys())]
    both = _sorted(expected.keys() & found.keys())
    changed = [key for key in both if expected[key] != found[key]]
    return [*faults, *(f"{what} {key}: {found[key]}, the manifest says {expected[key]}" for key in changed)]


def _in_the_copy(what: str, expected: Mapping[Key, object], found: Mapping[Key, object]) -> list[str]:
    return [f"in the copy: {fault}" for fault in _differences(what, expected, found)]


def _sorted(keys: Iterable[Key]) -> list[Key]:
    return sorted(keys, key=str)
