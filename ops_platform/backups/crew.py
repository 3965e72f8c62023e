"""Several streams of one backup at once: the first that fails stops the others, and its error is the one told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Generic, Self, TypeVar

from ops_platform.systems.command import Child

Result = TypeVar("Result")


class Stopped(RuntimeError):
    """This stream ended because another failed; never the error that a user sees."""


class Crew(Generic[Result]):
    """A few worker threads whose child processes can all be killed at once."""

    def __init__(self, size: int) -> None:
        self._pool = ThreadPoolExecutor(size, thread_name_prefix="backup")
        self._futures: list[Future[Result]] = []
        self._children: list[Child] = []
        self._lock = threading.Lock()
        self._stopping = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, work: Callable[[], Result]) -> None:
        self._futures.append(self._pool.submit(self._unless_stopped, work))

    def watch(self, child: Child) -> None:
        """Have `child` killed when the crew stops. Raises Stopped when it has already."""
        with self._lock:
            if self._stopping:
                raise Stopped
            self._children.append(child)

    def stop(self) -> None:
        """Kill every child; their streams then end with an error and their objects are given up."""
        with self._lock:
            self._stopping = True
            for child in self._children:
                child.kill()

    def results(self) -> list[Result]:
        """Wait for all, in the order they were submitted; raise the first failure in time."""
        done, _ = wait(self._futures, return_when=FIRST_EXCEPTION)
        failed = [f for f in done if f.exception() and not isinstance(f.exception(), Stopped)]
        if failed:
            self.stop()
            error = failed[0].exception()
            assert error is not None
            raise error
        return [future.result() for future in self._futures]

    def _unless_stopped(self, work: Callable[[], Result]) -> Result:
        if self._stopping:
            raise Stopped
        return work()
