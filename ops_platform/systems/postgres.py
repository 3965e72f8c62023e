"""A Postgres server through its own client tools: a session in psql, dumps, globals, a dump's contents.

psql instead of a driver, so that a server which only its container can reach is spoken to by the same code.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import selectors
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from ops_platform.stack import Server
from ops_platform.systems.command import Child, CommandFailed, Host, run, running

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
    ("permission denied", "the user lacks a right: GRANT pg_read_all_data to it, or use the owner"),
    ("lock timeout", f"another session held a table locked for {LOCK_WAIT}: find it in pg_stat_activity"),
    ("row-level security", "the user does not see every row: give it BYPASSRLS or use a superuser"),
    ("version mismatch", "the dump tool does not fit the server: install the server's own major version"),
    ("No such container", "there is no such container: check the server's `container`"),
    ("is not running", "the container is stopped: start it"),
    ("Cannot connect to the Docker daemon", "the Docker Engine is away: start it, or check DOCKER_HOST"),
    ("passed its deadline", "it took longer than allowed: look for locks, or raise backup_deadline_minutes"),
)


class PostgresError(RuntimeError):
    """Postgres, or a tool that speaks to it, failed; the first line says what, where and what to do."""


class WrongToolVersion(PostgresError):
    """The client tools are not of the server's major version."""


def explain(doing: str, error: CommandFailed) -> PostgresError:
    """Put advice before a tool's last words."""
    advice = next((text for sign, text in _ADVICE if sign in str(error)), "its own message follows")
    return PostgresError(f"{doing}: {advice}\n{error}")


def quoted(*names: str) -> str:
    """An SQL identifier, dotted; pg_dump's patterns read it literally too."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


@dataclass(frozen=True)
class DumpEntry:
    """A line of a dump's table of contents; `oid` is the object's own in the source database."""

    oid: int
    kind: str
    label: str


_ENTRY = re.compile(r"^\d+; \d+ (\d+) (TABLE DATA|TABLE|SEQUENCE SET|BLOBS|[A-Z]+(?: [A-Z]+)*) (.*)$", re.MULTILINE)


def parse_contents(listing: str) -> tuple[DumpEntry, ...]:
    """Read what `pg_restore --list` printed; comment lines are passed over."""
    return tuple(DumpEntry(int(oid), kind, label) for oid, kind, label in _ENTRY.findall(listing))


class Postgres:
    """One server; `database` in the calls is a name on it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        tools = (server.client_tools,) if server.client_tools else ()
        self.where = f"{server.url} in container {server.container}" if server.container else server.url
        self._container = server.container
        self._directories: tuple[str, ...] = tuple(t for t in tools if t)
        debian = sorted(DEBIAN_TOOLS.glob("*/bin"), key=_major_of_directory, reverse=True)
        self._psql_host = Host(server.container, self._directories + tuple(map(str, debian)))

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
        keys = self.secrets()
        command = self._psql_host.command("psql", arguments, keys)
        with running(command, keys, program="psql", deadline_s=deadline_s) as child:
            yield Session(child, f"{database} at {self.where}")

    def tools_of(self, major: int) -> Tools:
        """The dump tools of `major`, which is the server's. Raises WrongToolVersion, ToolMissing."""
        host = Host(self._container, (*self._directories, str(DEBIAN_TOOLS / str(major) / "bin")))
        try:
            command = host.command("pg_dump", ["--version"], {})
            printed = run(command, {}, program="pg_dump", deadline_s=QUICK_S).decode().strip()
        except CommandFailed as error:
            raise explain(f"could not ask pg_dump for its version ({self.where})", error) from None
        found = re.search(r"\(PostgreSQL\) (\d+)", printed)
        if found is None or int(found[1]) != major:
            raise WrongToolVersion(
                f"{self.where} is Postgres {major}, but the pg_dump at hand is {printed!r}: install"
                f" postgresql-client-{major}, or name its directory under the server's client_tools"
            )
        return Tools(self, host, printed)


def _major_of_directory(path: Path) -> float:
    try:
        return float(path.parent.name)
    except ValueError:
        return 0.0


@dataclass(frozen=True)
class Tools:
    """pg_dump, pg_dumpall and pg_restore of the server's own major version."""

    postgres: Postgres
    host: Host
    version: str

    @contextmanager
    def dump(self, database: str, snapshot: str, selection: Sequence[str], deadline_s: float) -> Iterator[Child]:
        """A running pg_dump in custom format, uncompressed, of an exported snapshot."""
        arguments = ["-Fc", "-Z0", "--no-password", f"--lock-wait-timeout={LOCK_WAIT}"]
        arguments += [f"--snapshot={snapshot}", "-d", self.postgres.url(database), *selection]
        with self._running("pg_dump", arguments, deadline_s) as child:
            child.stdin.close()
            yield child

    @contextmanager
    def globals(self, database: str, with_passwords: bool, deadline_s: float) -> Iterator[Child]:
        """A running pg_dumpall of roles and tablespaces, as SQL."""
        arguments = ["--globals-only", "--no-password", f"--lock-wait-timeout={LOCK_WAIT}"]
        arguments += [] if with_passwords else ["--no-role-passwords"]
        arguments += ["-d", self.postgres.url(database), "-l", database]
        with self._running("pg_dumpall", arguments, deadline_s) as child:
            child.stdin.close()
            yield child

    @contextmanager
    def contents(self, deadline_s: float) -> Iterator[ContentsReader]:
        """A running `pg_restore --list`, to be fed the head of a dump."""
        command = self.host.command("pg_restore", ["--list"], {})
        with running(command, {}, program="pg_restore --list", deadline_s=deadline_s) as child:
            yield ContentsReader(child)

    @contextmanager
    def _running(self, program: str, arguments: Sequence[str], deadline_s: float) -> Iterator[Child]:
        keys = self.postgres.secrets()
        command = self.host.command(program, arguments, keys)
        with running(command, keys, program=program, deadline_s=deadline_s) as child:
            yield child


class ContentsReader:
    """Reads a dump's table of contents from the passing stream; takes no more than the head."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._satisfied = False
        self._printed = bytearray()
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def feed(self, piece: memoryview) -> None:
        """Offer the next bytes of the dump; once the tool has read enough they are passed over."""
        if self._satisfied:
            return
        view = piece
        try:
            while view:
                view = view[self._child.process.stdin.write(view) :]  # type: ignore[union-attr]
        except BrokenPipeError:
            self._satisfied = True

    def entries(self) -> tuple[DumpEntry, ...]:
        """What the dump lists. Raises CommandFailed when the head is no readable dump."""
        try:
            self._child.stdin.close()
        except BrokenPipeError:
            self._satisfied = True
        self._thread.join()
        self._child.finish()
        return parse_contents(self._printed.decode("utf-8", "replace"))

    def _collect(self) -> None:
        while chunk := self._child.stdout.read(1 << 16):
            self._printed += chunk


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
        answer = self._ask(f"SELECT coalesce(json_agg(row_to_json(q)), '[]') FROM ({sql}) AS q;\n", timeout_s)  # noqa: S608  sql is this project's own
        rows: list[Mapping[str, Any]] = json.loads(answer)
        return rows

    def _ask(self, text: str, timeout_s: float) -> str:
        mark = f"--end-{secrets.token_hex(8)}--"
        try:
            view = memoryview(f"{text}\\echo {mark}\n".encode())
            while view:
                view = view[self._child.process.stdin.write(view) :]  # type: ignore[union-attr]
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
