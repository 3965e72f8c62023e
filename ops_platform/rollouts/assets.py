"""The rollouts as Dagster shows them: one asset a service, with what it took, and the change record."""

import dagster as dg

from ops_platform.resources import Operations
from ops_platform.rollouts.attempt import Outcome
from ops_platform.rollouts.record import Recorder, image_for
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
        image = image_for(its, service, config.image, config.back)
        recorder = Recorder(its, config.why, operations.store, context.log.warning)
        outcome = roll_out(its, service, image, context.log.info, recorder)
        metadata = _metadata(outcome, recorder)
        if not outcome.good:
            raise dg.Failure(
                f"the rollout of {service} failed and was {outcome.result}: {outcome.why_not.splitlines()[0]}",
                metadata=metadata,
                allow_retries=False,
            )
        return dg.MaterializeResult(metadata=metadata)

    return rollout


def _metadata(outcome: Outcome, recorder: Recorder) -> dict[str, dg.MetadataValue]:
    assert recorder.record is not None
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
        "change_record": dg.MetadataValue.md(recorder.record.markdown()),
        "change_record_location": dg.MetadataValue.text(recorder.location),
    }
