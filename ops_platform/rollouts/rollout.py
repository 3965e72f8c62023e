"""One rollout of one service: admitted, noted, done or undone, and told."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ops_platform.deployment import EngineSettings, Rollout
from ops_platform.rollouts.admission import Refused, refusals
from ops_platform.rollouts.capacity import claims
from ops_platform.rollouts.capacity import faults as capacity_faults
from ops_platform.rollouts.compose_service import Timing
from ops_platform.rollouts.converge import RolloutFailed
from ops_platform.rollouts.engines import Now, Orchestrator, orchestrator
from ops_platform.rollouts.journal import Journal, Journals, Release, Underway
from ops_platform.rollouts.prune import prune
from ops_platform.stack import Stack
from ops_platform.systems.command import CommandFailed, ToolMissing, run
from ops_platform.systems.compose import Compose, ComposeError, frozen
from ops_platform.systems.engine import Engine, EngineError
from ops_platform.systems.lock import locked
from ops_platform.systems.proxy import ProxyError
from ops_platform.systems.swarm import SwarmError

Result = Literal["rolled out", "nothing to do", "put back", "NOT put back"]
UNDOABLE = (RolloutFailed, ComposeError, EngineError, ProxyError, SwarmError, CommandFailed, ToolMissing)


@dataclass(frozen=True)
class Outcome:
    """How it ended: `image` is what was wanted, `before` what served, `why_not` the cause when it was put back.

    `pruned` lists images that were removed from the machine; `replicas` is how many serve.
    """

    service: str
    image: str
    before: str | None
    result: Result
    why_not: str
    replicas: int
    began: datetime
    ended: datetime
    timings: tuple[Timing, ...]
    pruned: tuple[str, ...]

    @property
    def good(self) -> bool:
        return self.result in ("rolled out", "nothing to do")


@dataclass(frozen=True)
class Parts:
    """What a rollout of one service works with."""

    stack: Stack
    settings: EngineSettings
    service: str
    rollout: Rollout
    engine: Engine
    journals: Journals
    say: Callable[[str], None]


def roll_out(
    stack: Stack, service: str, image: str | None, say: Callable[[str], None], engine: Engine | None = None
) -> Outcome:
    """Have `service` run `image` (by digest); None goes back to the release before this one.

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
    parts = Parts(stack, stack.engine, service, rollout, engine or Engine(), journals, say)
    with locked(stack.state_dir, f"rollout-{service}", f"rollout of {service}", 0, say) as lock:
        journal = journals.read(service)
        lock.note(
            f"of {image or 'the release before'}, by process {os.getpid()}, since {datetime.now(UTC):%H:%M:%S} UTC"
        )
        outcome = _locked(parts, journal, image)
        lock.clear()
    return outcome


def _locked(parts: Parts, journal: Journal, image: str | None) -> Outcome:
    began = datetime.now(UTC)
    if journal.underway is not None:
        parts.say(f"a rollout to {journal.underway.image} was cut off: going on from what the engine shows")
    source, wanted = _wanted(parts, journal, image)
    engine = orchestrator(parts.settings, parts.service, parts.rollout, parts.engine, parts.say)
    good = _good(engine.now(), journal)
    _admit(parts, source, wanted, good)
    parts.engine.pull(wanted, parts.stack.registry.credentials() if parts.stack.registry else None)
    _run_hooks(parts, parts.rollout.before, wanted)
    if image is not None and _resolved(parts) != source:
        raise Refused(
            f"{parts.settings.compose_file} was edited since this rollout was admitted: look at it, then run it again"
        )
    count = good.count or _replicas_of(source, parts.service)
    config = parts.journals.freeze(parts.service, frozen(source, parts.service, wanted), began)
    fallback = _fallback(parts, journal, source, good, config)
    underway = Underway(image=wanted, count=count, began=began, good_hashes=good.hashes)
    parts.journals.write(parts.service, journal.model_copy(update={"underway": underway}))
    return _act(parts, engine, journal, Release(image=wanted, config=config.name, at=began), good, count, fallback)


def _wanted(parts: Parts, journal: Journal, image: str | None) -> tuple[dict[str, Any], str]:
    """The compose file to roll out and the image: today's file, or going back the one of then."""
    if image is not None:
        return _resolved(parts), image
    to = journal.previous if journal.underway is None else journal.current
    if to is None:
        raise Refused(f"{parts.service} has no release before this one to go back to")
    found = json.loads(parts.journals.config(to).read_text(encoding="utf-8"))
    return found, to.image


def _resolved(parts: Parts) -> dict[str, Any]:
    return Compose(parts.settings.compose_file, parts.settings.project).resolved()


def _good(now: Now, journal: Journal) -> Now:
    """What to put back if this fails: what serves; after a rollout that was cut off, what was good before that."""
    if journal.underway is None:
        return now
    image = journal.current.image if journal.current else now.image
    return Now(image, journal.underway.count, journal.underway.good_hashes or now.hashes)


def _admit(parts: Parts, source: dict[str, Any], image: str, good: Now) -> None:
    faults = refusals(source, parts.service, image)
    machine = parts.stack.machine
    if machine is not None and not faults:
        faults = capacity_faults(claims(source), machine.cpus, machine.memory_gb, parts.service)
    if faults:
        raise Refused(f"{parts.service} cannot be rolled out:\n" + "\n".join(f"- {fault}" for fault in faults))


def _replicas_of(source: dict[str, Any], service: str) -> int:
    return next(claim.replicas for claim in claims(source) if claim.service == service)


def _fallback(parts: Parts, journal: Journal, source: dict[str, Any], good: Now, config: Path) -> Path:
    """What makes replicas of the good kind anew, should they be gone."""
    if journal.current is not None and journal.current.image == good.image:
        return parts.journals.config(journal.current)
    if good.image is None:
        return config
    return parts.journals.freeze(parts.service, frozen(source, parts.service, good.image), datetime.now(UTC))


def _act(
    parts: Parts, engine: Orchestrator, journal: Journal, release: Release, good: Now, count: int, fallback: Path
) -> Outcome:
    try:
        engine.replace(release.image, parts.journals.directory / release.config, count)
        _run_hooks(parts, parts.rollout.after, release.image)
    except UNDOABLE as error:
        return _undo(parts, engine, journal, release, good, fallback, error)
    except BaseException as error:  # Ctrl-C, a run that is cancelled: put back, then let it go on
        _undo(parts, engine, journal, release, good, fallback, error)
        raise
    same = good.image == release.image and not engine.timings
    if not journal.releases and good.image and not same:
        journal = Journal(releases=(Release(image=good.image, config=fallback.name, at=release.at),))
    if same and journal.releases:
        done = Journal(releases=journal.releases)
    else:
        done = journal.with_release(release, parts.stack.rollouts.keep)
    parts.journals.write(parts.service, done)
    pruned = prune(parts.engine, [r.image for r in done.releases], parts.say)
    result: Result = "nothing to do" if same else "rolled out"
    return _outcome(engine, release, good, parts.service, result, "", count, pruned)


def _undo(
    parts: Parts,
    engine: Orchestrator,
    journal: Journal,
    release: Release,
    good: Now,
    fallback: Path,
    error: BaseException,
) -> Outcome:
    parts.say(f"failed, putting {good.image or 'nothing'} back: {error}")
    cause = str(error) or type(error).__name__
    try:
        if good.image is not None:
            engine.put_back(good, fallback)
    except UNDOABLE as worse:
        text = f"{cause}\nand putting {good.image} back failed too: {worse}\nwhat still serves was left alone"
        return _outcome(engine, release, good, parts.service, "NOT put back", text, 0, ())
    parts.journals.write(parts.service, journal.model_copy(update={"underway": None}))
    return _outcome(engine, release, good, parts.service, "put back", cause, good.count, ())


def _outcome(
    engine: Orchestrator,
    release: Release,
    good: Now,
    service: str,
    result: Result,
    why_not: str,
    replicas: int,
    pruned: Sequence[str],
) -> Outcome:
    ended = datetime.now(UTC)
    return Outcome(
        service,
        release.image,
        good.image,
        result,
        why_not,
        replicas,
        release.at,
        ended,
        tuple(engine.timings),
        tuple(pruned),
    )


def _run_hooks(parts: Parts, hooks: Sequence[str], image: str) -> None:
    """Raises CommandFailed, ToolMissing."""
    for hook in hooks:
        parts.say(f"runs {hook}")
        told = {"OPS_ROLLOUT_SERVICE": parts.service, "OPS_ROLLOUT_IMAGE": image}
        run(shlex.split(hook), told, program=hook, deadline_s=parts.rollout.hook_deadline_s)
