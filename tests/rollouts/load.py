"""A load of so many requests a second, whatever the answers take: what each was, and how long after its due time.

`load_on` runs this file as a process of its own, so that its clock is not the test's. It ends with its standard
input and prints JSON.
"""

from __future__ import annotations

import collections
import http.client
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

RATE = 200.0  # requests a second, as the issue that asked for rollouts has it
WORKERS = 60
TIMEOUT_S = 10.0


@dataclass
class Load:
    """What the load's requests met; `versions` counts the first words of the answers."""

    rate: float
    requests: int
    lost: list[str]
    slowest_s: float
    p99_s: float
    versions: dict[str, int]


@contextmanager
def load_on(url: str, rate: float = RATE) -> Iterator[Load]:
    """`rate` requests a second while the block lasts, and a second around it; what they met is there after it."""
    running = subprocess.Popen(
        [sys.executable, __file__, url, str(rate)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    met = Load(rate, 0, [], 0, 0, {})
    time.sleep(1)
    try:
        yield met
        time.sleep(1)
    finally:
        printed, _ = running.communicate(timeout=60)
        met.__dict__.update(json.loads(printed))


class Generator:
    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.address, self.path = parts.netloc, parts.path or "/"
        self.due: queue.Queue[float | None] = queue.Queue()
        self.lock = threading.Lock()
        self.seconds: list[float] = []
        self.lost: list[str] = []
        self.versions: collections.Counter[str] = collections.Counter()

    def work(self, keep_alive: bool) -> None:
        connection: http.client.HTTPConnection | None = None
        while (due := self.due.get()) is not None:
            connection = connection or http.client.HTTPConnection(self.address, timeout=TIMEOUT_S)
            try:
                connection.request("GET", self.path)
                answer = connection.getresponse()
                body = answer.read().decode("utf-8", "replace")
                self.note(due, "" if answer.status == 200 else f"{answer.status} {body[:80]}", body)
            except (OSError, http.client.HTTPException) as error:
                self.note(due, repr(error), "")
                keep = False
            else:
                keep = keep_alive
            if not keep:
                connection.close()
                connection = None

    def note(self, due: float, lost: str, body: str) -> None:
        took = time.monotonic() - due
        with self.lock:
            self.seconds.append(took)
            if lost:
                self.lost.append(f"{time.time():.3f} {lost}")
            else:
                version = body.split(maxsplit=1)[0] if body else ""
                self.versions[version] += 1

    def run(self, rate: float) -> None:
        workers = [threading.Thread(target=self.work, args=(i % 2 == 0,), daemon=True) for i in range(WORKERS)]
        for worker in workers:
            worker.start()
        ended = threading.Event()
        threading.Thread(target=self.until_told, args=(ended,), daemon=True).start()
        due = time.monotonic()
        while not ended.is_set():
            self.due.put(due)
            due += 1 / rate
            time.sleep(max(0.0, due - time.monotonic()))
        for _ in workers:
            self.due.put(None)
        patience = time.monotonic() + TIMEOUT_S + 1
        for worker in workers:
            worker.join(max(0.0, patience - time.monotonic()))
        self.report()

    @staticmethod
    def until_told(ended: threading.Event) -> None:
        sys.stdin.read()
        ended.set()

    def report(self) -> None:
        ordered = sorted(self.seconds)
        unsent = [f"due at {due:.3f}, never sent" for due in self.due.queue if due is not None]
        found = {
            "requests": len(ordered),
            "lost": self.lost + unsent,
            "slowest_s": ordered[-1],
            "p99_s": ordered[int(len(ordered) * 0.99)],
            "versions": self.versions,
        }
        json.dump(found, sys.stdout)


if __name__ == "__main__":
    Generator(sys.argv[1]).run(float(sys.argv[2]))
