"""The HTTP side: prices from Postgres, analyses queued in Redis for the worker, health and metrics."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import redis.asyncio as redis
from fastapi import FastAPI, HTTPException, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from psycopg import Error as PostgresError
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from app.metrics import CALLS_LEFT, QUEUED, REQUESTS, SECONDS, UNDERWAY
from app.settings import database_url, redis_url, secret

QUEUE = "analyses:waiting"
DAILY_CALLS = 500  # the data provider's free tier
ANSWER_S = 2.0
SCHEMA = """
CREATE TABLE IF NOT EXISTS prices (symbol text, day date, close numeric(12,4), PRIMARY KEY (symbol, day));
INSERT INTO prices
  SELECT 'SYM' || s, date '2026-01-01' + d, 10 + (hashint4(s * 1000 + d) & 1023) / 16.0
  FROM generate_series(1, 20) s, generate_series(0, 199) d
  ON CONFLICT DO NOTHING;
"""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings = {"password": secret("POSTGRES_PASSWORD"), "connect_timeout": 5}
    pool = AsyncConnectionPool(database_url(), kwargs=settings, min_size=2, max_size=8, timeout=ANSWER_S, open=False)
    await pool.open()
    async with pool.connection(timeout=30) as connection:
        await connection.execute("SELECT pg_advisory_xact_lock(1)")  # replicas that start together make it once
        for statement in SCHEMA.split(";\n"):
            if statement.strip():
                await connection.execute(statement)
    app.state.pool = pool
    app.state.redis = redis.from_url(
        redis_url(), password=secret("REDIS_PASSWORD"), socket_timeout=ANSWER_S, decode_responses=True
    )
    CALLS_LEFT.labels("prices").set(DAILY_CALLS)
    yield
    await app.state.redis.aclose()
    await pool.close()


app = FastAPI(title="Investment analysis", lifespan=lifespan)


@app.middleware("http")
async def measured(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    started, status = time.perf_counter(), 500
    UNDERWAY.inc()
    try:
        response = await answer(request)
        status = response.status_code
        return response
    finally:
        UNDERWAY.dec()
        route = request.scope.get("route")
        path = route.path if route else "unknown"  # never the raw path: each would be a series of its own
        REQUESTS.labels(request.method, path, status).inc()
        SECONDS.labels(path).observe(time.perf_counter() - started)


@app.get("/api/health")
async def health(request: Request) -> dict[str, str]:
    """Green when this replica can answer: its pool gives a connection that works, and Redis answers."""
    try:
        async with request.app.state.pool.connection() as connection:
            await connection.execute("SELECT 1")
        await request.app.state.redis.ping()
    except (PostgresError, PoolTimeout, redis.RedisError) as error:
        raise HTTPException(503, type(error).__name__) from error
    return {"status": "ok"}


@app.get("/metrics")
async def metrics(request: Request) -> Response:
    QUEUED.set(await request.app.state.redis.llen(QUEUE))
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


@app.get("/api/prices/{symbol}")
async def prices(request: Request, symbol: str) -> dict[str, object]:
    """The newest 30 closing prices of a symbol."""
    sql = "SELECT day, close FROM prices WHERE symbol = %s ORDER BY day DESC LIMIT 30"
    async with request.app.state.pool.connection() as connection:
        rows = await (await connection.execute(sql, (symbol,))).fetchall()
    if not rows:
        raise HTTPException(404, f"no prices of {symbol}")
    return {"symbol": symbol, "prices": [{"day": day, "close": float(close)} for day, close in rows]}


@app.get("/api/slow")
async def slow(seconds: float = 1.0) -> dict[str, float]:
    """Answers late, as a report that is put together does: what a drain has to wait for."""
    await asyncio.sleep(min(seconds, 15.0))
    return {"seconds": seconds}


@app.post("/api/analyses/{symbol}", status_code=202)
async def analyse(request: Request, symbol: str) -> dict[str, str]:
    """Queue an analysis; the worker stores its result under the id."""
    job = str(uuid.uuid4())
    await request.app.state.redis.rpush(QUEUE, f"{job} {symbol}")
    return {"id": job}


@app.get("/api/analyses/{job}")
async def analysis(request: Request, job: uuid.UUID) -> dict[str, object]:
    found = await request.app.state.redis.hgetall(f"analyses:{job}")
    if not found:
        raise HTTPException(404, "not done, or older than a day")
    return found
