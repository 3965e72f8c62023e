"""Which statements of a globals dump (pg_dumpall --globals-only) make the roles that a server lacks: a planner.

Roles that are there already keep their passwords, attributes and memberships: they are somebody's.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

_NAME = r'("(?:[^"]|"")+"|[^\s;"]+)'
_ROLE = re.compile(rf"^(CREATE|ALTER|COMMENT ON) ROLE {_NAME}", re.IGNORECASE)
_MEMBERSHIP = re.compile(rf"^GRANT {_NAME} TO {_NAME}(.*?)(?: GRANTED BY {_NAME})?;$", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class RolePlan:
    """`statements` in order, without the final semicolon; they may hold password verifiers. `created` are names."""

    created: tuple[str, ...]
    statements: tuple[str, ...]


def plan_roles(globals_sql: str, existing: Collection[str]) -> RolePlan:
    """Choose what creates the roles of `globals_sql` that are not among `existing`."""
    created: list[str] = []
    chosen: list[str] = []
    memberships: list[tuple[str, str]] = []
    for statement in _statements(globals_sql):
        if role := _ROLE.match(statement):
            name = _plain(role[2])
            if role[1].upper() == "CREATE" and name not in existing:
                created.append(name)
            if name in created:
                chosen.append(statement.removesuffix(";"))
        elif membership := _MEMBERSHIP.match(statement):
            # Who granted it may not be here; then the restoring user does.
            text = f"GRANT {membership[1]} TO {membership[2]}{membership[3]}"
            memberships.append((_plain(membership[2]), text))
    chosen += [text for member, text in memberships if member in created]
    return RolePlan(tuple(created), tuple(chosen))


def _plain(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _statements(text: str) -> Iterator[str]:
    """Whole statements, whose strings may hold line ends; comments and psql's own commands are passed over."""
    pending = ""
    for line in text.splitlines(keepends=True):
        if not pending and line.startswith(("--", "\\")):
            continue
        pending += line
        if pending.rstrip().endswith(";") and pending.count("'") % 2 == 0 and pending.count('"') % 2 == 0:
            yield pending.strip()
            pending = ""
        elif not pending.strip():
            pending = ""
