"""Taking the time, processor time and memory of a command and all its children."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

SAMPLE_S = 0.25  # a look at the tree costs milliseconds, which a way that uses every core would pay for


@dataclass(frozen=True)
class Measured:
    """`cpu_seconds` and `peak_bytes` (resident, summed) are of the whole process tree, servers aside."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    printed: str


def measure(command: Sequence[str], environment: Mapping[str, str], deadline_s: float = 900) -> Measured:
    """Run a command. Raises CalledProcessError when it fails, TimeoutExpired past its deadline."""
    begun = time.monotonic()
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
    peak = _Peak(process.pid)
    before = os.times()
    printed, _ = process.communicate(timeout=deadline_s)
    seconds = time.monotonic() - begun
    after = os.times()
    peak.ended.set()
    peak.join()
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command)
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Measured(round(seconds, 2), round(cpu, 2), peak.bytes, printed.strip())


class _Peak(threading.Thread):
    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        self._words: list[str] = []
        self.bytes = 0
        self.ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.ended.wait(SAMPLE_S):
            total = 0
            try:
                self._words = self._root.cmdline()
                tree = [self._root, *self._root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in tree:
                try:
                    # Between vfork and exec a child is its parent once more: the same pages, counted twice.
                    if process.pid == self._root.pid or process.cmdline() != self._words:
                        total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue  # it ended between the listing and the look
            self.bytes = max(self.bytes, total)
