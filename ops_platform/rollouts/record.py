"""The change record of a rollout, filled with what really happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal

from ops_platform.changes.builds import newest_build
from ops_platform.changes.record import ChangeRecord
from ops_platform.deployment import Rollout
from ops_platform.rollouts.admission import Refused
from ops_platform.rollouts.attempt import Outcome
from ops_platform.stack import SecretMissing, Stack
from ops_platform.systems.object_store import ObjectStore, StoreError


def change_of(outcome: Outcome, rollout: Rollout, engine: str, why: str) -> ChangeRecord:
    """What `outcome` changed; `engine` is compose or swarm, `why` what the operator gave as the reason."""
    return ChangeRecord(
        what=f"rollout of {outcome.service}",
        outcome=outcome.result,
        began=outcome.began,
        ended=outcome.ended,
        summary=f"{outcome.service} from `{outcome.before or 'nothing'}` to `{outcome.image}` on {engine}",
        why=why,
        impact=_impact(outcome),
        dollars_a_month=Decimal(0),
        cost="As many replicas as before on the same machine; one more ran while each was replaced.",
        plan=_plan(outcome, rollout, engine),
        rollback=_rollback(outcome),
        watch=(
            f'sum(rate(http_requests_total{{status=~"5..",job="{outcome.service}"}}[5m]))',
            "histogram_quantile(0.95, sum by (le) (rate(http_request_duration_seconds_bucket[5m])))",
            f"the health check of {outcome.service} (docker ps)",
        ),
        thresholds=(
            "HighErrorRate: more than 5 % of requests fail for 5 minutes",
            "HighAPILatency: the 95th percentile is above 2 s for 5 minutes",
        ),
        measured=_measured(outcome),
    )


def image_for(stack: Stack, service: str, image: str | None, back: bool) -> str | None:
    """The image to roll out: as asked for, or the newest good build; None to go back. Raises Refused."""
    if back and image:
        raise Refused("give an image or go back, not both")
    if back or image:
        return image
    settings = stack.rollouts.services.get(service)
    build = newest_build(stack.state_dir, settings.image) if settings and settings.image else None
    if build is None:
        raise Refused(f"there is no good build for {service}: run the job build_images, or name an image by digest")
    return build.image


def keep(record: ChangeRecord, prefix: str, store: Callable[[], ObjectStore], warn: Callable[[str], None]) -> str:
    """Put the record into the bucket and return where it lies, or why it does not: what was done stands anyway."""
    key = record.key(prefix)
    try:
        bucket = store()
        bucket.write(key, record.markdown().encode(), "text/markdown; charset=utf-8")
    except (StoreError, SecretMissing) as error:
        warn(f"the change record is not in the bucket: {error}")
        return f"not in the bucket: {error}"
    return bucket.uri(key)


def _impact(outcome: Outcome) -> str:
    if outcome.result == "rolled out":
        return f"{outcome.replicas} replicas of the new image serve; none was taken out before its successor served."
    if outcome.result == "nothing to do":
        return "None: this image served already."
    if outcome.result == "put back":
        return f"None: the new image never became what serves; {outcome.before} does. Cause: {outcome.why_not}"
    return f"Putting {outcome.before} back failed, look at once: {outcome.why_not}"


def _plan(outcome: Outcome, rollout: Rollout, engine: str) -> Sequence[str]:
    hooks = [f"Run `{hook}`" for hook in rollout.before]
    after = [f"Run `{hook}`" for hook in rollout.after]
    if engine == "swarm":
        steps = ["The swarm starts a new task, routes to it once healthy, then stops the old one; task by task"]
    else:
        steps = [
            f"Start a replica of the new image; healthy within {rollout.deadline_s:g} s, for {rollout.settle_s:g} s",
            "Have the proxy take it in, and take the old one out",
            f"Let its requests end within {rollout.drain_s:g} s, stop it, remove it; the next",
        ]
    return [f"Admit and pull `{outcome.image}`", *hooks, *steps, *after]


def _rollback(outcome: Outcome) -> Sequence[str]:
    if not outcome.good:
        return ["Done by this run, as said above"]
    return [
        f"`ops rollout {outcome.service} --back`, or the job `rollout` with `back: true`",
        f"It rolls `{outcome.before or 'nothing'}` out again, with the compose file of then; the image is kept here",
    ]


def _measured(outcome: Outcome) -> Sequence[tuple[str, str]]:
    steps = [(f"{timing.what} of {timing.replica}", f"{timing.seconds:.1f} s") for timing in outcome.timings]
    pruned = [("image removed", f"`{image}`") for image in outcome.pruned]
    return [("result", outcome.result), ("whole", f"{outcome.seconds:.1f} s"), *steps, *pruned]
