"""The embedded servers that the repository's own stack.yaml describes, on their fixed loopback ports."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ops_platform.systems.throwaway.postgres import PostgresServer
from ops_platform.systems.throwaway.redis import RedisServer
from ops_platform.systems.throwaway.s3 import S3Server

ROOT = Path(__file__).resolve().parent.parent
POSTGRES_PORT, REDIS_PORT, S3_PORT = 25432, 26379, 28333


@dataclass(frozen=True)
class Servers:
    postgres: PostgresServer
    redis: RedisServer
    s3: S3Server


def data_directory() -> Path:
    """Where the servers keep their data: `.demo` beside stack.yaml.

    As root Postgres runs as another user, who may not be able to enter this folder: then `.demo` is a link
    to a folder that everyone can reach.
    """
    here = ROOT / ".demo"
    if os.geteuid() == 0 and not here.exists():
        here.unlink(missing_ok=True)
        tag = hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]
        elsewhere = Path("/var/tmp/ops_platform") / f"demo-{tag}"  # noqa: S108  its secrets are 0600
        elsewhere.mkdir(parents=True, exist_ok=True, mode=0o755)
        here.symlink_to(elsewhere)
    here.mkdir(exist_ok=True)
    return here.resolve()


def dagster_home() -> Path:
    """Dagster's instance of the demo, over the repository's dagster.yaml."""
    home = ROOT / ".dagster"
    home.mkdir(exist_ok=True)
    link = home / "dagster.yaml"
    link.unlink(missing_ok=True)
    link.symlink_to("../dagster.yaml")
    return home


@contextmanager
def embedded_servers() -> Iterator[Servers]:
    """All three running, the bucket made, their tools linked where stack.yaml looks. Raises ServerDidNotStart."""
    data = data_directory()
    with (
        PostgresServer(data / "postgres", POSTGRES_PORT) as postgres,
        RedisServer(data / "redis", REDIS_PORT, {"save": "60 1"}) as redis,
        S3Server(data / "s3", S3_PORT) as s3,
    ):
        s3.create_bucket("ops-demo")
        redis.link_tools()
        tools = data / "postgres" / "tools"
        tools.unlink(missing_ok=True)
        tools.symlink_to(postgres.bin)
        yield Servers(postgres, redis, s3)
