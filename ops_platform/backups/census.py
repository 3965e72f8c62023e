"""What a database holds, asked in SQL: the source for its manifest, a restored copy to be held against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ops_platform.backups.archives import Table
from ops_platform.backups.manifest import Census, DatabaseProperties, Grant, TableFacts
from ops_platform.systems.postgres import PostgresError, Session, quoted

# The text of a row, and so its checksum, must not depend on who asks.
_SETTINGS = """
SET row_security = off; SET lock_timeout = '60s'; SET statement_timeout = 0; SET search_path = pg_catalog;
SET DateStyle = ISO; SET IntervalStyle = postgres; SET TimeZone = 'UTC'; SET bytea_output = hex;
SET extra_float_digits = 1; SET lc_monetary = 'C'
"""
_NOT_AN_EXTENSIONS = """NOT EXISTS (SELECT FROM pg_depend e
    WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')"""
_OURS = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'"
_TABLES = f"""
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, pg_table_size(c.oid) AS bytes
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND {_OURS} AND {_NOT_AN_EXTENSIONS}
ORDER BY c.oid
"""
_EXTENSIONS = "SELECT extname AS name, extversion AS version FROM pg_extension ORDER BY extname"
_SEQUENCES = f"""
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name, pg_sequence_last_value(c.oid) AS value
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND {_OURS} AND {_NOT_AN_EXTENSIONS}
"""
_COUNTS = f"""
SELECT
  (SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
     JOIN pg_namespace n ON n.oid = c.relnamespace WHERE i.indisvalid AND {_OURS}) AS valid_indexes,
  (SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
     JOIN pg_namespace n ON n.oid = c.relnamespace WHERE NOT i.indisvalid AND {_OURS}) AS invalid_indexes,
  (SELECT count(*) FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace
     WHERE k.contype <> 'n' AND {_OURS}) AS constraints,
  (SELECT count(*) FROM pg_largeobject_metadata) AS large_objects
"""
_UNVALIDATED = f"""
SELECT coalesce(conrelid::regclass::text || ': ', '') || quote_ident(conname) AS name
FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace WHERE NOT convalidated AND {_OURS} ORDER BY 1
"""
# In the order in which they can be refreshed: none before those it reads, through however many views.
_MATERIALIZED_VIEWS = f"""
WITH RECURSIVE reads AS (
  SELECT DISTINCT r.ev_class AS reader, d.refobjid AS read FROM pg_rewrite r JOIN pg_depend d
    ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
    AND d.refobjid <> r.ev_class),
deep AS (
  SELECT oid, 0 AS depth FROM pg_class WHERE relkind IN ('v', 'm')
  UNION SELECT reads.reader, deep.depth + 1 FROM deep JOIN reads ON reads.read = deep.oid)
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN deep ON deep.oid = c.oid
WHERE c.relkind = 'm' AND (c.relispopulated OR {{even_empty}}) AND {_OURS} AND {_NOT_AN_EXTENSIONS}
GROUP BY 1 ORDER BY max(deep.depth), 1
"""
_ROLES = """
SELECT r.rolname AS name, concat_ws(' ',
    CASE WHEN rolsuper THEN 'superuser' END, CASE WHEN rolinherit THEN 'inherit' END,
    CASE WHEN rolcreaterole THEN 'createrole' END, CASE WHEN rolcreatedb THEN 'createdb' END,
    CASE WHEN rolcanlogin THEN 'login' END, CASE WHEN rolreplication THEN 'replication' END,
    CASE WHEN rolbypassrls THEN 'bypassrls' END, 'connections=' || rolconnlimit,
    'until=' || (rolvaliduntil AT TIME ZONE 'UTC')::text,
    'member of ' || (SELECT string_agg(quote_ident(g.rolname) || CASE WHEN m.admin_option THEN '*' ELSE '' END, ', '
        ORDER BY g.rolname) FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid),
    (SELECT array_to_string(s.setconfig, ' ') FROM pg_db_role_setting s
        WHERE s.setrole = r.oid AND s.setdatabase = 0)) AS attributes
FROM pg_roles r WHERE r.rolname !~ '^pg_' ORDER BY 1
"""
_PROPERTIES = """
SELECT pg_get_userbyid(d.datdba) AS owner, d.datcollate AS collate, d.datctype AS ctype,
  coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') AS provider,
  coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale') AS locale,
  d.datconnlimit AS connection_limit, shobj_description(d.oid, 'pg_database') AS comment,
  (SELECT setting FROM pg_settings WHERE name = 'shared_preload_libraries') AS shared_preload_libraries
FROM pg_database d WHERE d.datname = current_database()
"""
_DATABASE_SETTINGS = """
SELECT CASE WHEN s.setrole <> 0 THEN pg_get_userbyid(s.setrole) END AS role,
  split_part(line, '=', 1) AS name, substr(line, strpos(line, '=') + 1) AS value
FROM pg_db_role_setting s, unnest(s.setconfig) AS line
WHERE s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1, 2
"""
_DATABASE_GRANTS = """
SELECT CASE WHEN a.grantee = 0 THEN NULL ELSE pg_get_userbyid(a.grantee) END AS role,
  a.privilege_type AS privilege, a.is_grantable AS grantable
FROM pg_database d, aclexplode(d.datacl) AS a WHERE d.datname = current_database() ORDER BY 1, 2
"""


def fix_settings(session: Session) -> None:
    """Make the session's answers comparable with those that a manifest holds."""
    session.execute(_SETTINGS.strip())


def read_tables(session: Session) -> list[Table]:
    """Every table with rows of its own, without those of extensions."""
    return [Table(**row) for row in session.rows(_TABLES)]


def read_extensions(session: Session) -> dict[str, str]:
    """Extensions and their versions."""
    return {row["name"]: row["version"] for row in session.rows(_EXTENSIONS)}


def read_materialized_views(session: Session, even_empty: bool) -> tuple[str, ...]:
    """The populated ones, or all, quoted, in the order in which they can be refreshed."""
    rows = session.rows(_MATERIALIZED_VIEWS.format(even_empty=str(even_empty)))
    return tuple(row["name"] for row in rows)


def read_census(session: Session) -> Census:
    """What else must come back with the rows. Raises PostgresError."""
    return Census(
        **session.rows(_COUNTS)[0],
        sequences={row["name"]: row["value"] for row in session.rows(_SEQUENCES)},
        materialized_views=read_materialized_views(session, even_empty=False),
        unvalidated=tuple(row["name"] for row in session.rows(_UNVALIDATED)),
        roles={row["name"]: row["attributes"] for row in session.rows(_ROLES)},
    )


def read_properties(session: Session) -> DatabaseProperties:
    """What belongs to the database itself, which pg_restore sets only under the old name. Raises PostgresError."""
    return DatabaseProperties(
        **session.rows(_PROPERTIES)[0],
        settings=tuple((row["role"], row["name"], row["value"]) for row in session.rows(_DATABASE_SETTINGS)),
        grants=tuple(Grant(**row) for row in session.rows(_DATABASE_GRANTS)),
    )


def tables_to_sum(tables: Sequence[Table], asked: tuple[str, ...] | Literal["all"], label: str) -> set[int]:
    """The OIDs of the tables that stack.yaml asks checksums of. Raises PostgresError for one that is not there."""
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


def count_rows(session: Session, tables: Sequence[Table], to_sum: set[int], left_s: float) -> tuple[TableFacts, ...]:
    """Exact rows of each table, and the checksum of those in `to_sum`. Raises PostgresError."""
    facts = []
    for table in tables:
        # Sums of a 64-bit hash of each row's text: the same whatever order the rows come in.
        extra = ", sum(hashtextextended(ops_row::text, 0)::numeric)::text AS checksum"
        columns = "count(*) AS rows" + (extra if table.oid in to_sum else "")
        row: Mapping[str, Any] = session.rows(
            f"SELECT {columns} FROM ONLY {quoted(table.schema, table.name)} AS ops_row",
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
