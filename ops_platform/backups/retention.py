"""Which backups are kept and why: a pure planner over facts from manifests. It deletes nothing itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta


@dataclass(frozen=True)
class RetentionPolicy:
    """How long to keep: `days` of 24 hours; the `keep_verified` newest verified backups however old they are.

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
            value = getattr(self, entry.name)
            if value < least:
                raise ValueError(f"retention.{entry.name} is {value}: must be at least {least}")


@dataclass(frozen=True)
class Snapshot:
    """A whole backup: its id, when it was taken, whether it was verified, its stored bytes.

    Raises ValueError when `taken_at` is naive or not in UTC.
    """

    id: str
    taken_at: datetime
    verified: bool
    stored_bytes: int

    def __post_init__(self) -> None:
        _insist_on_utc(self.taken_at, f"taken_at of {self.id}")


@dataclass(frozen=True)
class Verdict:
    """What becomes of one snapshot and why: `reason` is for people, several reasons joined with "; "."""

    snapshot: Snapshot
    keep: bool
    reason: str


@dataclass(frozen=True)
class RetentionPlan:
    """A verdict for each snapshot, newest first."""

    verdicts: tuple[Verdict, ...]

    @property
    def kept(self) -> tuple[Verdict, ...]:
        """The verdicts that keep, newest first."""
        return tuple(verdict for verdict in self.verdicts if verdict.keep)

    @property
    def deleted(self) -> tuple[Verdict, ...]:
        """The verdicts that delete, newest first."""
        return tuple(verdict for verdict in self.verdicts if not verdict.keep)

    @property
    def bytes_freed(self) -> int:
        """Stored bytes of all that is deleted."""
        return sum(verdict.snapshot.stored_bytes for verdict in self.deleted)


def plan_retention(snapshots: Iterable[Snapshot], policy: RetentionPolicy, now: datetime) -> RetentionPlan:
    """Decide for every snapshot, the same whatever their order: of two taken at once the higher id is newer.

    `now` is aware UTC. Raises ValueError for a naive or other time, or an id given twice. What is exactly
    `days` old is no longer younger. What comes from the future stays, and takes nobody's place in
    the other rules: a wrong clock must not push real backups out.
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
    verdicts = (Verdict(s, bool(reasons[s.id]), "; ".join(reasons[s.id]) or gone) for s in newest)
    return RetentionPlan(tuple(verdicts))


def _reasons(newest: Sequence[Snapshot], policy: RetentionPolicy, now: datetime) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {snapshot.id: [] for snapshot in newest}

    def keep(chosen: Iterable[Snapshot], why: str) -> None:
        for snapshot in chosen:
            reasons[snapshot.id].append(why)

    past = [snapshot for snapshot in newest if snapshot.taken_at <= now]
    verified = [snapshot for snapshot in past if snapshot.verified]
    guard = policy.keep_verified
    keep((s for s in newest if s.taken_at > now), "taken in the future: clock wrong?")
    keep(
        (s for s in past if (now - s.taken_at).days < policy.days),
        f"younger than {policy.days} days",
    )
    keep(verified[:guard], f"one of the {guard} newest verified")
    if len(verified) < guard:
        keep(past[:guard], f"one of the {guard} newest (too few verified)")
    keep(_newest_of_each(past, policy.daily, lambda at: at.date()), "newest of its day")
    keep(_newest_of_each(past, policy.weekly, lambda at: at.isocalendar()[:2]), "newest of its week")
    keep(_newest_of_each(past, policy.monthly, lambda at: (at.year, at.month)), "newest of its month")
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
