"""Whether everything that stack.yaml names can be reached, may be used and fits: for `ops doctor`."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ops_platform.backups.retrieval import NoKey, identities_of
from ops_platform.deployment import Registry
from ops_platform.drills.servers import GIGABYTE, redis_of
from ops_platform.rollouts.admission import Refused, refusals
from ops_platform.rollouts.engines import orchestrator
from ops_platform.stack import SecretMissing, Server, Stack
from ops_platform.systems.command import CommandFailed, ToolMissing
from ops_platform.systems.compose import Compose, ComposeError
from ops_platform.systems.engine import Engine, EngineError
from ops_platform.systems.object_store import ObjectStore, StoreError
from ops_platform.systems.postgres import Postgres, PostgresError
from ops_platform.systems.postgres_tools import tools_of
from ops_platform.systems.proxy import ProxyError
from ops_platform.systems.redis import Redis, RedisError
from ops_platform.systems.sealing import BadRecipient, check_recipients
from ops_platform.systems.swarm import SwarmError
from ops_platform.systems.throwaway.container import image_of
from ops_platform.systems.throwaway.postgres import bin_of
from ops_platform.systems.throwaway.process import ServerDidNotStart
from ops_platform.systems.unsealing import WrongKey, recipients_of

MOST_SKEW_S = 5.0
Verdict = Literal["ok", "warning", "failed"]
_TROUBLE = (
    PostgresError,
    RedisError,
    StoreError,
    ToolMissing,
    SecretMissing,
    CommandFailed,
    ServerDidNotStart,
    BadRecipient,
    WrongKey,
    NoKey,
    OSError,
    EngineError,
    ComposeError,
    ProxyError,
    SwarmError,
    Refused,
)
ANY_DIGEST = "sha256:" + "0" * 64
_SERVER = """
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int / 10000 AS major,
  current_setting('is_superuser') = 'on' AS super, extract(epoch FROM clock_timestamp())::float8 AS now
"""
_UNREADABLE = """
SELECT n.nspname || '.' || c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'S') AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_toast'
  AND NOT has_table_privilege(c.oid, 'SELECT') ORDER BY 1 LIMIT 5
"""


@dataclass(frozen=True)
class Diagnosis:
    """One thing that was tried: `said` is what was found, and for trouble what to do about it."""

    what: str
    verdict: Verdict
    said: str


class Concern(Exception):
    """What was found works, with a limit that should be known."""


def examine(stack: Stack) -> Iterator[Diagnosis]:
    """Try everything, one diagnosis at a time. Changes nothing but a test object in the bucket, which it removes."""
    for name, server in stack.servers.items():
        look = _postgres if server.kind == "postgres" else _redis
        yield _tried(f"server {name}", lambda server=server, look=look: look(stack, server))  # type: ignore[misc]
    for name, entry in stack.databases.items():
        own = stack.servers[entry.server]
        yield _tried(f"database {name}", lambda name=name, own=own: _database(stack, name, own))  # type: ignore[misc]
    yield _tried(f"bucket {stack.bucket.name}", lambda: _bucket(stack))
    yield _tried("encryption", lambda: _encryption(stack))
    yield _tried("state_dir", lambda: _directory(stack.state_dir, 0))
    room = int(stack.drills.keep_free_gb * GIGABYTE)
    yield _tried("drills.directory", lambda: _directory(stack.drills.directory, room))
    for name in (*stack.databases, *stack.redis):
        own = stack.servers[stack.server_of(name)]
        yield _tried(f"drill server for {name}", lambda name=name, own=own: _drill_server(stack, name, own))  # type: ignore[misc]
    engine = Engine()
    if stack.engine is not None:
        yield _tried("engine", lambda: _engine(stack, engine))
        for service in stack.rollouts.services:
            yield _tried(f"rollouts of {service}", lambda service=service: _rollouts(stack, engine, service))  # type: ignore[misc]
    if stack.registry is not None:
        registry = stack.registry
        yield _tried(f"registry {registry.repository}", lambda: _registry(engine, registry))


def _tried(what: str, look: Callable[[], str]) -> Diagnosis:
    try:
        return Diagnosis(what, "ok", look())
    except Concern as concern:
        return Diagnosis(what, "warning", str(concern))
    except _TROUBLE as error:
        return Diagnosis(what, "failed", str(error))


def _postgres(stack: Stack, server: Server) -> str:
    databases = [entry.database for entry in stack.databases.values() if stack.servers[entry.server] is server]
    postgres = Postgres(server)
    with postgres.session(databases[0] if databases else "postgres", 60) as session:
        its = session.rows(_SERVER)[0]
    tools = tools_of(postgres, its["major"])
    _insist_on_clock(its["now"], postgres.where)
    said = f"Postgres {its['version']}, {tools.version}"
    if not its["super"]:
        raise Concern(
            f"{said}; its user is no superuser: backups hold no role passwords, and nothing can be restored there"
            " (ALTER ROLE … SUPERUSER, or name another user in `url`)"
        )
    return said


def _redis(stack: Stack, server: Server) -> str:
    redis = Redis(server)
    info = redis.info()
    with redis.check(60) as checker:
        checker.stdin.close()  # an empty snapshot: only whether the tool is there matters
    _insist_on_clock(int(info["server_time_usec"]) / 1e6 if "server_time_usec" in info else time.time(), redis.where)
    return f"Redis {info['redis_version']}, {redis.count_keys():,} keys, {info.get('role', 'master')}"


def _insist_on_clock(now: float, where: str) -> None:
    skew = now - time.time()
    if abs(skew) > MOST_SKEW_S:
        raise PostgresError(
            f"the clocks of this machine and of {where} are {abs(skew):.0f} s apart: set them"
            " (timedatectl set-ntp true)"
        )


def _database(stack: Stack, name: str, server: Server) -> str:
    entry = stack.databases[name]
    postgres = Postgres(server)
    with postgres.session(entry.database, 60) as session:
        size = session.rows("SELECT pg_database_size(current_database()) AS bytes")[0]["bytes"]
        unreadable = [row["name"] for row in session.rows(_UNREADABLE)]
    if unreadable:
        raise PostgresError(
            f"{entry.database}: the user may not read {', '.join(unreadable)}: GRANT pg_read_all_data to it"
        )
    for assertion, sql in entry.assertions.items():
        try:
            with postgres.session(entry.database, 60) as session:
                session.execute(f"EXPLAIN SELECT * FROM ({sql.strip().rstrip(';')}) AS q")
        except PostgresError as error:
            raise PostgresError(f"databases.{name}.assertions.{assertion} cannot be asked: {error}") from None
    return f"{size / 1e6:,.1f} MB, every table readable, {len(entry.assertions)} assertions can be asked"


def _bucket(stack: Stack) -> str:
    store = ObjectStore(stack.bucket)
    store.check()
    key = f"{stack.bucket.prefix}/.doctor-{secrets.token_hex(6)}"
    body = secrets.token_bytes(64)
    store.write(key, body)
    try:
        if store.read(key) != body:
            raise StoreError(f"{store.uri(key)} came back otherwise than it was written: distrust this store")
    finally:
        store.delete(key)
    abandoned = len(list(store.open_uploads(f"{stack.bucket.prefix}/")))
    return f"can list, write, read and delete at {store.where}; {abandoned} open uploads"


def _encryption(stack: Stack) -> str:
    if stack.encryption is None:
        raise Concern(
            "backups are not encrypted, and hold no role passwords: name encryption.recipients (age-keygen)"
        )
    recipients = stack.encryption.recipients
    check_recipients(recipients)
    identities = identities_of(stack.encryption)
    if not identities:
        raise Concern(
            f"{len(recipients)} recipients, no private key here: drills and restores from this machine need"
            " encryption.identity (a key of its own, as one more recipient, is best)"
        )
    if not set(recipients_of(identities)) & set(recipients):
        raise NoKey("encryption.identity belongs to none of encryption.recipients: it could open no backup")
    return f"{len(recipients)} recipients, the private key here opens what they can"


def _directory(directory: Path, least_free: int) -> str:
    directory.mkdir(parents=True, exist_ok=True)
    probe = directory / f".doctor-{secrets.token_hex(6)}"
    probe.write_bytes(os.urandom(64))
    probe.unlink()
    free = shutil.disk_usage(directory).free
    if free < least_free:
        raise OSError(
            f"{directory} has {free / GIGABYTE:.1f} GB free, drills.keep_free_gb keeps {least_free / GIGABYTE:g}:"
            " make room"
        )
    return f"{directory} is writable, {free / GIGABYTE:,.1f} GB free"


def _drill_server(stack: Stack, name: str, server: Server) -> str:
    if server.container is not None:
        return f"a container of image {image_of(server.container)[:19]}"
    if name in stack.databases:
        with Postgres(server).session(stack.databases[name].database, 60) as session:
            major = session.rows(_SERVER)[0]["major"]
        return f"Postgres {major} in {bin_of(major, server.client_tools)}"
    return str(redis_of(Redis(server).info()["redis_version"]).server)


def _engine(stack: Stack, engine: Engine) -> str:
    assert stack.engine is not None
    version, free = engine.check(), engine.free_bytes()
    if stack.engine.kind == "swarm" and not engine.swarm_active():
        raise EngineError("this engine manages no swarm: run `docker swarm init`, or set engine.kind to compose")
    return f"Docker {version}" + ("" if free is None else f", {free / GIGABYTE:,.1f} GB free")


def _rollouts(stack: Stack, engine: Engine, service: str) -> str:
    """What `rollout` would refuse, and what it would find running."""
    assert stack.engine is not None
    source = Compose(stack.engine.compose_file, stack.engine.project).resolved()
    now = orchestrator(stack, service, engine, lambda _: None).now()
    if faults := refusals(source, service, ANY_DIGEST, stack.machine):
        raise Refused("; ".join(faults))
    if now.image is None:
        raise Concern("can be rolled out; nothing runs of it yet: start the stack (docker compose up -d)")
    return f"{now.count} replicas of {now.image}"


def _registry(engine: Engine, registry: Registry) -> str:
    engine.digest_of(f"{registry.repository}/doctor:none", registry.credentials())
    return "answers, and takes the login" if registry.user else "answers; no login is made"
