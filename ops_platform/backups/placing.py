"""Putting a restored database in its place: beside what is there or in its stead, wholly or not at all.

It grows under a name of its own (`ops_restore_…`) and is renamed when it is whole. A restore that was killed leaves
such a database without the advisory lock that its session held; the next one there drops it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from ops_platform.backups.loading import TIMESCALE, create_database, create_roles, load_database, set_properties
from ops_platform.backups.manifest import PostgresFacts
from ops_platform.backups.retrieval import Retrieval, check_objects
from ops_platform.stack import Server
from ops_platform.systems.command import ToolMissing
from ops_platform.systems.postgres import Postgres, PostgresError, Session, literal, quoted
from ops_platform.systems.progress import Clock

MAINTENANCE = "postgres"  # the database from which others are made and renamed
_GROWING = "ops_restore_"
_TRIES = 20
_LONGEST_NAME = 63  # bytes: NAMEDATALEN - 1
_SERVER = (
    "SELECT current_setting('server_version_num')::int / 10000 AS major, current_setting('is_superuser') AS super"
)
_HOLD = "SELECT pg_try_advisory_lock(hashtextextended({name}, 0)) AS held"


class Unfit(PostgresError):
    """The target cannot take this backup; it was not touched."""


@dataclass(frozen=True)
class Placed:
    """Seconds by phase, the roles that were made, and how the database that was replaced is now called."""

    seconds: Mapping[str, float]
    roles: tuple[str, ...]
    replaced: str | None


def place_database(server: Server, database: str, retrieval: Retrieval, instead: bool = False) -> Placed:
    """Restore a Postgres backup as `database` on `server`; with `instead`, in the stead of the one there.

    The one there is renamed to `<database>_before_<backup's id>` and kept. Raises Unfit, PostgresError,
    DamagedBackup, NoKey, StoreError, ToolMissing; then the server is as it was, or the error says what is left.
    """
    postgres = Postgres(server)
    facts = retrieval.backup.manifest.source
    assert isinstance(facts, PostgresFacts)
    check_objects(retrieval)
    clock = Clock()
    with postgres.session(MAINTENANCE, retrieval.left_s()) as session:
        major = _insist_on_fitness(session, postgres.where, database, facts, instead)
        _drop_abandoned(session, retrieval)
        growing = f"{_GROWING}{secrets.token_hex(6)}"
        session.rows(_HOLD.format(name=literal(growing)))
        created: tuple[str, ...] = ()
        try:
            created = create_roles(session, retrieval).created
            create_database(session, growing, facts)
            clock.lap("roles")
            clock.laps.update(load_database(postgres, major, growing, facts, retrieval).laps)
            if facts.properties is not None:
                set_properties(session, growing, facts.properties)
            replaced = _take_its_place(postgres, growing, database, retrieval) if instead else None
            if not instead:
                session.execute(f"ALTER DATABASE {quoted(growing)} RENAME TO {quoted(database)}")
        except BaseException as error:
            left = _clean(postgres, growing, created)
            if left:
                error.add_note(left)
                retrieval.say(left)
            raise
    return Placed(clock.laps, created, replaced)


def _insist_on_fitness(session: Session, where: str, database: str, facts: PostgresFacts, instead: bool) -> int:
    target = session.rows(_SERVER)[0]
    if target["major"] < facts.server_major:
        raise Unfit(
            f"{where} is Postgres {target['major']}, the backup is of {facts.server_major}, which an older one cannot"
            f" load: restore to a server of Postgres {facts.server_major} or newer"
        )
    if target["super"] != "on":
        raise Unfit(
            f"the user at {where} is no superuser, so roles and owners could not come back: name one in `url`"
        )
    there = bool(session.rows(f"SELECT 1 FROM pg_database WHERE datname = {literal(database)}"))
    if there and not instead:
        raise Unfit(f"{where} has a database {database} already: restore under another name, or drop it first")
    if instead and not there:
        raise Unfit(f"{where} has no database {database} to replace: restore it as a new one")
    on_offer: dict[str, list[str]] = {}
    for row in session.rows("SELECT name, version FROM pg_available_extension_versions"):
        on_offer.setdefault(row["name"], []).append(row["version"])
    lacking = sorted(set(facts.extensions) - set(on_offer))
    if lacking:
        raise Unfit(f"{where} lacks the extension {', '.join(lacking)}: install it there, or use the same image")
    version = facts.extensions.get(TIMESCALE)
    if version is not None and version not in on_offer[TIMESCALE]:
        raise Unfit(
            f"{where} has TimescaleDB {', '.join(sorted(on_offer[TIMESCALE]))}, the backup needs {version}: it only"
            " restores into the same version; install that, restore, then ALTER EXTENSION timescaledb UPDATE"
        )
    return int(target["major"])


def _drop_abandoned(session: Session, retrieval: Retrieval) -> None:
    for row in session.rows(f"SELECT datname AS name FROM pg_database WHERE datname ~ '^{_GROWING}[0-9a-f]{{12}}$'"):
        name = row["name"]
        if session.rows(_HOLD.format(name=literal(name)))[0]["held"]:
            session.execute(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)", 300)
            session.rows(f"SELECT pg_advisory_unlock(hashtextextended({literal(name)}, 0))")
            retrieval.say(f"dropped {name}, which a killed restore left")


def _clean(postgres: Postgres, growing: str, created: tuple[str, ...]) -> str | None:
    """Drop what a failed restore made; returns what could not be dropped, for the operator."""
    try:
        with postgres.session(MAINTENANCE, 300) as session:
            session.execute(f"DROP DATABASE IF EXISTS {quoted(growing)} WITH (FORCE)", 300)
            for role in created:
                session.execute(f"DROP ROLE IF EXISTS {quoted(role)}")
    except (PostgresError, ToolMissing) as error:
        roles = f" and the roles {', '.join(created)}" if created else ""
        return (
            f"{postgres.where} may still have the database {growing}{roles}: the next restore there drops the"
            f" database ({str(error).splitlines()[0]})"
        )
    return None


def _take_its_place(postgres: Postgres, growing: str, database: str, retrieval: Retrieval) -> str:
    start = database.encode()[: _LONGEST_NAME - len(f"_before_{retrieval.backup.path.id}")].decode(errors="ignore")
    kept = f"{start}_before_{retrieval.backup.path.id}"
    sql = (
        f"BEGIN; SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = {literal(database)};"
        f" ALTER DATABASE {quoted(database)} RENAME TO {quoted(kept)};"
        f" ALTER DATABASE {quoted(growing)} RENAME TO {quoted(database)}; COMMIT"
    )
    tries = 0
    while True:
        tries += 1
        try:
            with postgres.session(MAINTENANCE, 120) as session:
                session.execute(sql, 120)
            return kept
        except PostgresError as error:  # a client came back between the two: end it again
            if "is being accessed by other users" not in str(error) or tries == _TRIES:
                raise


def drop_statement(database: str) -> str:
    """The SQL with which an operator lets go of a database that was replaced."""
    return f"DROP DATABASE {quoted(database)};"
