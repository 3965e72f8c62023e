"""An admitted rollout: carried out, or undone, and its outcome."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from ops_platform.deployment import EngineSettings, Rollout
from ops_platform.rollouts.compose_service import Timing
from ops_platform.rollouts.converge import RolloutFailed
from ops_platform.rollouts.engines import Now, Orchestrator
from ops_platform.rollouts.journal import Journal, Journals, Release
from ops_platform.rollouts.prune import prune
from ops_platform.rollouts.released import note_release
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

    `replicas` is how many serve; `cut_off` the image of a rollout that was killed and that this one went on from;
    `replaced` how many old replicas had gone when it failed or ended (None: a swarm does not tell), `back_to` where
    going back goes now; `pruned` are images that were removed from the machine.
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
    cut_off: str | None
    replaced: int | None
    back_to: str | None
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
    record: Callable[[Outcome], None]


@dataclass(frozen=True)
class Attempt:
    """`journal` has this rollout under way; `good` is what serves, or did before a rollout that was cut off; `back`
    when the release is an earlier one, which then runs no hooks."""

    parts: Parts
    engine: Orchestrator
    journal: Journal
    release: Release
    good: Now
    began: datetime
    cut_off: str | None
    back: bool

    @property
    def _before(self) -> Release | None:
        return self.journal.underway.before if self.journal.underway else None

    @property
    def _count(self) -> int:
        return self.journal.underway.count if self.journal.underway else self.good.count

    def carry_out(self) -> Outcome:
        """Do it; undo it when it fails or is interrupted. Raises only what interrupted it, after it was recorded."""
        try:
            changed = self.engine.replace(self.release.image, self.parts.journals.config(self.release), self._count)
            if not self.back:
                self.engine.timings.extend(run_hooks(self.parts, "after", self.release.image))
        except UNDOABLE as error:
            return self._undo(error)
        except BaseException as error:  # Ctrl-C, a run that is cancelled: put back, then let it go on
            self.parts.record(self._undo(error))
            raise
        same = self.good.image == self.release.image and not changed
        done = self._done(same)
        self.parts.journals.write(self.parts.service, done)
        note_release(
            self.parts.settings.compose_file, self.parts.service, self.release.image, self._count, self.parts.say
        )
        pruned = prune(self.parts.engine, self.parts.stack, self.parts.journals, self.parts.say)
        result: Result = "nothing to do" if same else "rolled out"
        return self._outcome(result, self._count, self._replaced(), done, pruned=pruned)

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
        cause = str(error) if isinstance(error, Exception) else "it was stopped by hand"
        replaced = self._replaced()
        self.parts.say(f"failed, putting {self.good.image or 'nothing'} back: {cause}")
        try:
            config = self.parts.journals.config(self._before) if self._before else None
            self.engine.put_back(self.good, config)
        except UNDOABLE as worse:
            text = (
                f"{cause}\nand putting {self.good.image} back failed too: {worse}\nwhat still serves was left alone"
            )
            return self._outcome("NOT put back", 0, replaced, self.journal, text)
        self.parts.journals.write(self.parts.service, self._known())
        return self._outcome("put back", self.good.count, replaced, self._known(), cause)

    def _replaced(self) -> int | None:
        if self.parts.settings.kind == "swarm":
            return None
        return sum(timing.what == "drain" for timing in self.engine.timings)

    def _outcome(
        self,
        result: Result,
        replicas: int,
        replaced: int | None,
        journal: Journal,
        why_not: str = "",
        pruned: tuple[str, ...] = (),
    ) -> Outcome:
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
            cut_off=self.cut_off,
            replaced=replaced,
            back_to=journal.previous.image if journal.previous else None,
            pruned=pruned,
        )


def run_hooks(parts: Parts, when: Literal["before", "after"], image: str) -> list[Timing]:
    """Run the commands that stack.yaml names, one after the other. Raises CommandFailed, ToolMissing.

    `ops` is the one that is installed beside this interpreter, whatever PATH a cron or a CI's login has.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    told = {"OPS_ROLLOUT_SERVICE": parts.service, "OPS_ROLLOUT_IMAGE": image, "PATH": path}
    timings = []
    for hook in parts.rollout.before if when == "before" else parts.rollout.after:
        parts.say(f"runs {hook}")
        began = time.monotonic()
        run(shlex.split(hook), told, program=hook, deadline_s=parts.rollout.hook_deadline_s)
        timings.append(Timing(when, hook, time.monotonic() - began))
    return timings
