"""One backup of one server at a time, and the memory of one that was killed.

The kernel frees a flock when its holder dies, even by SIGKILL. The lock's file then still names the backup
that was under way, so the next holder knows exactly what to clean, and touches nobody else's work.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

RETRY_S = 0.5


class LockBusy(RuntimeError):
    """Another backup holds the server's lock and did not end in time."""


class NoState(RuntimeError):
    """The state directory cannot be written to."""


class BackupLock:
    """A held lock; `interrupted` is the folder of a backup that was killed while it held it."""

    def __init__(self, file: int, path: Path, interrupted: str | None) -> None:
        self._file, self._path = file, path
        self.interrupted = interrupted

    def note(self, folder: str) -> None:
        """Write down which folder is being written, before anything is written there. Raises NoState."""
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, folder.encode(), 0)
            os.fsync(self._file)
        except OSError as error:
            raise NoState(f"cannot note the backup in {self._path} ({error.strerror}): make room there") from error

    def clear(self) -> None:
        """Forget the folder: it is whole, or gone again."""
        os.ftruncate(self._file, 0)
        self.interrupted = None


@contextmanager
def locked(directory: Path, server: str, patience_s: float, say: Callable[[str], None]) -> Iterator[BackupLock]:
    """Hold the lock of `server`, waiting up to `patience_s` seconds. Raises LockBusy, NoState."""
    path = directory / "locks" / f"{server}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise NoState(
            f"cannot write to the state directory {directory} ({error.strerror}): make room or fix its owner,"
            " or name another as state_dir"
        ) from error
    try:
        _acquire(file, path, server, patience_s, say)
        yield BackupLock(file, path, os.pread(file, 4096, 0).decode() or None)
    finally:
        os.close(file)


def _acquire(file: int, path: Path, server: str, patience_s: float, say: Callable[[str], None]) -> None:
    deadline = time.monotonic() + patience_s
    told = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = os.pread(file, 4096, 0).decode() or "a run that is about to begin"
        if not told:
            say(f"another backup of server {server} is under way ({holder}): waiting for it to end")
            told = True
        if time.monotonic() >= deadline:
            raise LockBusy(
                f"another backup of server {server} is under way ({holder}) and held {path} for"
                f" {patience_s:.0f} s more: wait for it, or stop it"
            )
        time.sleep(RETRY_S)
