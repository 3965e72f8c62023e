"""The rollouts as Dagster shows them: one asset a service, with what it took, and the change record."""

import dagster as dg

from ops_platform.resources import Operations
from ops_platform.rollouts.attempt import Outcome
from ops_platform.rollouts.record import change_of, image_for, keep
from ops_platform.rollouts.rollout import roll_out
from ops_platform.stack import Stack


class RolloutConfig(dg.Config):
    """`image`: by digest, by default the newest good build; `back`: to the release before; `why`: for the record."""

    image: str | None = None
    back: bool = False
    why: str = ""


def build_rollout_assets(stack: Stack) -> list[dg.AssetsDefinition]:
    """`rollouts/<service>` for every service that `stack` rolls out."""
    return [_rollout(stack, service) for service in stack.rollouts.services]


def _rollout(stack: Stack, service: str) -> dg.AssetsDefinition:
    settings = stack.rollouts.services[service]

    @dg.asset(
        key=["rollouts", service],
        deps=[["images", settings.image]] if settings.image else [],
        group_name="rollouts",
        kinds={"docker"},
        description=f"What {service} runs: replaced replica by replica while it serves, put back when that fails.",
    )
    def rollout(
        context: dg.AssetExecutionContext, config: RolloutConfig, operations: dg.ResourceParam[Operations]
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster reads this annotation
        its = operations.stack
        outcome = roll_out(its, service, image_for(its, service, config.image, config.back), context.log.info)
        metadata = _metadata(outcome, operations, config.why, context.log)
        if not outcome.good:
            raise dg.Failure(
                f"the rollout of {service} failed and was {outcome.result}: {outcome.why_not.splitlines()[0]}",
                metadata=metadata,
                allow_retries=False,
            )
        return dg.MaterializeResult(metadata=metadata)

    return rollout


def _metadata(
    outcome: Outcome, operations: Operations, why: str, log: dg.DagsterLogManager
) -> dict[str, dg.MetadataValue]:
    stack = operations.stack
    assert stack.engine is not None
    settings = stack.rollouts.services[outcome.service]
    record = change_of(outcome, settings, stack.engine.kind, why)
    location = keep(record, stack.bucket.prefix, operations.store, log.warning)
    figures: dict[str, dg.MetadataValue] = {
        f"{what}_seconds": dg.MetadataValue.float(round(sum(t.seconds for t in outcome.timings if t.what == what), 2))
        for what in {timing.what for timing in outcome.timings}
    }
    return {
        **figures,
        "seconds": dg.MetadataValue.float(round(outcome.seconds, 2)),
        "result": dg.MetadataValue.text(outcome.result),
        "image": dg.MetadataValue.text(outcome.image),
        "before": dg.MetadataValue.text(outcome.before or "nothing"),
        "replicas": dg.MetadataValue.int(outcome.replicas),
        "change_record": dg.MetadataValue.md(record.markdown()),
        "change_record_location": dg.MetadataValue.text(location),
    }
