"""Asking a restored copy what it holds, check by check; a check that cannot be asked has failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from ops_platform.backups.census import count_rows, fix_settings, read_census, read_extensions, read_tables
from ops_platform.backups.manifest import PostgresFacts, RedisFacts, StoredObject
from ops_platform.backups.reloading import Reloaded
from ops_platform.backups.retrieval import Retrieval
from ops_platform.backups.verification import Finding
from ops_platform.drills import findings as compare
from ops_platform.drills.schema import differences, fingerprint, fingerprints
from ops_platform.drills.servers import SUPERUSER
from ops_platform.stack import Server
from ops_platform.systems.command import Child, CommandFailed
from ops_platform.systems.postgres import Postgres, PostgresError, Session
from ops_platform.systems.postgres_tools import Tools, tools_of
from ops_platform.systems.rdb import Keyspace, RdbScanner
from ops_platform.systems.redis import FINISHED, Redis, explain

ASSERTION_S = 300.0


def prove_database(
    server: Server, database: str, facts: PostgresFacts, assertions: Mapping[str, str], retrieval: Retrieval
) -> Iterator[Finding]:
    """One finding for each check but `restored`, as they are made. Raises nothing of what the copy answers."""
    postgres = Postgres(server)
    yield _guarded("schema", lambda: _schema(tools_of(postgres, facts.server_major), database, retrieval))
    try:
        with postgres.session(database, retrieval.left_s()) as session:
            fix_settings(session)
            copy = _facts_of(session, facts, retrieval.left_s())
    except PostgresError as error:
        for check in list(compare.POSTGRES_CHECKS)[2:]:
            yield compare.could_not_run(check, str(error))
    else:
        yield from _compared(facts, copy)
    for name, sql in assertions.items():
        check = f"{compare.ASSERTION}{name}"
        yield _guarded(check, lambda check=check, sql=sql: _assert(postgres, database, check, sql))  # type: ignore[misc]


def _compared(facts: PostgresFacts, copy: PostgresFacts) -> Iterator[Finding]:
    yield compare.compare_rows(facts, copy)
    yield compare.compare_checksums(facts, copy)
    yield compare.compare_extensions(facts, copy)
    if facts.census is None or copy.census is None:
        for check in ("sequences", "indexes", "constraints", "roles"):
            yield compare.could_not_run(check, compare.NOT_RECORDED)
        return
    yield compare.compare_sequences(facts.census, copy.census)
    yield compare.compare_indexes(facts.census, copy.census)
    yield compare.compare_constraints(facts.census, copy.census)
    yield compare.compare_roles(facts.census, copy.census, SUPERUSER)


def prove_instance(
    server: Server, facts: RedisFacts, reloaded: Reloaded, horizon_ms: int, left_s: float
) -> list[Finding]:
    """One finding for each check but `restored`. Raises RedisError when the copy cannot be asked."""
    return compare.compare_keyspaces(facts, reloaded.whole, reloaded.lasting, _keys_of(server, horizon_ms, left_s))


def _guarded(check: str, ask: Callable[[], Finding]) -> Finding:
    try:
        return ask()
    except (PostgresError, CommandFailed) as error:
        return compare.could_not_run(check, str(error))


def _facts_of(session: Session, facts: PostgresFacts, left_s: float) -> PostgresFacts:
    """The copy's facts, with checksums of the tables that have one in the manifest."""
    summed = {(table.schema_name, table.name) for table in facts.tables if table.checksum is not None}
    tables = read_tables(session)
    to_sum = {table.oid for table in tables if (table.schema, table.name) in summed}
    return facts.model_copy(
        update={
            "tables": count_rows(session, tables, to_sum, left_s),
            "extensions": read_extensions(session),
            "census": read_census(session),
        }
    )


def _schema(tools: Tools, database: str, retrieval: Retrieval) -> Finding:
    """The dump's schema, printed by pg_restore, beside the copy's, printed by pg_dump."""
    [stored] = retrieval.objects("schema")
    with tools.schema_of_dump(retrieval.left_s()) as child, ThreadPoolExecutor(1) as feeder:
        fed = feeder.submit(_feed, retrieval, stored, child)
        expected = fingerprints(_lines(child))
        fed.result()
        child.finish()
    with tools.schema_of_database(database, retrieval.left_s()) as child:
        found = fingerprints(_lines(child))
        child.finish()
    numbers: dict[str, int | str] = {"objects": len(found), "fingerprint": fingerprint(found)[:16]}
    return Finding("schema", differences(expected, found), numbers)


def _feed(retrieval: Retrieval, stored: StoredObject, child: Child) -> None:
    try:
        retrieval.feed(stored, child)
    finally:
        child.stdin.close()


def _lines(child: Child) -> Iterable[str]:
    pending = b""
    while piece := child.stdout.read(1 << 16):
        *whole, pending = (pending + piece).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "replace")


def _assert(postgres: Postgres, database: str, check: str, sql: str) -> Finding:
    """The user's query must answer one row of one column that is true; it can change nothing."""
    with postgres.session(database, ASSERTION_S) as session:
        session.execute("SET default_transaction_read_only = on")
        rows = session.rows(sql.strip().rstrip(";"), ASSERTION_S)
    values = [value for row in rows for value in row.values()]
    if values == [True]:
        return Finding(check)
    shown = ", ".join(map(str, values[:5])) or "no row"
    return Finding(check, (f"answered {shown}, not true: {sql.strip()}",))


def _keys_of(server: Server, horizon_ms: int, left_s: float) -> Keyspace:
    redis = Redis(server)
    scanner = RdbScanner(horizon_ms)
    with redis.snapshot(left_s) as child:
        while piece := child.stdout.read(1 << 20):
            scanner.feed(piece)
        code = child.wait()
        if not scanner.done or FINISHED not in child.last_words():
            failure = CommandFailed("redis-cli --rdb", None if child.overdue else code, child.last_words())
            raise explain(f"the snapshot of the copy at {redis.where} broke off", failure)
    return scanner.lasting
