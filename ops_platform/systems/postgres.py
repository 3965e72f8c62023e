"""A Postgres server through its own psql: sessions, and what to make of its errors.

psql instead of a driver, so that a server which only its container can reach is spoken to by the same code.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from ops_platform.stack import Server
from ops_platform.systems.command import Child, CommandFailed, Host

DEBIAN_TOOLS = Path("/usr/lib/postgresql")
LOCK_WAIT = "60s"
QUICK_S = 60.0

_ADVICE = (
    (
        "password authentication failed",
        "the password or user is wrong: check the server's `password` and `url`",
    ),
    ("no password supplied", "the server wants a password: name it under the server's `password`"),
    ("does not exist", "what it names is not on this server: check `database` and the user in `url`"),
    ("Connection refused", "nothing listens there: is the server running, are host and port right?"),
    ("could not connect", "it cannot be reached: is the server running, are host and port right?"),
    ("could not translate host name", "the host is unknown: check the server's `url`"),
    ("server closed the connection", "the server went away in the middle: look at its log, then run again"),
    ("terminating connection", "the server was stopped in the middle: run again when it is back"),
    ("shutting down", "the server is being stopped: run again when it is back"),
    ("starting up", "the server is still starting: run again in a minute"),
    ("permission denied", "the user lacks a right: GRANT pg_read_all_data to it (to restore: use a superuser)"),
    ("locale name", "the server's machine lacks the source's locale: make it (locale-gen) or use the same image"),
    ("No space left on device", "the disk is full: make room, then run again"),
    ("lock timeout", f"another session held a table locked for {LOCK_WAIT}: find it in pg_stat_activity"),
    ("row-level security", "the user does not see every row: give it BYPASSRLS or use a superuser"),
    ("version mismatch", "the dump tool does not fit the server: install the server's own major version"),
    ("passed its deadline", "it took longer than allowed: look for locks, or raise backup_deadline_minutes"),
)


class PostgresError(RuntimeError):
    """Postgres, or a tool that speaks to it, failed; the first line says what, where and what to do."""


def explain(doing: str, error: CommandFailed) -> PostgresError:
    """Put advice before a tool's last words."""
    return PostgresError(f"{doing}: {error.advised(_ADVICE)}")


def quoted(*names: str) -> str:
    """An SQL identifier, dotted; pg_dump's patterns read it literally too."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def literal(text: str) -> str:
    """An SQL string, whatever standard_conforming_strings says."""
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f" E'{escaped}'" if "\\" in text else f"'{escaped}'"


class Postgres:
    """One server; `database` in the calls is a name on it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        tools = (server.client_tools,) if server.client_tools else ()
        self.where = server.where
        self.container = server.container
        self.directories: tuple[str, ...] = tuple(t for t in tools if t)
        debian = sorted(DEBIAN_TOOLS.glob("*/bin"), key=_major_of_directory, reverse=True)
        self._psql_host = Host(server.container, self.directories + tuple(map(str, debian)))

    def secrets(self) -> dict[str, str]:
        """The environment that carries the password to a tool."""
        password = self._server.password
        return {"PGPASSWORD": password.reveal()} if password else {}

    def url(self, database: str) -> str:
        """The connection string of one database, without a password."""
        parts = urlsplit(self._server.url)
        extra = "application_name=ops_platform&connect_timeout=10"
        query = f"{parts.query}&{extra}" if parts.query else extra
        return urlunsplit((parts.scheme, parts.netloc, "/" + quote(database, safe=""), query, ""))

    @contextmanager
    def session(self, database: str, deadline_s: float) -> Iterator[Session]:
        """An open psql on `database`. Raises PostgresError, ToolMissing."""
        arguments = [
            "-X",
            "-A",
            "-t",
            "-q",
            "--no-password",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            self.url(database),
        ]
        with self._psql_host.running("psql", arguments, self.secrets(), deadline_s) as child:
            yield Session(child, f"{database} at {self.where}")


def _major_of_directory(path: Path) -> float:
    try:
        return float(path.parent.name)
    except ValueError:
        return 0.0


class Session:
    """One psql process: each call sends a statement and waits for its answer."""

    def __init__(self, child: Child, where: str) -> None:
        self._child, self._where = child, where
        self._selector = selectors.DefaultSelector()
        self._selector.register(child.stdout, selectors.EVENT_READ)

    def execute(self, sql: str, timeout_s: float = QUICK_S) -> None:
        """Run a statement that answers nothing. Raises PostgresError."""
        self._ask(f"{sql};\n", timeout_s)

    def rows(self, sql: str, timeout_s: float = QUICK_S) -> list[Mapping[str, Any]]:
        """Run a query and return its rows as mappings of plain JSON values. Raises PostgresError."""
        answer = self._ask(f"SELECT coalesce(json_agg(row_to_json(q)), '[]') FROM ({sql}) AS q;\n", timeout_s)
        rows: list[Mapping[str, Any]] = json.loads(answer)
        return rows

    def _ask(self, text: str, timeout_s: float) -> str:
        mark = f"--end-{secrets.token_hex(8)}--"
        try:
            self._child.write(f"{text}\\echo {mark}\n".encode())
        except BrokenPipeError:
            self._failed()
        end = f"{mark}\n".encode()
        answer = bytearray()
        deadline = time.monotonic() + timeout_s
        while not answer.endswith(end):
            if not self._selector.select(max(0.0, deadline - time.monotonic())):
                self._child.kill()
                raise PostgresError(
                    f"{self._where}: no answer within {timeout_s:.0f} s: look for locks in pg_stat_activity"
                )
            chunk = os.read(self._child.stdout.fileno(), 1 << 16)
            if not chunk:
                self._failed()
            answer += chunk
        return answer[: -len(end)].decode()

    def _failed(self) -> None:
        code = self._child.wait()
        raise explain(
            f"{self._where}",
            CommandFailed("psql", None if self._child.overdue else code, self._child.last_words()),
        ) from None
