"""`make demo`: embedded servers, sample data, a backup and a drill of it through Dagster, and what came of them."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime

import dagster as dg
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from demo.market import DEMO, load_cache, load_market
from demo.servers import ROOT, Servers, dagster_home, embedded_servers
from ops_platform.backups.catalog import read_catalog
from ops_platform.backups.layout import reports_of
from ops_platform.backups.retention import RetentionPolicy, plan_retention
from ops_platform.definitions import build_defs
from ops_platform.resources import Operations
from ops_platform.stack import Stack, load_stack
from ops_platform.systems.object_store import ObjectStore
from ops_platform.systems.progress import Progress as BackupProgress
from ops_platform.systems.progress import Report
from ops_platform.systems.throwaway.process import ServerDidNotStart

console = Console()


def main() -> int:
    """Run the demo; returns the process's exit code."""
    os.environ["DAGSTER_HOME"] = str(dagster_home())
    stack = load_stack(ROOT / "stack.yaml")
    try:
        with console.status("starting Postgres, Redis and SeaweedFS on loopback"):
            running = embedded_servers()
            servers = running.__enter__()
    except ServerDidNotStart as error:
        console.print(f"[red]{error}")
        return 1
    try:
        _load(servers)
        succeeded = _run(stack, "backup")
        _show(stack)
        succeeded = succeeded and _run(stack, "restore_drill")
        _show_drills(stack)
    finally:
        running.__exit__(None, None, None)
    console.print("servers stopped; `make dev` shows this instance on http://127.0.0.1:3000")
    return 0 if succeeded else 1


def _load(servers: Servers) -> None:
    with console.status("loading the sample data (the first time: 1,080,500 rows)"):
        made = load_market(servers.postgres, "market", DEMO)
        load_cache(servers.redis)
    console.print(f"sample data {'loaded' if made else 'there already'}: database market, Redis cache")


def _run(stack: Stack, job: str) -> bool:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[now]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:

        def reporter(log: dg.DagsterLogManager) -> Report:
            task = bars.add_task(job, total=1.0, now="")

            def report(progress: BackupProgress) -> None:
                bars.update(task, completed=progress.share, now=str(progress))

            return report

        result = (
            build_defs(Operations(stack, reporter))
            .resolve_job_def(job)
            .execute_in_process(
                instance=dg.DagsterInstance.get(),
                run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}},
                raise_on_error=False,
            )
        )
        for task in bars.task_ids:
            if result.success:
                bars.update(task, completed=1.0)
    console.print(f"Dagster run {result.run_id} of job {job}: {'success' if result.success else '[red]failure'}")
    return result.success


def _show(stack: Stack) -> None:
    store = ObjectStore(stack.bucket)
    table = Table(title=f"the newest backups in s3://{stack.bucket.name}")
    for heading in ("backup", "object", "raw bytes", "stored", "seconds", "SHA-256"):
        table.add_column(heading, justify="left" if heading in ("backup", "object") else "right", no_wrap=True)
    lines = []
    for name in (*stack.databases, *stack.redis):
        backups = read_catalog(store, stack.bucket.prefix, name).backups
        if not backups:
            lines.append(f"{name}: no backup")
            continue
        for stored in backups[0].manifest.objects:
            table.add_row(
                name,
                stored.file,
                f"{stored.raw_bytes:,}",
                f"{stored.stored_bytes:,}",
                f"{stored.seconds:.2f}",
                stored.sha256[:8],
            )
        policy = RetentionPolicy(**stack.retention.model_dump())
        plan = plan_retention((backup.snapshot() for backup in backups), policy, datetime.now(UTC))
        doomed = ", ".join(verdict.snapshot.id for verdict in plan.deleted) or "nothing"
        lines.append(f"{name}: stored in {store.uri(backups[0].path.folder)}")
        lines.append(f"  {len(plan.kept)} backups kept; retention would delete {doomed}")
    console.print(table)
    console.print("\n".join(lines), soft_wrap=True)


def _show_drills(stack: Stack) -> None:
    """The newest report of each drill, as it lies in the bucket."""
    store = ObjectStore(stack.bucket)
    for name in (*stack.databases, *stack.redis):
        reports = [item.key for item in store.list(reports_of(stack.bucket.prefix, name))]
        if not reports:
            console.print(f"[red]{name}: no drill")
            continue
        console.print(Markdown(store.read(reports[-1]).decode().split("\n## Backup")[0]))
        console.print(f"the whole report: {store.uri(reports[-1])}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
