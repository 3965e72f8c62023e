"""The drills as Dagster shows them: one asset a database or Redis instance, downstream of its backup, with checks."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import Field

from ops_platform.backups.choice import Choice
from ops_platform.backups.retrieval import identities_of
from ops_platform.backups.verification import Finding
from ops_platform.drills.drill import Request, checks_of, run_drill
from ops_platform.drills.report import Drill, write_report
from ops_platform.resources import Operations
from ops_platform.stack import Stack
from ops_platform.times import parse_time

LATE_AFTER = timedelta(hours=12)


class DrillConfig(dg.Config):
    """`backup`: an id, by default the newest; `before`: the newest taken before this time; `checks`: by default all.

    `keep_until`: the throw-away server is left running for inspection until then. Times as 2026-11-23T18:00:00Z.
    """

    backup: str | None = None
    before: str | None = None
    checks: list[str] = Field(default_factory=list)
    keep_until: str | None = None

    def request(self) -> Request:
        """The drill that is asked for. Raises ValueError for a time that is none or has no time zone."""
        return Request(
            choice=Choice(id=self.backup, before=parse_time("before", self.before)),
            checks=tuple(self.checks),
            keep_until=parse_time("keep_until", self.keep_until),
        )


def build_drill_assets(stack: Stack) -> list[dg.AssetsDefinition]:
    """`drills/<name>` for everything that `stack` backs up."""
    return [_drill(stack, name) for name in (*stack.databases, *stack.redis)]


def _drill(stack: Stack, name: str) -> dg.AssetsDefinition:
    gap = stack.schedules.weekly_restore_drill.longest_gap(datetime.now(UTC))

    @dg.asset(
        key=["drills", name],
        deps=[["backups", name]],
        group_name="drills",
        kinds={"postgres" if name in stack.databases else "redis"},
        description=f"A backup of {name}, restored on a throw-away server and held against its manifest.",
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=gap + LATE_AFTER),
        check_specs=[
            dg.AssetCheckSpec(check, asset=["drills", name], description=description)
            for check, description in checks_of(stack, name).items()
        ],
    )
    def drill(
        context: dg.AssetExecutionContext, config: DrillConfig, operations: dg.ResourceParam[Operations]
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:  # type: ignore[type-arg]  # Dagster reads this annotation
        its = operations.stack
        store = operations.store()
        report = operations.reporter(context.log)
        request, identities = config.request(), identities_of(its.encryption)
        result = run_drill(its, name, store, request, identities, context.log.info, report)
        for finding in result.findings:
            yield _result(finding, name)
        metadata = _metadata(result, write_report(result, checks_of(its, name)), store.uri(result.report_key))
        if not result.passed:
            failed = [finding for finding in result.findings if not finding.passed]
            raise dg.Failure(
                f"the drill of {name} failed: {failed[0].check}: {failed[0].faults[0].splitlines()[0]}",
                metadata=metadata,
                allow_retries=False,
            )
        yield dg.MaterializeResult(metadata=metadata)

    return drill


def _result(finding: Finding, name: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=["drills", name],
        check_name=finding.check,
        passed=finding.passed,
        metadata={**finding.numbers, **({"faults": "\n".join(finding.faults[:50])} if finding.faults else {})},
    )


def _metadata(drill: Drill, report: str, uri: str) -> dict[str, dg.MetadataValue]:
    figures = drill.figures
    seconds = {"rto": figures.rto_s, **{f"rto_{part}": value for part, value in figures.parts.items()}}
    seconds |= {"rpo": figures.rpo_s, "largest_gap": figures.largest_gap_s}
    rates = {"mb_per_second": figures.bytes_per_s / 1e6, "rows_per_second": figures.rows_per_s}
    return {
        **{f"{name}_seconds": dg.MetadataValue.float(float(value)) for name, value in seconds.items()},
        **{name: dg.MetadataValue.float(round(value, 3)) for name, value in rates.items()},
        "backup": dg.MetadataValue.text(drill.backup.path.id),
        "server": dg.MetadataValue.text(drill.kept or drill.server),
        "report": dg.MetadataValue.md(report),
        "report_location": dg.MetadataValue.text(uri),
    }
