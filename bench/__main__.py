"""`make bench`: this project's backups, restores and command beside what a user would otherwise do, in one run.

The ways of each part are run in turn, `ROUNDS` times, on one seeded database of over a gigabyte; medians and ratios
are printed and kept in bench/results.json.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.measure import Measured, measure
from bench.ways import Ground, Way, backups, restores, starts
from demo.market import LARGE, Size, load_market
from ops_platform.systems.throwaway.postgres import PostgresServer
from ops_platform.systems.throwaway.s3 import S3Server

ROUNDS = 3
TENTH = Size(LARGE.symbols // 10, LARGE.days, LARGE.news // 10, LARGE.scores // 10)
RESULTS = Path(__file__).with_name("results.json")
console = Console()


def main() -> int:
    """Run all; returns the process's exit code."""
    area = Path(tempfile.mkdtemp(prefix="ops-bench-", dir="/var/tmp"))
    area.chmod(0o755)
    # No disk's waits, no checkpoints and no autovacuum in the middle of one way and not of another.
    settings = {"fsync": "off", "shared_buffers": "256MB", "max_wal_size": "4GB", "autovacuum": "off"}
    try:
        with PostgresServer(area / "postgres", settings=settings) as postgres, S3Server(area / "s3") as s3:
            s3.create_bucket("bench")
            with console.status("loading 1.2 GB and a tenth of it"):
                load_market(postgres, "large", LARGE)
                load_market(postgres, "tenth", TENTH)
            os.environ.update(PGPASSWORD=postgres.password, S3_KEY=s3.access_key, S3_SECRET=s3.secret_key)
            ground = Ground(area, postgres, s3)
            parts = {"backup": _taken(backups(ground))}
            dump, local = str(postgres.bin / "pg_dump"), str(area / "local.dump")
            subprocess.run([dump, "-Fc", "-Z0", "-d", f"{postgres.url}/large", "-f", local], check=True, timeout=300)
            parts["restore"] = _taken(restores(ground))
            parts["start"] = _taken(starts())
            size = int(postgres.sql("SELECT pg_database_size('large')"))
    finally:
        shutil.rmtree(area, ignore_errors=True)
    figures = {part: _figures(taken) for part, taken in parts.items()}
    for part, found in figures.items():
        _show(part, found, size)
    kept = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "database_bytes": size,
        "rounds": ROUNDS,
        **figures,
    }
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    console.print(f"kept in {RESULTS.name}")
    return 0


def _taken(ways: list[Way]) -> list[tuple[Way, list[Measured]]]:
    taken: list[tuple[Way, list[Measured]]] = [(way, []) for way in ways]
    for number in range(ROUNDS):
        for way, runs in taken:
            way.prepare()
            console.print(f"round {number + 1} of {ROUNDS}: {way.name}")
            runs.append(measure(way.command, {}))
    return taken


def _figures(taken: list[tuple[Way, list[Measured]]]) -> dict[str, dict[str, Any]]:
    """Medians, and how the seconds compare with the floor (the first way) and the reference (the second)."""
    seconds = [statistics.median(run.seconds for run in runs) for _, runs in taken]
    found = {}
    for (way, runs), own in zip(taken, seconds, strict=True):
        found[way.name] = {
            "seconds": own,
            "cpu_seconds": statistics.median(run.cpu_seconds for run in runs),
            "peak_mb": round(statistics.median(run.peak_bytes for run in runs) / 1e6, 1),
            "mb": round(int(runs[-1].printed) / 1e6, 1),
            "times_floor": round(own / seconds[0], 2) if way.whole else None,
            "times_faster_than_reference": round(seconds[1] / own, 2) if way.whole else None,
        }
    return found


def _show(part: str, figures: dict[str, dict[str, Any]], size: int) -> None:
    table = Table(title=f"{part}: a database of {size / 1e9:.2f} GB, {os.cpu_count()} cores, median of {ROUNDS}")
    for heading in ("way", "s", "CPU s", "MB peak", "MB", "× floor", "× faster"):
        table.add_column(heading, justify="left" if heading == "way" else "right", no_wrap=True)
    for name, row in figures.items():
        table.add_row(name, *("" if value is None else str(value) for value in row.values()))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
