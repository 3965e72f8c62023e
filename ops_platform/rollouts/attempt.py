"""An admitted rollout: carried out, or undone, and its outcome."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from ops_platform.deployment import EngineSettings, Rollout
from ops_platform.rollouts.compose_service import Timing
from ops_platform.rollouts.converge import RolloutFailed
from ops_platform.rollouts.engines import Now, Orchestrator
from ops_platform.rollouts.journal import Journal, Journals, Release
from ops_platform.rollouts.prune import prune
from ops_platform.stack import Stack
from ops_platform.systems.command import CommandFailed, ToolMissing, run
from ops_platform.systems.compose import ComposeError
from ops_platform.systems.engine import Engine, EngineError
from ops_platform.systems.proxy import ProxyError
from ops_platform.systems.swarm import SwarmError

Result = Literal["rolled out", "nothing to do", "put back", "NOT put back"]
UNDOABLE = (RolloutFailed, ComposeError, EngineError, ProxyError, SwarmError, CommandFailed, ToolMissing)


@dataclass(frozen=True)
class Outcome:
    """How it ended: `image` is what was wanted, `before` what served, `why_not` the cause when it was put back.

    `replicas` is how many serve; `pruned` are images that were removed from the machine.
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
    pruned: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        return self.result in ("rolled out", "nothing to do")

    @property
    def seconds(self) -> float:
        return (self.ended - self.began).total_seconds()


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


@dataclass(frozen=True)
class Attempt:
    """`journal` has this rollout under way; `good` is what serves, or did before a rollout that was cut off."""

    parts: Parts
    engine: Orchestrator
    journal: Journal
    release: Release
    good: Now
    began: datetime

    @property
    def _before(self) -> Release | None:
        return self.journal.underway.before if self.journal.underway else None

    @property
    def _count(self) -> int:
        return self.journal.underway.count if self.journal.underway else self.good.count

    def carry_out(self) -> Outcome:
        """Do it; undo it when it fails or is interrupted. Raises only what interrupted it."""
        try:
            self.engine.replace(self.release.image, self.parts.journals.config(self.release), self._count)
            run_hooks(self.parts, self.parts.rollout.after, self.release.image)
        except UNDOABLE as error:
            return self._undo(error)
        except BaseException as error:  # Ctrl-C, a run that is cancelled: put back, then let it go on
            self._undo(error)
            raise
        same = self.good.image == self.release.image and not self.engine.timings
        done = self._done(same)
        self.parts.journals.write(self.parts.service, done)
        pruned = prune(self.parts.engine, [release.image for release in done.releases], self.parts.say)
        return self._outcome("nothing to do" if same else "rolled out", self._count, pruned=pruned)

    def _known(self) -> Journal:
        """The releases before this one; what served without being noted counts as one."""
        releases = self.journal.releases
        if self._before is not None and self._before not in releases:
            releases = (self._before, *releases)
        return Journal(releases=releases[: self.parts.stack.rollouts.keep])

    def _done(self, same: bool) -> Journal:
        if same:
            return Journal(releases=self.journal.releases or (self.release,))
        return self._known().with_release(self.release, self.parts.stack.rollouts.keep)

    def _undo(self, error: BaseException) -> Outcome:
        cause = str(error) or type(error).__name__
        self.parts.say(f"failed, putting {self.good.image or 'nothing'} back: {cause}")
        try:
            if self._before is not None:
                self.engine.put_back(self.good, self.parts.journals.config(self._before))
        except UNDOABLE as worse:
            text = (
                f"{cause}\nand putting {self.good.image} back failed too: {worse}\nwhat still serves was left alone"
            )
            return self._outcome("NOT put back", 0, text)
        self.parts.journals.write(self.parts.service, self._known())
        return self._outcome("put back", self.good.count, cause)

    def _outcome(self, result: Result, replicas: int, why_not: str = "", pruned: tuple[str, ...] = ()) -> Outcome:
        return Outcome(
            service=self.parts.service,
            image=self.release.image,
            before=self.good.image,
            result=result,
            why_not=why_not,
            replicas=replicas,
            began=self.began,
            ended=datetime.now(UTC),
            timings=tuple(self.engine.timings),
            pruned=pruned,
        )


def run_hooks(parts: Parts, hooks: Sequence[str], image: str) -> None:
    """Run commands that stack.yaml names, one after the other. Raises CommandFailed, ToolMissing."""
    for hook in hooks:
        parts.say(f"runs {hook}")
        told = {"OPS_ROLLOUT_SERVICE": parts.service, "OPS_ROLLOUT_IMAGE": image}
        run(shlex.split(hook), told, program=hook, deadline_s=parts.rollout.hook_deadline_s)
