"""The record of one change, as plain values and as Markdown; every rollout keeps one in the run and in the bucket."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal


@dataclass(frozen=True)
class ChangeRecord:
    """`what` was changed ("rollout of backend"), with which `outcome`, from `began` to `ended` (aware).

    `dollars_a_month` is what the bill changes by. `plan` and `rollback` are steps, `watch` metrics and `thresholds`
    the limits at which somebody ought to look; `measured` holds figures, by name, of what really happened.
    """

    what: str
    outcome: str
    began: datetime
    ended: datetime
    summary: str
    why: str
    impact: str
    dollars_a_month: Decimal
    cost: str
    plan: Sequence[str]
    rollback: Sequence[str]
    watch: Sequence[str]
    thresholds: Sequence[str]
    measured: Sequence[tuple[str, str]]

    def key(self, prefix: str) -> str:
        """Where it lies in the bucket: in order of time, and readable in a listing."""
        return f"{prefix}/changes/{self.began:%Y/%m/%Y%m%dT%H%M%SZ}-{self.what.replace(' ', '-')}.md"

    def markdown(self) -> str:
        """The record in the house's form."""
        parts = [
            f"# {self.what}: {self.outcome}",
            f"{self.began:%Y-%m-%d %H:%M:%S} to {self.ended:%H:%M:%S} UTC, {self._seconds():.1f} s",
            f"## Change summary\n- What: {self.summary}\n- Why: {self.why or 'not given'}\n- Impact: {self.impact}\n"
            f"- Cost impact: {self.dollars_a_month:+.2f} $ a month. {self.cost}",
            f"## Implementation plan\n{_numbered(self.plan)}",
            f"## Rollback plan\n{_numbered(self.rollback)}",
            f"## Monitoring\n### Metrics to watch\n{_listed(self.watch)}\n"
            f"### Alert thresholds\n{_listed(self.thresholds)}",
            "## Measured\n| what | figure |\n|---|---|\n" + "\n".join(f"| {k} | {v} |" for k, v in self.measured),
        ]
        return "\n\n".join(parts) + "\n"

    def _seconds(self) -> float:
        return (self.ended - self.began).total_seconds()


def _numbered(steps: Sequence[str]) -> str:
    return "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1)) or "none"


def _listed(entries: Sequence[str]) -> str:
    return "\n".join(f"- {entry}" for entry in entries) or "none"
