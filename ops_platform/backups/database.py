"""The backup of one Postgres database: one exported snapshot, read by several dumps and by counts at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, cast

from ops_platform.backups.archives import Archive, Table, plan_archives
from ops_platform.backups.census import (
    count_rows,
    fix_settings,
    read_census,
    read_extensions,
    read_properties,
    read_tables,
    tables_to_sum,
)
from ops_platform.backups.crew import Crew
from ops_platform.backups.manifest import PostgresFacts, StoredObject
from ops_platform.backups.order import Order
from ops_platform.stack import Database, Server
from ops_platform.systems.command import CommandFailed
from ops_platform.systems.object_store import part_size
from ops_platform.systems.postgres import Postgres, Session, explain, quoted
from ops_platform.systems.postgres_tools import Tools, tools_of
from ops_platform.systems.progress import Clock
from ops_platform.systems.sealing import seal

DUMPS_AT_ONCE = 2
LOCKS_AT_ONCE = 500

_SERVER = """
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int / 10000 AS major,
  pg_encoding_to_char(encoding) AS encoding, has_table_privilege('pg_catalog.pg_authid', 'SELECT') AS passwords
FROM pg_database WHERE datname = current_database()
"""


def back_up_database(
    server: Server, database: Database, label: str, order: Order
) -> tuple[tuple[StoredObject, ...], PostgresFacts, dict[str, float]]:
    """Dump `database` into the order's folder.

    Returns the objects stored, what the snapshot held, and seconds by phase. Raises PostgresError, StoreError,
    ToolMissing, SecretMissing; what was stored until then is the caller's to remove.
    """
    postgres = Postgres(server)
    clock = Clock()
    with postgres.session(database.database, order.left_s()) as session:
        facts = _open_snapshot(session, order.left_s())
        tools = tools_of(postgres, facts["major"])
        tables = read_tables(session)
        asked = tables_to_sum(tables, database.checksums, label)
        _lock(session, tables)
        extensions = read_extensions(session)
        census, properties = read_census(session), read_properties(session)
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
            counted = count_rows(session, tables, asked, order.left_s())
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
            census=census,
            properties=properties,
        ),
        clock.laps,
    )


def _open_snapshot(session: Session, left_s: float) -> dict[str, Any]:
    fix_settings(session)
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
