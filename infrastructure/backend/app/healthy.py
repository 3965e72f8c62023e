"""The health check: exits with 0 once this container has answered well for six seconds, and answers now.

Docker calls a container healthy at the first good answer. One that dies just after its start would be sent requests;
so the first good answer is only noted, and counts when it is old enough.
"""

from __future__ import annotations

import sys
import time
import urllib.request
from pathlib import Path

STEADY_S = 6.0
NOTED = Path("/tmp/first-good-answer")  # noqa: S108  in the container, gone with it
HEARTBEAT = Path("/tmp/heartbeat")  # noqa: S108
HEARTBEAT_S = 30.0


def answers(kind: str) -> bool:
    if kind == "worker":
        return HEARTBEAT.exists() and time.time() - HEARTBEAT.stat().st_mtime < HEARTBEAT_S
    with urllib.request.urlopen("http://127.0.0.1:8000/api/health", timeout=4) as answer:
        return bool(answer.status == 200)


if __name__ == "__main__":
    if not answers(sys.argv[1] if len(sys.argv) > 1 else "api"):
        sys.exit(1)
    if not NOTED.exists():
        NOTED.touch()
    sys.exit(0 if time.time() - NOTED.stat().st_mtime >= STEADY_S else 1)
