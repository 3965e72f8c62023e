"""A drill's figures: how long a restore takes (RTO) and how much work would be lost (RPO). Pure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

# The parts of a recovery, each the sum of the phases of the same clock that belong to it.
_PARTS = {
    "find": ("find",),
    "start": ("start",),
    "load": ("roles", "schema", "data", "load"),
    "index": ("indexes", "finish"),
    "verify": ("verify",),
}


@dataclass(frozen=True)
class Figures:
    """Seconds and rates of one drill.

    `rto_s` is the time from the decision to a restored and verified copy, the sum of `parts`. `rpo_s` is the age of
    the backup when the drill began: what would have been lost then. `largest_gap_s` is the longest time between two
    good backups among those kept, or since the last: what could have been lost at worst. Rates are of the load.
    """

    parts: Mapping[str, float]
    rto_s: float
    rpo_s: float
    largest_gap_s: float
    bytes_per_s: float
    rows_per_s: float


def figure(
    seconds: Mapping[str, float], begun: datetime, taken: datetime, others: Sequence[datetime], size: int, rows: int
) -> Figures:
    """Figures from the phases' seconds, the drill's and the backup's time, the times of all good backups (aware).

    `size` is raw bytes, `rows` rows or keys.
    """
    parts = {part: round(sum(seconds.get(phase, 0.0) for phase in phases), 3) for part, phases in _PARTS.items()}
    loading = max(parts["load"] + parts["index"], 0.001)
    return Figures(
        parts=parts,
        rto_s=round(sum(parts.values()), 3),
        rpo_s=round((begun - taken).total_seconds(), 3),
        largest_gap_s=round(largest_gap(others, begun), 3),
        bytes_per_s=round(size / loading, 1),
        rows_per_s=round(rows / loading, 1),
    )


def largest_gap(times: Sequence[datetime], now: datetime) -> float:
    """The most seconds between two neighbours of `times` and `now` (aware); 0 where there are none."""
    ordered = sorted([*times, now])
    return max(((later - sooner).total_seconds() for sooner, later in itertools.pairwise(ordered)), default=0.0)
