"""One rollout of one service, or going back to the release before: what it is to be, and whether it may begin."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from ops_platform.rollouts.admission import Refused, foreign, refusals
from ops_platform.rollouts.attempt import Attempt, Outcome, Parts, run_hooks
from ops_platform.rollouts.capacity import claims
from ops_platform.rollouts.engines import Now, orchestrator
from ops_platform.rollouts.journal import Journal, Journals, Release, Underway
from ops_platform.stack import Stack
from ops_platform.systems.compose import Compose, frozen
from ops_platform.systems.engine import Engine, by_digest
from ops_platform.systems.lock import locked

LEAST_FREE = 100_000_000  # bytes: an image's changed layers, a container, its log


def roll_out(
    stack: Stack,
    service: str,
    image: str | None,
    say: Callable[[str], None],
    record: Callable[[Outcome], None],
    engine: Engine | None = None,
) -> Outcome:
    """Have `service` run `image` (by digest); None goes back to the release before this one, without its hooks.

    `record` is told how it ended, also when it was stopped by hand and that is what this raises. One rollout at a
    time, of whichever service: a machine has room for one replica more.

    Nothing is changed when it raises: Refused, LockBusy, NoState, JournalUnreadable, ImageMissing, EngineError,
    ComposeError, ProxyError, SwarmError, ToolMissing, SecretMissing, CommandFailed (of a command in `before`).
    """
    if stack.engine is None:
        raise Refused("stack.yaml has no section engine: say there where the services run")
    if service not in stack.rollouts.services:
        known = ", ".join(sorted(stack.rollouts.services)) or "none"
        raise Refused(f"stack.yaml's rollouts.services has no {service}; it has {known}")
    rollout = stack.rollouts.services[service]
    journals = Journals(stack.state_dir / "rollouts")
    parts = Parts(stack, stack.engine, service, rollout, engine or Engine(), journals, say, record)
    with locked(stack.state_dir, "rollout", "rollout", 0, say) as lock:
        journal = journals.read(service)
        lock.note(
            f"of {service} to {image or 'the release before'}, by process {os.getpid()},"
            f" since {datetime.now(UTC):%H:%M:%S} UTC"
        )
        outcome = _locked(parts, journal, image)
        lock.clear()
    record(outcome)
    return outcome


def _locked(parts: Parts, journal: Journal, image: str | None) -> Outcome:
    began = datetime.now(UTC)
    cut_off = journal.underway.image if journal.underway else None
    if cut_off is not None:
        parts.say(f"a rollout to {cut_off} was cut off: going on from what the engine shows")
    _insist_on_room(parts.engine.free_bytes())
    to = _release_before(parts, journal) if image is None else None
    source = _resolved(parts) if to is None else parts.journals.read_config(to)
    wanted = to.image if to is not None else by_digest(str(image))
    engine = orchestrator(parts.stack, parts.service, parts.engine, parts.say)
    good = _good(engine.now(), journal)
    _admit(parts, source, wanted, given=to is None)
    registry = parts.stack.registry
    parts.engine.pull(wanted, lambda: registry.credentials_for(wanted) if registry else None)
    if to is None:  # the way out of trouble waits for nothing
        engine.timings.extend(run_hooks(parts, "before", wanted))
    if to is None and _resolved(parts) != source:
        raise Refused(
            f"{parts.settings.compose_file} was edited since this rollout was admitted: look at it, then run it again"
        )
    count = good.count or _replicas_of(source, parts.service)
    if (release := to) is None:
        config = parts.journals.freeze(parts.service, frozen(source, parts.service, wanted), began)
        release = Release(image=wanted, config=config.name, at=began)
    before = _before(parts, journal, source, good)
    underway = Underway(image=wanted, began=began, before=before, count=count, good_hashes=good.hashes)
    journal = journal.model_copy(update={"underway": underway})
    parts.journals.write(parts.service, journal)
    return Attempt(parts, engine, journal, release, good, began, cut_off, to is not None).carry_out()


def _insist_on_room(free: int | None) -> None:
    """An engine without disk cannot even be asked what serves, and fails in many words."""
    if free is not None and free < LEAST_FREE:
        raise Refused(
            f"the engine's disk has {free / 1e6:.0f} MB free, a rollout wants {LEAST_FREE / 1e6:.0f} MB: make room"
            " (docker system df shows what takes it)"
        )


def _release_before(parts: Parts, journal: Journal) -> Release:
    """Where going back goes to. Raises Refused."""
    to = journal.previous if journal.underway is None else journal.underway.before
    if to is None:
        raise Refused(f"{parts.service} has no release before this one to go back to")
    return to


def _resolved(parts: Parts) -> dict[str, Any]:
    return Compose(parts.settings.compose_file, parts.settings.project).resolved()


def _good(now: Now, journal: Journal) -> Now:
    """What to put back if this fails: what serves; after a rollout that was cut off, what was good before that."""
    if (cut := journal.underway) is None:
        return now
    return Now(cut.before.image if cut.before else now.image, cut.count, cut.good_hashes or now.hashes)


def _admit(parts: Parts, source: dict[str, Any], image: str, given: bool) -> None:
    """Raises Refused; an image that was `given` must come from where this service's images are pushed."""
    faults = refusals(source, parts.service, image, parts.stack.machine)
    if given and parts.stack.registry and parts.rollout.image:
        faults += foreign(image, f"{parts.stack.registry.repository}/{parts.rollout.image}")
    if faults:
        raise Refused(f"{parts.service} cannot be rolled out:\n" + "\n".join(f"- {fault}" for fault in faults))


def _replicas_of(source: dict[str, Any], service: str) -> int:
    return next(claim.replicas for claim in claims(source) if claim.service == service)


def _before(parts: Parts, journal: Journal, source: dict[str, Any], good: Now) -> Release | None:
    """The release that serves now, whose compose file can make its replicas anew; noted now when nobody did."""
    if journal.underway is not None:
        return journal.underway.before
    if good.image is None or (journal.current is not None and journal.current.image == good.image):
        return journal.current if good.image else None
    now = datetime.now(UTC)
    config = parts.journals.freeze(parts.service, frozen(source, parts.service, good.image), now)
    return Release(image=good.image, config=config.name, at=now)
