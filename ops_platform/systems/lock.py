"""One run at a time over one thing, and the memory of a run that was killed.

The kernel frees a flock when its holder dies, even by SIGKILL. The lock's file then still names what was under
way, so the next holder knows exactly what to clean or to finish, and touches nobody else's work.
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
    """Another run holds the lock and did not end in time."""


class NoState(RuntimeError):
    """The state directory cannot be written to."""


class Lock:
    """A held lock; `interrupted` is what a run that was killed while it held the lock had noted."""

    def __init__(self, file: int, path: Path, interrupted: str | None) -> None:
        self._file, self._path = file, path
        self.interrupted = interrupted

    def note(self, work: str) -> None:
        """Write down what is about to be done, before it is begun. Raises NoState."""
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, work.encode(), 0)
            os.fsync(self._file)
        except OSError as error:
            raise NoState(f"cannot note the work in {self._path} ({error.strerror}): make room there") from error

    def clear(self) -> None:
        """Forget the work: it is done, or undone."""
        os.ftruncate(self._file, 0)
        self.interrupted = None


@contextmanager
def locked(directory: Path, name: str, what: str, patience_s: float, say: Callable[[str], None]) -> Iterator[Lock]:
    """Hold the lock `name`, waiting up to `patience_s`; `what` is done under it ("backup of server x").

    Raises LockBusy, NoState.
    """
    path = directory / "locks" / f"{name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise NoState(
            f"cannot write to the state directory {directory} ({error.strerror}): make room or fix its owner,"
            " or name another as state_dir"
        ) from error
    try:
        _acquire(file, path, what, patience_s, say)
        yield Lock(file, path, os.pread(file, 4096, 0).decode() or None)
    finally:
        os.close(file)


def _acquire(file: int, path: Path, what: str, patience_s: float, say: Callable[[str], None]) -> None:
    deadline = time.monotonic() + patience_s
    told = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = os.pread(file, 4096, 0).decode() or "a run that is about to begin"
        if time.monotonic() >= deadline:
            raise LockBusy(
                f"another {what} is under way ({holder}) and held {path} for {patience_s:.0f} s more:"
                " wait for it, or stop it"
            )
        if not told:
            say(f"another {what} is under way ({holder}): waiting for it to end")
            told = True
        time.sleep(RETRY_S)
