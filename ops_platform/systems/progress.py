"""How far a backup or restore has come, told once a second while it runs, and how long its phases took."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

TELL_EVERY_S = 1.0


@dataclass(frozen=True)
class Progress:
    """`expected_bytes` is what the last backup read, or the tables' size on disk: a guess, 0 for none."""

    name: str
    raw_bytes: int
    expected_bytes: int
    seconds: float

    @property
    def share(self) -> float:
        """The part done, from 0 to 1; stays below 1 until the end is known."""
        return min(0.99, self.raw_bytes / self.expected_bytes) if self.expected_bytes else 0.0

    def __str__(self) -> str:
        rate = self.raw_bytes / self.seconds / 1e6 if self.seconds else 0.0
        share = f" ({self.share:.0%})" if self.expected_bytes else ""
        return f"{self.name}: {self.raw_bytes / 1e6:,.0f} MB{share}, {rate:,.0f} MB/s"


Report = Callable[[Progress], None]


class Meter:
    """Counts bytes over threads."""

    def __init__(self, name: str, expected_bytes: int) -> None:
        self._name, self.expected_bytes = name, expected_bytes
        self._raw_bytes = 0
        self._begun = time.monotonic()
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._raw_bytes += count

    def read(self) -> Progress:
        return Progress(self._name, self._raw_bytes, self.expected_bytes, time.monotonic() - self._begun)


@contextmanager
def telling(meter: Meter, report: Report) -> Iterator[None]:
    """Report once a second from a thread of its own until the block ends, and once more then."""
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(TELL_EVERY_S):
            report(meter.read())

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()
    report(meter.read())


@dataclass
class Clock:
    """Seconds by phase."""

    laps: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.monotonic)

    def lap(self, phase: str) -> None:
        now = time.monotonic()
        self.laps[phase] = round(now - self._last, 3)
        self._last = now
