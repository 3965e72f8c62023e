"""The typed description of what is operated (`stack.yaml`) and the reading of it.

Plain values only: nothing here connects to anything, and a secret is held by the name of the
environment variable or file that has it, never by its value.
"""

from __future__ import annotations

import itertools
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import yaml
from cronsim import CronSim, CronSimError
from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator, model_validator

from ops_platform.deployment import EngineSettings, Image, Machine, Registry, Rollouts
from ops_platform.section import Name, Secret, SecretMissing, Section, from_base

__all__ = ["Secret", "SecretMissing", "Section", "Stack", "StackError", "load_stack", "parse_stack"]

STACK_VARIABLE = "OPS_STACK"


class StackError(ValueError):
    """stack.yaml cannot be used; the first line says where, what was found and what is allowed."""


class Server(Section):
    """A Postgres or Redis server and how it is reached.

    `url` is a connection string without a password. With `container`, the server's own client tools
    are run inside that container (`docker exec`) and `url` is read from inside it; without, local client
    tools are used, looked for in `client_tools`, then where Debian puts them, then on PATH.
    """

    url: str
    password: Secret | None = None
    container: str | None = None
    client_tools: str | None = None

    @field_validator("client_tools")
    @classmethod
    def _beside_the_stack(cls, client_tools: str | None, info: ValidationInfo) -> str | None:
        return from_base(client_tools, info)

    @field_validator("url")
    @classmethod
    def _no_password(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.password is not None or re.search(r"(^|[?&])password=", parts.query):
            raise ValueError("holds a password: take it out and name it under `password`, as {env: NAME}")
        if parts.scheme not in ("postgresql", "redis", "rediss"):
            raise ValueError("must start with postgresql://, redis:// or rediss://")
        if parts.scheme == "postgresql" and parts.path not in ("", "/"):
            raise ValueError("must not name a database: `databases` says which are backed up")
        return url

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.container and self.client_tools:
            raise ValueError("client_tools is for a server without container: the container has its own")
        return self

    @property
    def kind(self) -> Literal["postgres", "redis"]:
        return "postgres" if self.url.startswith("postgresql") else "redis"

    @property
    def where(self) -> str:
        """What messages call it."""
        return f"{self.url} in container {self.container}" if self.container else self.url


class Database(Section):
    """A Postgres database that is backed up; `checksums` names tables as `schema.table`, or is `all`.

    `assertions` are named queries that must answer true on a restored copy, whatever the manifest says.
    """

    server: Name
    database: str = Field(min_length=1)
    checksums: tuple[str, ...] | Literal["all"] = ()
    assertions: dict[Name, str] = {}

    @field_validator("checksums", mode="before")
    @classmethod
    def _tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


class RedisInstance(Section):
    """A Redis instance that is backed up whole, with all its logical databases."""

    server: Name


class Bucket(Section):
    """An S3 bucket; `prefix` keeps what is ours apart from what others put there."""

    name: str = Field(min_length=3, max_length=63)
    access_key: Secret
    secret_key: Secret
    endpoint: str | None = None
    region: str = "us-east-1"
    prefix: str = Field(default="backups", pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$")

    @field_validator("endpoint")
    @classmethod
    def _http(cls, endpoint: str | None) -> str | None:
        if endpoint is not None and not endpoint.startswith(("http://", "https://")):
            raise ValueError("must start with https:// (or http:// on a private network)")
        return endpoint


class Encryption(Section):
    """The age public keys (`age1…`), each of which can decrypt.

    `identity` holds one private key (or several, a line each), which drills and restores need; the key for the
    day when the server is lost belongs elsewhere.
    """

    recipients: tuple[Annotated[str, Field(pattern=r"^age1[0-9a-z]+$")], ...] = Field(min_length=1)
    identity: Secret | None = None

    @field_validator("recipients", mode="before")
    @classmethod
    def _tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


class Retention(Section):
    """How long backups are kept: see `ops_platform.backups.retention`, which decides."""

    days: int = Field(default=7, ge=1)
    keep_verified: int = Field(default=3, ge=1)
    daily: int = Field(default=0, ge=0)
    weekly: int = Field(default=0, ge=0)
    monthly: int = Field(default=0, ge=0)


class Schedule(Section):
    """A cron line and the IANA time zone it is read in."""

    cron: str
    time_zone: str = "UTC"

    @field_validator("cron")
    @classmethod
    def _five_fields(cls, cron: str) -> str:
        try:
            CronSim(cron, datetime(2026, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            raise ValueError(f"must be a cron line: minute hour day month weekday ({error})") from error
        return cron

    @field_validator("time_zone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ValueError, OSError, KeyError) as error:
            raise ValueError("must be an IANA time zone such as America/New_York") from error
        return name

    def longest_gap(self, since: datetime) -> timedelta:
        """The longest time between two ticks in the year after `since`, which must be aware."""
        local = CronSim(self.cron, since.astimezone(ZoneInfo(self.time_zone)))
        ticks = (tick.astimezone(UTC) for tick in local)  # within one zone Python subtracts wall clocks
        end = since + timedelta(days=366)
        times = [since, *itertools.takewhile(lambda tick: tick < end, ticks)]
        return max((later - sooner for sooner, later in itertools.pairwise(times[1:])), default=end - since)


class Schedules(Section):
    nightly_backup: Schedule = Schedule(cron="15 3 * * *")
    weekly_restore_drill: Schedule = Schedule(cron="15 5 * * 0")


class Drills(Section):
    """Where drills start their servers, and what they may take of that disk (10^9 bytes a gigabyte)."""

    directory: Path = Field(default=Path("/var/tmp/ops_platform/drills"), strict=False)  # noqa: S108  made 0755, files 0700
    size_limit_gb: float = Field(default=20.0, gt=0)
    keep_free_gb: float = Field(default=2.0, ge=0)
    deadline_minutes: int = Field(default=180, ge=1)

    @property
    def deadline(self) -> timedelta:
        return timedelta(minutes=self.deadline_minutes)


class Stack(Section):
    """All of stack.yaml. `databases` and `redis` together name the backups, so a name stands once."""

    servers: dict[Name, Server]
    bucket: Bucket
    databases: dict[Name, Database] = {}
    redis: dict[Name, RedisInstance] = {}
    encryption: Encryption | None = None
    retention: Retention = Retention()
    schedules: Schedules = Schedules()
    drills: Drills = Drills()
    engine: EngineSettings | None = None
    machine: Machine | None = None
    registry: Registry | None = None
    images: dict[Name, Image] = {}
    rollouts: Rollouts = Rollouts()
    backup_deadline_minutes: int = Field(default=360, ge=1)
    state_dir: Path = Field(default=Path(".ops"), strict=False)

    @property
    def backup_deadline(self) -> timedelta:
        return timedelta(minutes=self.backup_deadline_minutes)

    def server_of(self, name: str) -> str:
        """The server on which the database or Redis instance that is called `name` lives. Raises KeyError."""
        return (self.databases.get(name) or self.redis[name]).server

    @model_validator(mode="after")
    def _references(self) -> Self:
        for section, wanted, entries in (
            ("databases", "postgres", self.databases),
            ("redis", "redis", self.redis),
        ):
            allowed = sorted(name for name, server in self.servers.items() if server.kind == wanted)
            for name, entry in entries.items():
                if entry.server not in allowed:
                    raise ValueError(
                        f"{section}.{name}.server: {entry.server!r} is not a {wanted} server under `servers`;"
                        f" allowed: {', '.join(allowed) or 'none is there, add one'}"
                    )
        for service, rollout in self.rollouts.services.items():
            if rollout.image is not None and rollout.image not in self.images:
                known = ", ".join(sorted(self.images)) or "none is there, add one"
                raise ValueError(
                    f"rollouts.services.{service}.image: {rollout.image!r} is not under `images`; allowed: {known}"
                )
        if (self.rollouts.services or self.images) and self.engine is None:
            raise ValueError("engine: is missing: images and rollouts.services need to know where they run")
        if self.images and self.registry is None:
            raise ValueError("registry: is missing: images need to know where they are pushed")
        twice = sorted(set(self.databases) & set(self.redis))
        if twice:
            raise ValueError(f"redis.{twice[0]}: a database has this name too; rename one of the two")
        return self


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"]) or "top level"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = f"unknown key; allowed here: {', '.join(_allowed_keys(item['loc'][:-1]))}"
        elif item["type"] == "missing":
            message = "is missing"
        elif not isinstance(item["input"], dict):
            message = f"{message}; found {_shown(item['loc'], item['input'])}"
        lines.append(message if where == "top level" and "." in message.split(":")[0] else f"{where}: {message}")
    return "\n".join(lines)


def _shown(where: tuple[int | str, ...], value: Any) -> str:
    """A refused value for a message; what may hold a secret is not repeated."""
    secretive = {"password", "access_key", "secret_key", "url", "endpoint"}
    return "a value not shown here" if secretive & set(map(str, where)) else f"{value!r}"


def _allowed_keys(path: tuple[int | str, ...]) -> list[str]:
    model: Any = Stack
    for part in path:
        if isinstance(model, type) and issubclass(model, BaseModel):
            field = model.model_fields.get(str(part))
            model = field.annotation if field else None
        candidates = [model, *getattr(model, "__args__", ())]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), model)
    return sorted(model.model_fields) if hasattr(model, "model_fields") else []


def parse_stack(text: str, where: str, base: Path) -> Stack:
    """Read a stack description.

    `where` names it in messages; relative paths are taken from `base`. Raises StackError, a line a fault.
    """
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise StackError(f"{where} is not YAML: {error}") from error
    if not isinstance(found, dict):
        raise StackError(f"{where}: must be a mapping with the keys {', '.join(sorted(Stack.model_fields))}")
    try:
        stack = Stack.model_validate(found, context={"base": base})
    except ValidationError as error:
        faults = _explain(error)
        raise StackError("\n".join(f"{where}: {line}" for line in faults.splitlines())) from None
    drills = stack.drills.model_copy(update={"directory": base / stack.drills.directory})
    return stack.model_copy(update={"state_dir": base / stack.state_dir, "drills": drills})


def load_stack(path: Path | None = None) -> Stack:
    """Read `path`, by default the file that OPS_STACK names, by default `stack.yaml` here. Raises StackError."""
    path = path or Path(os.environ.get(STACK_VARIABLE) or "stack.yaml")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StackError(f"{path}: cannot be read ({error}): point {STACK_VARIABLE} at your stack.yaml") from error
    return parse_stack(text, str(path), path.resolve().parent)
