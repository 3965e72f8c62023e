"""A drill's quarters: a private directory, held by a lock, and what a later run must know to clear it away.

The kernel frees the lock when its holder dies, even by SIGKILL; whoever can take it then may sweep.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from ops_platform.systems.command import CommandFailed, ToolMissing
from ops_platform.systems.throwaway.container import Container

CLEARING_S = 10.0
_NAME = "ops-drill-"
_PROGRAMS = {"initdb", "postgres", "redis-server", "valkey-server", "timeout"}


class NoQuarters(RuntimeError):
    """The directory for drills cannot be used."""


@dataclass
class Note:
    """What was started here beside local processes: a container; and until when all of it is kept."""

    container: str | None = None
    kept_until: str | None = None


class Quarters:
    """A held directory; `name` is random, and the container's too."""

    def __init__(self, lock: int, directory: Path) -> None:
        self._lock, self.directory = lock, directory
        self.name = directory.name
        self.note = Note()

    def write_note(self) -> None:
        """Write down what is to be cleared away, before it is started."""
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, json.dumps(asdict(self.note)).encode(), 0)
        os.fsync(self._lock)


@contextmanager
def quarters(root: Path) -> Iterator[Quarters]:
    """A new directory below `root`, cleared away at the end unless it is kept. Raises NoQuarters."""
    try:
        root.mkdir(mode=0o755, parents=True, exist_ok=True)
        while True:
            directory = root / f"{_NAME}{secrets.token_hex(6)}"
            lock = _take(directory.with_suffix(".lock"), os.O_CREAT)
            if lock is not None:
                break
        directory.mkdir(mode=0o755)
    except OSError as error:
        raise NoQuarters(
            f"cannot make a directory for the drill in {root} ({error.strerror}): make room or fix its owner, or"
            " name another as drills.directory"
        ) from error
    held = Quarters(lock, directory)
    try:
        held.write_note()
        yield held
    finally:
        try:
            if held.note.kept_until is None:
                _clear(directory, held.note)
        finally:
            os.close(lock)


def sweep(root: Path, now: datetime, say: Callable[[str], None]) -> None:
    """Clear away what killed drills left, and what was kept until before `now`."""
    for path in sorted(root.glob(f"{_NAME}*.lock")):
        lock = _take(path, 0)
        if lock is None:
            continue  # its drill is under way
        try:
            body = os.pread(lock, 4096, 0)
            note = Note(**json.loads(body)) if body else Note()
            if note.kept_until is None or datetime.fromisoformat(note.kept_until) <= now:
                _clear(path.with_suffix(""), note)
                say(
                    f"removed {path.stem}, which {'was kept until now' if note.kept_until else 'a killed drill left'}"
                )
        finally:
            os.close(lock)


def _take(path: Path, flags: int) -> int | None:
    try:
        lock = os.open(path, os.O_RDWR | flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _clear(directory: Path, note: Note) -> None:
    if note.container is not None:
        try:
            Container(note.container).remove()
        except (CommandFailed, ToolMissing) as error:
            raise NoQuarters(f"could not remove the drill's container {note.container}: {error}") from None
    deadline = time.monotonic() + CLEARING_S
    while directory.exists():
        _end_processes(directory)
        try:
            shutil.rmtree(directory)
        except OSError as error:  # a server that has just been killed may still write
            if time.monotonic() > deadline:
                raise NoQuarters(f"cannot remove {directory} ({error.strerror}): remove it by hand") from error
            time.sleep(0.2)
    directory.with_suffix(".lock").unlink(missing_ok=True)


def _end_processes(directory: Path) -> None:
    """Kill the servers that were started on the directory, whoever their parent is by now."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended
        ours = any(str(directory).encode() in word for word in words)
        if ours and Path(words[0].decode("utf-8", "replace")).name in _PROGRAMS:
            with suppress(ProcessLookupError):
                os.kill(int(process.name), signal.SIGKILL)
