"""pg_dump, pg_dumpall and pg_restore of a server's own major version: dumps out, dumps in, what a dump lists."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ops_platform.systems.command import Child, CommandFailed, Host
from ops_platform.systems.postgres import DEBIAN_TOOLS, LOCK_WAIT, QUICK_S, Postgres, PostgresError, explain

_INTO = ("--exit-on-error", "--no-password", "--no-tablespaces")
# After a crash a restore begins anew, so no commit waits for the disk.
_OPTIONS = "-c synchronous_commit=off -c statement_timeout=0"


class WrongToolVersion(PostgresError):
    """The client tools are not of the server's major version."""


@dataclass(frozen=True)
class DumpEntry:
    """A line of a dump's table of contents: its number there, the object's OID at the source, what it depends on."""

    number: int
    oid: int
    kind: str
    depends_on: frozenset[int] = frozenset()


_ENTRY = re.compile(
    r"^(\d+); \d+ (\d+) (TABLE DATA|TABLE|INDEX ATTACH|INDEX|FK CONSTRAINT|CONSTRAINT|\S+) .*"
    r"(?:\n;\tdepends on:([ \d]*))?",
    re.MULTILINE,
)


def parse_contents(listing: str) -> tuple[DumpEntry, ...]:
    """Read what `pg_restore --list` printed, verbose or not; comment lines are passed over."""
    return tuple(
        DumpEntry(int(number), int(oid), kind, frozenset(map(int, depends_on.split())))
        for number, oid, kind, depends_on in _ENTRY.findall(listing)
    )


def tools_of(postgres: Postgres, major: int) -> Tools:
    """The tools of `major`, which is the server's. Raises WrongToolVersion, ToolMissing."""
    host = Host(postgres.container, (*postgres.directories, str(DEBIAN_TOOLS / str(major) / "bin")))
    try:
        printed = host.run("pg_dump", ["--version"], {}, QUICK_S).decode().strip()
    except CommandFailed as error:
        raise explain(f"could not ask pg_dump for its version ({postgres.where})", error) from None
    found = re.search(r"\(PostgreSQL\) (\d+)", printed)
    if found is None or int(found[1]) != major:
        raise WrongToolVersion(
            f"{postgres.where} is Postgres {major}, but the pg_dump at hand is {printed!r}: install"
            f" postgresql-client-{major}, or name its directory under the server's client_tools"
        )
    return Tools(postgres, host, printed)


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
        with self.host.running("pg_restore", ["--list"], {}, deadline_s) as child:
            yield ContentsReader(child)

    @contextmanager
    def load(self, database: str, deadline_s: float) -> Iterator[Child]:
        """A running pg_restore of data into `database` that stops at the first error, to be fed a dump."""
        arguments = [*_INTO, "-d", self.postgres.url(database)]
        with self.host.running("pg_restore", arguments, self._in_a_hurry(), deadline_s) as child:
            yield child

    def load_section(self, database: str, file: str, section: str, deadline_s: float) -> None:
        """Run a section of the dump in `file`. Raises CommandFailed."""
        arguments = [*_INTO, f"--section={section}", "-d", self.postgres.url(database), file]
        self.host.run("pg_restore", arguments, self._in_a_hurry(), deadline_s)

    def load_entries(
        self, database: str, file: str, entries: Sequence[DumpEntry], jobs: int, deadline_s: float
    ) -> None:
        """Run entries of the dump in `file`, given in its own order, `jobs` at a time. Raises CommandFailed."""
        arguments = [*_INTO, f"--jobs={jobs}", "--use-list=/dev/stdin", "-d", self.postgres.url(database), file]
        wanted = "".join(f"{entry.number}\n" for entry in entries).encode()
        self.host.run("pg_restore", arguments, self._in_a_hurry(), deadline_s, wanted)

    def contents_of(self, file: str, deadline_s: float, section: str | None = None) -> tuple[DumpEntry, ...]:
        """What the dump in `file` lists: all with dependencies, or a section without. Raises CommandFailed."""
        which = "--verbose" if section is None else f"--section={section}"  # verbose means: whatever the section
        return parse_contents(self.host.run("pg_restore", ["--list", which, file], {}, deadline_s).decode())

    @contextmanager
    def schema_of_dump(self, deadline_s: float) -> Iterator[Child]:
        """A running pg_restore that prints as SQL the schema of the dump it is fed."""
        with self.host.running("pg_restore", ["--schema-only", "-f", "-"], {}, deadline_s) as child:
            yield child

    @contextmanager
    def schema_of_database(self, database: str, deadline_s: float) -> Iterator[Child]:
        """A running pg_dump that prints the schema of `database` as SQL."""
        arguments = ["--schema-only", "--no-password", "-d", self.postgres.url(database)]
        with self._running("pg_dump", arguments, deadline_s) as child:
            child.stdin.close()
            yield child

    @contextmanager
    def _running(self, program: str, arguments: Sequence[str], deadline_s: float) -> Iterator[Child]:
        with self.host.running(program, arguments, self.postgres.secrets(), deadline_s) as child:
            yield child

    def _in_a_hurry(self) -> dict[str, str]:
        return {**self.postgres.secrets(), "PGOPTIONS": _OPTIONS}


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
        try:
            self._child.write(piece)
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
