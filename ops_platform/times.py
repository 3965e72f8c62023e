"""Times as people write them."""

from __future__ import annotations

from datetime import datetime


def parse_time(what: str, text: str | None) -> datetime | None:
    """The aware time that an ISO 8601 text says, None for none. Raises ValueError, which names `what`."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{what}: {text!r} is no time: write it as 2026-11-23T18:00:00Z") from None
    if time.tzinfo is None:
        raise ValueError(f"{what}: {text!r} has no time zone: write it as 2026-11-23T18:00:00Z")
    return time
