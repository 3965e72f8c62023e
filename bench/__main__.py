"""`make bench`: this project's backup beside pg_dump alone, the reference script's way and pg_dump | zstd.

The ways are run in turn, `ROUNDS` times, on one seeded database of over a gigabyte; medians and ratios are
printed and kept in bench/results.json.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pyrage
from rich.console import Console
from rich.table import Table

from bench.measure import Measured, measure
from demo.market import LARGE, Size, load_market
from ops_platform.systems.throwaway.postgres import PostgresServer
from ops_platform.systems.throwaway.s3 import S3Server

ROUNDS = 3
TENTH = Size(LARGE.symbols // 10, LARGE.days, LARGE.news // 10, LARGE.scores // 10)
RESULTS = Path(__file__).with_name("results.json")
console = Console()


def main() -> int:
    """Run all; returns the process's exit code."""
    area = Path(tempfile.mkdtemp(prefix="ops-bench-"))
    area.chmod(0o755)
    settings = {"fsync": "off", "shared_buffers": "256MB", "max_wal_size": "4GB"}
    try:
        with PostgresServer(area / "postgres", settings=settings) as postgres, S3Server(area / "s3") as s3:
            s3.create_bucket("bench")
            with console.status("loading 1.2 GB and a tenth of it"):
                load_market(postgres, "large", LARGE)
                load_market(postgres, "tenth", TENTH)
            os.environ.update(PGPASSWORD=postgres.password, S3_KEY=s3.access_key, S3_SECRET=s3.secret_key)
            ways = _ways(area, postgres, s3)
            taken: dict[str, list[Measured]] = {name: [] for name in ways}
            for number in range(ROUNDS):
                for name, command in ways.items():
                    console.print(f"round {number + 1} of {ROUNDS}: {name}")
                    taken[name].append(measure(command, {}))
            size = int(postgres.sql("SELECT pg_database_size('large')"))
    finally:
        shutil.rmtree(area, ignore_errors=True)
    _show(taken, size)
    return 0


def _ways(area: Path, postgres: PostgresServer, s3: S3Server) -> dict[str, list[str]]:
    dump = f"{postgres.bin}/pg_dump -d {postgres.url}/large"
    out = area / "out"

    def shell(line: str) -> list[str]:
        return ["bash", "-o", "pipefail", "-c", line]

    def ours(name: str, encrypted: bool) -> list[str]:
        stack = area / f"stack-{encrypted}.yaml"
        recipient = pyrage.x25519.Identity.generate().to_public()
        encryption = f"encryption: {{recipients: [{recipient}]}}" if encrypted else ""
        stack.write_text(
            f"""
servers: {{pg: {{url: "{postgres.url}", password: {{env: PGPASSWORD}}, client_tools: "{postgres.bin}"}}}}
databases: {{large: {{server: pg, database: large}}, tenth: {{server: pg, database: tenth}}}}
bucket: {{name: bench, endpoint: "{s3.endpoint}", access_key: {{env: S3_KEY}}, secret_key: {{env: S3_SECRET}}}}
state_dir: "{area}/state"
{encryption}
"""
        )
        return [sys.executable, "-m", "bench.once", str(stack), name]

    return {
        "floor: pg_dump -Z0": shell(f"{dump} -Fc -Z0 >/dev/null; echo 0"),
        "pg_dump | gzip": shell(f"{dump} | gzip >{out}; stat -c %s {out}"),
        "pg_dump | zstd": shell(f"{dump} -Fc -Z0 | zstd -q >{out}; stat -c %s {out}"),
        "this project": ours("large", False),
        "this project, age": ours("large", True),
        "this, a tenth, age": ours("tenth", True),
    }


def _show(taken: dict[str, list[Measured]], size: int) -> None:
    medians = {
        name: {
            "seconds": statistics.median(run.seconds for run in runs),
            "cpu_seconds": statistics.median(run.cpu_seconds for run in runs),
            "peak_mb": round(statistics.median(run.peak_bytes for run in runs) / 1e6, 1),
            "stored_mb": round(int(runs[-1].printed) / 1e6, 1),
        }
        for name, runs in taken.items()
    }
    names = list(medians)
    floor, reference = medians[names[0]]["seconds"], medians[names[1]]["seconds"]
    table = Table(title=f"a database of {size / 1e9:.2f} GB, {os.cpu_count()} cores, median of {ROUNDS}")
    for heading in ("way", "s", "CPU s", "MB peak", "MB stored", "× floor", "× faster"):
        table.add_column(heading, justify="left" if heading == "way" else "right", no_wrap=True)
    for name, figures in medians.items():
        whole = "tenth" not in name
        figures["times_floor"] = round(figures["seconds"] / floor, 2)
        figures["times_faster_than_reference"] = round(reference / figures["seconds"], 2)
        ratios = [figures["times_floor"], figures["times_faster_than_reference"]] if whole else ["", ""]
        cells = [figures["seconds"], figures["cpu_seconds"], figures["peak_mb"], figures["stored_mb"], *ratios]
        table.add_row(name, *map(str, cells))
    console.print(table)
    kept = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "database_bytes": size,
        "rounds": ROUNDS,
        "medians": medians,
    }
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    console.print(f"kept in {RESULTS.name}")


if __name__ == "__main__":
    sys.exit(main())
