"""The change record of a rollout, filled with what really happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from ops_platform.changes.builds import newest_build
from ops_platform.changes.record import ChangeRecord
from ops_platform.deployment import Rollout
from ops_platform.rollouts.admission import Refused
from ops_platform.rollouts.attempt import Outcome
from ops_platform.rollouts.journal import Journals
from ops_platform.stack import SecretMissing, Stack
from ops_platform.systems.object_store import ObjectStore, StoreError


@dataclass
class Recorder:
    """Makes the change record of a rollout's outcome and keeps it in the bucket, `location` says where or why not.

    `why` is what the operator gave as the reason.
    """

    stack: Stack
    why: str
    store: Callable[[], ObjectStore]
    warn: Callable[[str], None]
    record: ChangeRecord | None = None
    location: str = ""

    def __call__(self, outcome: Outcome) -> None:
        assert self.stack.engine is not None
        settings = self.stack.rollouts.services[outcome.service]
        self.record = change_of(outcome, settings, self.stack.engine.kind, self.why)
        key = self.record.key(self.stack.bucket.prefix)
        try:
            bucket = self.store()
            bucket.write(key, self.record.markdown().encode(), "text/markdown; charset=utf-8")
            self.location = bucket.uri(key)
        except (StoreError, SecretMissing) as error:  # what was done stands anyway
            self.location = f"not in the bucket: {error}"
            self.warn(f"the change record is {self.location}")


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
    """The image to roll out: as asked for, or the newest good build; None to go back.

    A release by hand or by a CI may be newer than the newest build here, which must not undo it unasked.
    Raises Refused, JournalUnreadable.
    """
    if back and image:
        raise Refused("give an image or go back, not both")
    if back or image:
        return image
    settings = stack.rollouts.services.get(service)
    build = newest_build(stack.state_dir, settings.image) if settings and settings.image else None
    if build is None:
        raise Refused(f"there is no good build for {service}: run the job build_images, or name an image by digest")
    current = Journals(stack.state_dir / "rollouts").read(service).current
    if current is not None and current.image != build.image and current.at > build.at:
        raise Refused(
            f"the newest good build for {service} ({build.image}, {build.at:%Y-%m-%d %H:%M} UTC) is older than the"
            f" release that serves ({current.image}, since {current.at:%Y-%m-%d %H:%M} UTC): build again, or name the"
            " image"
        )
    return build.image


def _impact(outcome: Outcome) -> str:
    if outcome.result == "rolled out":
        return f"{outcome.replicas} replicas of the new image serve; none was taken out before its successor served."
    if outcome.result == "nothing to do":
        return "None: this image served already."
    if outcome.result == "put back":
        so_far = f"{outcome.replaced} replicas had been replaced by then. " if outcome.replaced is not None else ""
        return f"{outcome.before or 'Nothing'} serves, as before. {so_far}Cause: {outcome.why_not}"
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
    if outcome.result == "put back":
        return ["Done by this run"]
    if outcome.result == "NOT put back":
        return [
            "Look at what there is: `docker ps --all`, `ops doctor`; whatever still serves was left alone",
            f"`ops rollout {outcome.service} --back`, as often as need be: it goes on from what it finds",
        ]
    if outcome.back_to is None:
        return ["There is no release before this one: name an image by digest"]
    return [
        f"`ops rollout {outcome.service} --back`, or the job `rollout` with `back: true`",
        f"It rolls `{outcome.back_to}` out again, with the compose file of then; the image is kept here",
    ]


def _measured(outcome: Outcome) -> Sequence[tuple[str, str]]:
    steps = [(f"{timing.what} {timing.subject}", f"{timing.seconds:.1f} s") for timing in outcome.timings]
    cut_off = [("went on from a rollout that was cut off", f"`{outcome.cut_off}`")] if outcome.cut_off else []
    pruned = [("image removed", f"`{image}`") for image in outcome.pruned]
    return [("result", outcome.result), ("whole", f"{outcome.seconds:.1f} s"), *cut_off, *steps, *pruned]
