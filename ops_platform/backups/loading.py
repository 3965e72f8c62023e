"""Loading a Postgres backup into a fresh database: roles, schema, data side by side, indexes, statistics."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from ops_platform.backups.census import read_materialized_views
from ops_platform.backups.crew import Crew
from ops_platform.backups.manifest import DatabaseProperties, PostgresFacts, StoredObject
from ops_platform.backups.retrieval import Retrieval
from ops_platform.backups.roles import RolePlan, plan_roles
from ops_platform.systems.command import CommandFailed
from ops_platform.systems.postgres import Postgres, Session, explain, literal, quoted
from ops_platform.systems.postgres_tools import DumpEntry, Tools, tools_of
from ops_platform.systems.progress import Clock

LOADS_AT_ONCE = 2
TIMESCALE = "timescaledb"
_TO_ANALYZE = """
SELECT '"' || replace(n.nspname, '"', '""') || '"."' || replace(c.relname, '"', '""') || '"' AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND n.nspname !~ '^pg_(toast|temp)'
"""
_ROLES = "SELECT rolname AS name FROM pg_roles"


def create_roles(session: Session, retrieval: Retrieval) -> RolePlan:
    """Make the roles of the backup that the server lacks. Raises PostgresError; then none of them stays."""
    existing = {row["name"] for row in session.rows(_ROLES)}
    text = "".join(retrieval.text(stored) for stored in retrieval.objects("globals"))
    plan = plan_roles(text, existing)
    # A statement that fails is not repeated: neither by psql nor in the server's log, for it may hold a verifier.
    session.execute("\\set VERBOSITY terse\nSET log_min_error_statement = panic")
    session.execute("BEGIN")
    for statement in plan.statements:
        session.execute(statement)
    session.execute("COMMIT")
    return plan


def create_database(session: Session, database: str, facts: PostgresFacts) -> None:
    """Make an empty database like the source: encoding and locale. Raises PostgresError."""
    options = [f"TEMPLATE template0 ENCODING {literal(facts.encoding)}"]
    if facts.properties is not None:
        its = facts.properties
        options.append(f"LC_COLLATE {literal(its.collate)} LC_CTYPE {literal(its.ctype)}")
        if its.provider == "i":
            options.append(f"LOCALE_PROVIDER icu ICU_LOCALE {literal(its.locale or '')}")
        elif its.provider == "b":
            options.append(f"LOCALE_PROVIDER builtin BUILTIN_LOCALE {literal(its.locale or '')}")
    session.execute(f"CREATE DATABASE {quoted(database)} {' '.join(options)}", 300)


def set_properties(session: Session, database: str, its: DatabaseProperties) -> None:
    """Owner, settings, privileges and comment of the source's database. Raises PostgresError."""
    name = quoted(database)
    session.execute(f"ALTER DATABASE {name} OWNER TO {quoted(its.owner)}")
    session.execute(f"ALTER DATABASE {name} CONNECTION LIMIT {its.connection_limit}")
    if its.comment is not None:
        session.execute(f"COMMENT ON DATABASE {name} IS {literal(its.comment)}")
    for role, setting, value in its.settings:
        where = f"ROLE {quoted(role)} IN DATABASE {name}" if role else f"DATABASE {name}"
        # Lists (search_path) are stored as they are written; as one quoted string they would be one name.
        words = value if setting.lower() in _LISTS else literal(value)
        session.execute(f"ALTER {where} SET {quoted(setting)} TO {words or literal('')}")
    if its.grants:
        session.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
    for grant in its.grants:
        grantee = quoted(grant.role) if grant.role else "PUBLIC"
        option = " WITH GRANT OPTION" if grant.grantable else ""
        session.execute(f"GRANT {_PRIVILEGES[grant.privilege]} ON DATABASE {name} TO {grantee}{option}")


_PRIVILEGES = {word: word for word in ("CREATE", "CONNECT", "TEMPORARY")}
# pg_dump's own list of settings that are lists of names: variable_is_guc_list_quote, dumputils.c.
_LISTS = {
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
}


def load_database(postgres: Postgres, major: int, database: str, facts: PostgresFacts, retrieval: Retrieval) -> Clock:
    """Fill an empty `database` on a server of `major` from the backup; the roles are there.

    Returns seconds by phase. Raises PostgresError, DamagedBackup, NoKey, StoreError, ToolMissing; what it loaded
    until then is the caller's to drop.
    """
    tools = tools_of(postgres, major)
    clock = Clock()
    [schema] = retrieval.objects("schema")
    with _restoring(postgres, database, facts, retrieval.left_s()) as jobs:
        try:
            with tools.host.scratch(lambda child: retrieval.feed(schema, child), retrieval.left_s()) as file:
                done = _load_all(_Load(postgres, tools, database, file, retrieval), jobs, clock)
        except CommandFailed as error:
            raise explain(f"could not load {database} at {postgres.where}", error) from None
    with postgres.session(database, retrieval.left_s()) as session:
        # A dump of the schema alone or of the data alone leaves materialised views empty.
        wanted = read_materialized_views(session, True) if facts.census is None else facts.census.materialized_views
        for view in wanted:
            session.execute(f"REFRESH MATERIALIZED VIEW {view}", retrieval.left_s())
        for row in session.rows(_TO_ANALYZE):
            if row["name"] not in done:
                session.execute(f"ANALYZE {row['name']}", retrieval.left_s())
    clock.lap("finish")
    return clock


@dataclass(frozen=True)
class _Load:
    """What the steps of one load share; `file` is the schema's dump, where the tools run."""

    postgres: Postgres
    tools: Tools
    database: str
    file: str
    retrieval: Retrieval

    def entries(self, entries: Sequence[DumpEntry], jobs: int = 1) -> None:
        self.tools.load_entries(self.database, self.file, entries, jobs, self.retrieval.left_s())

    def data(self, stored: StoredObject, crew: Crew[None]) -> None:
        with self.tools.load(self.database, self.retrieval.left_s()) as child:
            crew.watch(child)
            try:
                self.retrieval.feed(stored, child)
                child.stdin.close()
            except BrokenPipeError:
                child.finish()
                raise
            child.finish()

    def analyze(self, table: str) -> None:
        with self.postgres.session(self.database, self.retrieval.left_s()) as session:
            session.execute(f"ANALYZE {table}", self.retrieval.left_s())


def _load_all(load: _Load, jobs: int, clock: Clock) -> set[str]:
    """Schema, then the data of several dumps at once, a big table's indexes as soon as it is full, then the rest.

    Returns the names of the tables that were analyzed on the way.
    """
    facts = load.retrieval.backup.manifest.source
    assert isinstance(facts, PostgresFacts)
    names = {table.oid: quoted(table.schema_name, table.name) for table in facts.tables}
    load.tools.load_section(load.database, load.file, "pre-data", load.retrieval.left_s())
    every = load.tools.contents_of(load.file, load.retrieval.left_s())
    numbers = {e.number for e in load.tools.contents_of(load.file, load.retrieval.left_s(), "post-data")}
    later = [entry for entry in every if entry.number in numbers]
    clock.lap("schema")
    early: list[DumpEntry] = []
    analyzed: set[str] = set()

    def fill(stored: StoredObject, crew: Crew[None]) -> None:
        load.data(stored, crew)
        if stored.content == "tables":
            if own := indexes_of(every, later, stored.listed_tables):
                load.entries(own)
                early.extend(own)
            for name in (names[oid] for oid in stored.listed_tables):
                load.analyze(name)
                analyzed.add(name)

    with Crew[None](jobs) as crew:
        for stored in load.retrieval.objects("tables", "rest"):
            crew.submit(partial(fill, stored, crew))
        crew.results()
    clock.lap("data")
    load.entries([entry for entry in later if entry not in early], jobs)
    clock.lap("indexes")
    return analyzed


def indexes_of(every: Sequence[DumpEntry], later: Sequence[DumpEntry], oids: Collection[int]) -> list[DumpEntry]:
    """The indexes and unique constraints among `later` that need nothing but the tables of these OIDs: a planner."""
    full = {entry.number for entry in every if entry.kind == "TABLE" and entry.oid in oids}
    waiting = {entry.number for entry in later}
    return [
        entry
        for entry in later
        if entry.kind in ("INDEX", "CONSTRAINT") and entry.depends_on & full and not entry.depends_on & waiting
    ]


@contextmanager
def _restoring(postgres: Postgres, database: str, facts: PostgresFacts, left_s: float) -> Iterator[int]:
    """TimescaleDB's frame around a restore; yields how many loads may run at once (with it, one).

    https://docs.timescale.com/self-hosted/latest/backup-and-restore/logical-backup/
    """
    version = facts.extensions.get(TIMESCALE)
    if version is None:
        yield LOADS_AT_ONCE
        return
    with postgres.session(database, left_s) as session:
        session.execute(f"CREATE EXTENSION IF NOT EXISTS {TIMESCALE} VERSION {literal(version)}")
        session.rows("SELECT timescaledb_pre_restore()", 300)
    try:
        yield 1
    finally:
        with postgres.session(database, left_s) as session:
            session.rows("SELECT timescaledb_post_restore()", 300)
