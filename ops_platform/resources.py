"""What hands the systems to Dagster's assets: the stack and its bucket, opened when a run asks for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import dagster as dg

from ops_platform.stack import Stack
from ops_platform.systems.object_store import ObjectStore
from ops_platform.systems.progress import Progress, Report

LOG_EVERY_S = 5.0


def report_to_log(log: dg.DagsterLogManager) -> Report:
    """Progress as a log line every five seconds."""
    last = time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= LOG_EVERY_S:
            last = time.monotonic()
            log.info(str(progress))

    return report


@dataclass(frozen=True)
class Operations:
    """The operated stack as assets see it. Secrets are asked for only inside a run."""

    stack: Stack
    reporter: Callable[[dg.DagsterLogManager], Report] = report_to_log

    def store(self) -> ObjectStore:
        """The stack's bucket. Raises SecretMissing."""
        return ObjectStore(self.stack.bucket)
