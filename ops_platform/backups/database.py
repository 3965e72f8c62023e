"""The backup of one Postgres database: one exported snapshot, read by several dumps and by counts at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal, cast

from ops_platform.backups.archives import Archive, Table, plan_archives
from ops_platform.backups.crew import Crew
from ops_platform.backups.manifest import PostgresFacts, StoredObject, TableFacts
from ops_platform.backups.order import Order
from ops_platform.stack import Database, Server
from ops_platform.systems.command import CommandFailed
from ops_platform.systems.object_store import part_size
from ops_platform.systems.postgres import Postgres, PostgresError, Session, explain, quoted
from ops_platform.systems.postgres_tools import Tools, tools_of
from ops_platform.systems.sealing import seal

DUMPS_AT_ONCE = 2
LOCKS_AT_ONCE = 500

_SETTINGS = """
SET row_security = off; SET lock_timeout = '60s'; SET statement_timeout = 0; SET search_path = pg_catalog;
SET DateStyle = ISO; SET IntervalStyle = postgres; SET TimeZone = 'UTC'; SET bytea_output = hex;
SET extra_float_digits = 1; SET lc_monetary = 'C'
"""
_SERVER = """
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int / 10000 AS major,
  pg_encoding_to_char(encoding) AS encoding, has_table_privilege('pg_catalog.pg_authid', 'SELECT') AS passwords
FROM pg_database WHERE datname = current_database()
"""
_TABLES = """
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, pg_table_size(c.oid) AS bytes
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
  AND NOT EXISTS (SELECT FROM pg_depend d
    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY c.oid
"""


def back_up_database(
    server: Server, database: Database, label: str, order: Order
) -> tuple[tuple[StoredObject, ...], PostgresFacts, dict[str, float]]:
    """Dump `database` into the order's folder.

    Returns the objects stored, what the snapshot held, and seconds by phase. Raises PostgresError, StoreError,
    ToolMissing, SecretMissing; what was stored until then is the caller's to remove.
    """
    postgres = Postgres(server)
    clock = _Clock()
    with postgres.session(database.database, order.left_s()) as session:
        facts = _open_snapshot(session, order.left_s())
        tools = tools_of(postgres, facts["major"])
        tables = [Table(**row) for row in session.rows(_TABLES)]
        asked = _tables_to_sum(tables, database.checksums, label)
        _lock(session, tables)
        extensions = {r["name"]: r["version"] for r in session.rows(_EXTENSIONS)}
        order.meter.expected_bytes = order.meter.expected_bytes or sum(table.bytes for table in tables)
        clock.lap("snapshot")
        archives = plan_archives(tables, together="timescaledb" in extensions)
        with_passwords = bool(facts["passwords"] and order.recipients)
        order.say(
            f"{label}: snapshot {facts['snapshot']} of {len(tables)} tables, {len(archives)} dumps,"
            f" {DUMPS_AT_ONCE} at a time"
        )
        with Crew[StoredObject](DUMPS_AT_ONCE) as crew:
            for archive in archives:
                crew.submit(_dumper(tools, database.database, facts["snapshot"], archive, crew, order))
            crew.submit(_globals_dumper(tools, database.database, with_passwords, crew, order))
            counted = _count(session, tables, asked, order.left_s())
            clock.lap("count")
            objects = crew.results()
        clock.lap("dump")
        session.execute("COMMIT")
    return (
        tuple(objects),
        PostgresFacts(
            database=database.database,
            server_version=facts["version"],
            server_major=facts["major"],
            dump_version=tools.version,
            snapshot=facts["snapshot"],
            encoding=facts["encoding"],
            extensions=extensions,
            role_passwords=with_passwords,
            tables=counted,
        ),
        clock.laps,
    )


_EXTENSIONS = "SELECT extname AS name, extversion AS version FROM pg_extension ORDER BY extname"


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, phase: str) -> None:
        now = time.monotonic()
        self.laps[phase] = round(now - self._last, 3)
        self._last = now


def _open_snapshot(session: Session, left_s: float) -> dict[str, Any]:
    session.execute(_SETTINGS.strip())
    # Where our end dies unseen (a container's exec), the server itself lets the snapshot go.
    session.execute(f"SET idle_in_transaction_session_timeout = '{int(left_s)}s'")
    session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    snapshot = session.rows("SELECT pg_export_snapshot() AS snapshot")[0]
    return {**session.rows(_SERVER)[0], **snapshot}


def _lock(session: Session, tables: Sequence[Table]) -> None:
    """Hold off changes of structure until all dumps have read it: each dump reads the catalogue anew."""
    for start in range(0, len(tables), LOCKS_AT_ONCE):
        names = ", ".join(f"ONLY {quoted(t.schema, t.name)}" for t in tables[start : start + LOCKS_AT_ONCE])
        session.execute(f"LOCK TABLE {names} IN ACCESS SHARE MODE", 90)


def _tables_to_sum(tables: Sequence[Table], asked: tuple[str, ...] | Literal["all"], label: str) -> set[int]:
    if asked == "all":
        return {table.oid for table in tables}
    by_name = {f"{table.schema}.{table.name}": table.oid for table in tables}
    unknown = sorted(set(asked) - set(by_name))
    if unknown:
        raise PostgresError(
            f"databases.{label}.checksums names {unknown[0]!r}, which is no table there: correct stack.yaml"
            f" (there are: {', '.join(sorted(by_name)[:20])})"
        )
    return {by_name[name] for name in asked}


def _count(session: Session, tables: Sequence[Table], to_sum: set[int], left_s: float) -> tuple[TableFacts, ...]:
    facts = []
    for table in tables:
        # Sums of a 64-bit hash of each row's text: the same whatever order the rows come in.
        extra = ", sum(hashtextextended(ops_row::text, 0)::numeric)::text AS checksum"
        columns = "count(*) AS rows" + (extra if table.oid in to_sum else "")
        row: Mapping[str, Any] = session.rows(
            f"SELECT {columns} FROM ONLY {quoted(table.schema, table.name)} AS ops_row",  # noqa: S608  quoted
            left_s,
        )[0]
        checksum = None if table.oid not in to_sum else row["checksum"] or "0"
        facts.append(
            TableFacts(
                oid=table.oid,
                schema_name=table.schema,
                name=table.name,
                rows=row["rows"],
                bytes=table.bytes,
                checksum=checksum,
            )
        )
    return tuple(facts)


def _selection(archive: Archive) -> list[str]:
    if archive.content == "schema":
        return ["--schema-only"]
    switch = "--table" if archive.content == "tables" else "--exclude-table-data"
    return ["--data-only", *(f"{switch}={quoted(table.schema, table.name)}" for table in archive.tables)]


def _dumper(
    tools: Tools, database: str, snapshot: str, archive: Archive, crew: Crew[StoredObject], order: Order
) -> Callable[[], StoredObject]:
    def dump() -> StoredObject:
        begun = time.monotonic()
        key = order.key(archive.stem)
        with ExitStack() as stack:
            upload = stack.enter_context(order.store.upload(key, part_size(archive.estimate)))
            contents = stack.enter_context(tools.contents(order.left_s()))
            child = stack.enter_context(tools.dump(database, snapshot, _selection(archive), order.left_s()))
            crew.watch(child)

            def watch(piece: memoryview) -> None:
                order.meter.add(len(piece))
                contents.feed(piece)

            raw = seal(cast(Any, child.stdout), upload, order.recipients, watch)
            try:
                child.finish()
                entries = contents.entries()
            except CommandFailed as error:
                raise explain(f"could not dump {database} at {tools.postgres.where}", error) from None
            stored = upload.finish()
        listed = tuple(entry.oid for entry in entries if entry.kind == "TABLE DATA")
        return order.record(stored, archive.content, raw, begun, listed)

    return dump


def _globals_dumper(
    tools: Tools, database: str, with_passwords: bool, crew: Crew[StoredObject], order: Order
) -> Callable[[], StoredObject]:
    def dump() -> StoredObject:
        begun = time.monotonic()
        key = order.key("globals.sql")
        with (
            order.store.upload(key, part_size(0)) as upload,
            tools.globals(database, with_passwords, order.left_s()) as child,
        ):
            crew.watch(child)
            raw = seal(cast(Any, child.stdout), upload, order.recipients, lambda piece: None)
            try:
                child.finish()
            except CommandFailed as error:
                raise explain(f"could not dump the roles of {tools.postgres.where}", error) from None
            stored = upload.finish()
        return order.record(stored, "globals", raw, begun)

    return dump
