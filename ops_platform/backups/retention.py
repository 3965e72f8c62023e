"""Which backups are kept and why: a pure planner over facts from manifests. It deletes nothing itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta


@dataclass(frozen=True)
class RetentionPolicy:
    """How long to keep. `keep_verified` newest verified backups stay however old they are.

    `daily`, `weekly` and `monthly` keep the newest backup of that many UTC days, ISO weeks and months that
    have one. Raises ValueError for a negative number, or fewer than one day or verified backup.
    """

    days: int = 7
    keep_verified: int = 3
    daily: int = 0
    weekly: int = 0
    monthly: int = 0

    def __post_init__(self) -> None:
        for entry in fields(self):
            least = 1 if entry.name in ("days", "keep_verified") else 0
            if getattr(self, entry.name) < least:
                raise ValueError(f"retention.{entry.name} is {getattr(self, entry.name)}: must be at least {least}")


@dataclass(frozen=True)
class Snapshot:
    """A whole backup: its id, when it was taken (UTC), whether it was verified, its stored bytes."""

    id: str
    taken_at: datetime
    verified: bool
    stored_bytes: int

    def __post_init__(self) -> None:
        _insist_on_utc(self.taken_at, f"taken_at of {self.id}")


@dataclass(frozen=True)
class Verdict:
    snapshot: Snapshot
    keep: bool
    reason: str


@dataclass(frozen=True)
class RetentionPlan:
    """A verdict for each snapshot, newest first."""

    verdicts: tuple[Verdict, ...]

    @property
    def kept(self) -> tuple[Verdict, ...]:
        return tuple(verdict for verdict in self.verdicts if verdict.keep)

    @property
    def deleted(self) -> tuple[Verdict, ...]:
        return tuple(verdict for verdict in self.verdicts if not verdict.keep)

    @property
    def bytes_freed(self) -> int:
        return sum(verdict.snapshot.stored_bytes for verdict in self.deleted)


def plan_retention(snapshots: Iterable[Snapshot], policy: RetentionPolicy, now: datetime) -> RetentionPlan:
    """Decide for every snapshot. `now` is aware UTC. Raises ValueError for another zone or an id given twice.

    Where fewer than `keep_verified` are verified, as many of the newest of any kind stay too: a store whose
    verification never ran is not emptied by age.
    """
    _insist_on_utc(now, "now")
    newest = sorted(snapshots, key=lambda snapshot: (snapshot.taken_at, snapshot.id), reverse=True)
    twice = [id for id, count in Counter(snapshot.id for snapshot in newest).items() if count > 1]
    if twice:
        raise ValueError(f"backup {twice[0]} is listed twice: list each once")
    reasons = _reasons(newest, policy, now)
    gone = f"{policy.days} days old or older, and no rule keeps it"
    return RetentionPlan(tuple(Verdict(s, bool(reasons[s.id]), "; ".join(reasons[s.id]) or gone) for s in newest))


def _reasons(newest: Sequence[Snapshot], policy: RetentionPolicy, now: datetime) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {snapshot.id: [] for snapshot in newest}

    def keep(chosen: Iterable[Snapshot], why: str) -> None:
        for snapshot in chosen:
            reasons[snapshot.id].append(why)

    verified = [snapshot for snapshot in newest if snapshot.verified]
    guard = policy.keep_verified
    keep((s for s in newest if s.taken_at > now), "taken in the future: is a clock wrong?")
    keep(
        (s for s in newest if timedelta(0) <= now - s.taken_at < timedelta(days=policy.days)),
        f"younger than {policy.days} days",
    )
    keep(verified[:guard], f"one of the {guard} newest verified")
    if len(verified) < guard:
        keep(newest[:guard], f"one of the {guard} newest, for too few are verified")
    keep(_newest_of_each(newest, policy.daily, lambda at: at.date()), "newest of its day")
    keep(_newest_of_each(newest, policy.weekly, lambda at: at.isocalendar()[:2]), "newest of its week")
    keep(_newest_of_each(newest, policy.monthly, lambda at: (at.year, at.month)), "newest of its month")
    return reasons


def _newest_of_each(
    newest: Sequence[Snapshot], periods: int, period_of: Callable[[datetime], Hashable]
) -> list[Snapshot]:
    first: dict[Hashable, Snapshot] = {}
    for snapshot in newest:
        first.setdefault(period_of(snapshot.taken_at), snapshot)
    return list(first.values())[:periods]


def _insist_on_utc(at: datetime, what: str) -> None:
    if at.utcoffset() != timedelta(0):
        zone = "no time zone" if at.tzinfo is None else f"the time zone {at.tzinfo}"
        raise ValueError(f"{what} has {zone}: convert it with .astimezone(UTC)")
