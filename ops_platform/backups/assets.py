"""The backups as Dagster shows them: one asset a database or Redis instance, its checks, and its retention."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg

from ops_platform.backups.backup import take_backup
from ops_platform.backups.catalog import Backup, delete_backup, read_catalog
from ops_platform.backups.manifest import PostgresFacts
from ops_platform.backups.retention import RetentionPlan, RetentionPolicy, plan_retention
from ops_platform.backups.verification import CHECKS, Finding, verify_and_mark
from ops_platform.resources import Operations
from ops_platform.stack import Stack

LATE_AFTER = timedelta(hours=2)  # beyond the schedule's longest gap: time for the backup itself


class RetentionConfig(dg.Config):
    """`dry_run`: show what would be deleted and delete nothing."""

    dry_run: bool = False


def build_backup_assets(stack: Stack) -> list[dg.AssetsDefinition]:
    """`backups/<name>` and `retention/<name>` for everything that `stack` backs up."""
    names = [(name, "postgres") for name in stack.databases] + [(name, "redis") for name in stack.redis]
    return [asset for name, kind in names for asset in (_backup(stack, name, kind), _retention(name))]


def _backup(stack: Stack, name: str, kind: str) -> dg.AssetsDefinition:
    gap = stack.schedules.nightly_backup.longest_gap(datetime.now(UTC))

    @dg.asset(
        key=["backups", name],
        group_name="backups",
        kinds={kind, "s3"},
        description=f"A whole backup of {name} in bucket {stack.bucket.name}; exists only with its manifest.",
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=gap + LATE_AFTER),
        check_specs=[
            dg.AssetCheckSpec(check, asset=["backups", name], blocking=True, description=description)
            for check, description in CHECKS.items()
        ],
    )
    def backup(context: dg.AssetExecutionContext, operations: dg.ResourceParam[Operations]) -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster reads this annotation
        store = operations.store()
        report = operations.reporter(context.log)
        taken = take_backup(operations.stack, name, store, context.log.info, report).backup
        findings = verify_and_mark(store, taken)
        return dg.MaterializeResult(
            metadata=_metadata(taken, store.uri(taken.path.folder)),
            check_results=[_result(finding, name) for finding in findings],
        )

    return backup


def _retention(name: str) -> dg.AssetsDefinition:
    @dg.asset(
        key=["retention", name],
        deps=[["backups", name]],
        group_name="retention",
        description=f"Which backups of {name} are kept and why; the others are deleted, after a good new one.",
    )
    def retention(
        context: dg.AssetExecutionContext,
        config: RetentionConfig,
        operations: dg.ResourceParam[Operations],
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster reads this annotation
        stack, store = operations.stack, operations.store()
        catalog = read_catalog(store, stack.bucket.prefix, name)
        policy = RetentionPolicy(**stack.retention.model_dump())
        plan = plan_retention((b.snapshot() for b in catalog.backups), policy, datetime.now(UTC))
        for line in _plan_lines(plan):
            context.log.info(line)
        doomed = {verdict.snapshot.id for verdict in plan.deleted}
        if not config.dry_run:
            for backup in catalog.backups:
                if backup.path.id in doomed:
                    delete_backup(store, backup)
                    context.log.info(f"deleted {store.uri(backup.path.folder)}")
        return dg.MaterializeResult(
            metadata={
                "kept": len(plan.kept),
                "deleted": 0 if config.dry_run else len(doomed),
                "to_delete": len(doomed),
                "bytes_freed": 0 if config.dry_run else plan.bytes_freed,
                "bytes_kept": sum(verdict.snapshot.stored_bytes for verdict in plan.kept),
                "dry_run": config.dry_run,
                "plan": dg.MetadataValue.md(_plan_table(plan)),
                "unreadable_manifests": dg.MetadataValue.md("\n".join(catalog.unreadable) or "none"),
            }
        )

    return retention


def _plan_lines(plan: RetentionPlan) -> Iterator[str]:
    for verdict in plan.verdicts:
        yield f"{'keep' if verdict.keep else 'delete'} {verdict.snapshot.id}: {verdict.reason}"


def _plan_table(plan: RetentionPlan) -> str:
    rows = ["| backup | verdict | why | verified | stored bytes |", "|---|---|---|---|---|"]
    for verdict in plan.verdicts:
        snapshot = verdict.snapshot
        rows.append(
            f"| {snapshot.id} | {'keep' if verdict.keep else '**delete**'} | {verdict.reason}"
            f" | {'yes' if snapshot.verified else 'no'} | {snapshot.stored_bytes:,} |"
        )
    return "\n".join(rows)


def _result(finding: Finding, name: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=["backups", name],
        check_name=finding.check,
        passed=finding.passed,
        metadata={**finding.numbers, **({"faults": "\n".join(finding.faults)} if finding.faults else {})},
    )


def _metadata(backup: Backup, uri: str) -> dict[str, dg.MetadataValue]:
    manifest = backup.manifest
    seconds = manifest.seconds["total"]
    source = manifest.source
    if isinstance(source, PostgresFacts):
        held = {"rows": dg.MetadataValue.int(sum(table.rows for table in source.tables))}
    else:
        held = {"keys": dg.MetadataValue.int(sum(source.keys.values()))}
    objects = [
        "| object | content | raw bytes | stored bytes | seconds | SHA-256 |",
        "|---|---|---|---|---|---|",
    ]
    objects += [
        f"| {o.file} | {o.content} | {o.raw_bytes:,} | {o.stored_bytes:,} | {o.seconds} | `{o.sha256[:16]}…` |"
        for o in manifest.objects
    ]
    return {
        "raw_bytes": dg.MetadataValue.int(manifest.raw_bytes),
        "stored_bytes": dg.MetadataValue.int(manifest.stored_bytes),
        "seconds": dg.MetadataValue.float(seconds),
        "raw_mb_per_second": dg.MetadataValue.float(round(manifest.raw_bytes / 1e6 / max(seconds, 1e-3), 3)),
        **held,
        "location": dg.MetadataValue.text(uri),
        "objects": dg.MetadataValue.md("\n".join(objects)),
        "manifest": dg.MetadataValue.json(manifest.model_dump(mode="json", exclude={"source": {"tables"}})),
    }
