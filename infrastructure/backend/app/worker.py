"""Takes analyses from the queue, one at a time; on SIGTERM it ends the one in hand and stops.

An analysis is moved to a list of this worker's own while it is worked on, so a worker that dies loses none: started
again it puts back what its own list holds, and every worker once a minute what lists of silent workers hold.
"""

from __future__ import annotations

import signal
import socket
import statistics
import threading
import time
from pathlib import Path

import psycopg
import redis

from app.settings import database_url, redis_url, secret

QUEUE = "analyses:waiting"
HEARTBEAT = Path("/tmp/heartbeat")  # noqa: S108  in the container, read by its health check
SILENT_S = 60
DAY_S = 86_400


def main() -> None:
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    queue = redis.from_url(redis_url(), password=secret("REDIS_PASSWORD"), socket_timeout=10, decode_responses=True)
    own = f"analyses:taken:{socket.gethostname()}"
    with psycopg.connect(
        database_url(), password=secret("POSTGRES_PASSWORD"), connect_timeout=5, autocommit=True
    ) as database:
        put_back(queue, own)
        looked = 0.0
        while not stopping.is_set():
            if time.monotonic() - looked > SILENT_S:
                take_back(queue)
                looked = time.monotonic()
            queue.set(f"{own}:alive", 1, ex=SILENT_S)
            HEARTBEAT.touch()
            taken = queue.blmove(QUEUE, own, timeout=1, src="LEFT", dest="RIGHT")
            if taken is not None:
                job, symbol = str(taken).split(" ", 1)
                done = analyse(database, symbol)
                with queue.pipeline(transaction=True) as step:
                    step.hset(f"analyses:{job}", mapping=done)
                    step.expire(f"analyses:{job}", DAY_S)
                    step.lrem(own, 1, str(taken))
                    step.execute()


def analyse(database: psycopg.Connection[tuple[object, ...]], symbol: str) -> dict[str, str]:
    """Mean and deviation of a symbol's closing prices."""
    rows = database.execute("SELECT close FROM prices WHERE symbol = %s", (symbol,)).fetchall()
    closes = [float(str(close)) for (close,) in rows]
    if len(closes) < 2:
        return {"symbol": symbol, "error": "too few prices"}
    mean, deviation = statistics.fmean(closes), statistics.stdev(closes)
    return {"symbol": symbol, "mean": f"{mean:.4f}", "deviation": f"{deviation:.4f}"}


def take_back(queue: redis.Redis) -> None:
    for held in queue.scan_iter("analyses:taken:*", _type="list"):
        if not queue.exists(f"{held}:alive"):
            put_back(queue, held)


def put_back(queue: redis.Redis, held: str) -> None:
    while queue.lmove(held, QUEUE, src="LEFT", dest="LEFT"):
        pass


if __name__ == "__main__":
    main()
