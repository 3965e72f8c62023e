"""The ways that are compared: this project's, what a user would otherwise do, and the floor."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyrage

from ops_platform.systems.throwaway.postgres import PostgresServer
from ops_platform.systems.throwaway.s3 import S3Server

COPY = "copy"


def nothing() -> None:
    """No preparation."""


@dataclass(frozen=True)
class Way:
    """A command that prints the bytes it stored or loaded; `prepare` is run before it and not timed.

    `whole` is false for a run on the smaller database, which shows how memory grows and not how fast it is.
    """

    name: str
    command: list[str]
    prepare: Callable[[], None] = nothing
    whole: bool = True


@dataclass(frozen=True)
class Ground:
    """Where the ways run: a directory, a server with the databases `large` and `tenth`, a bucket `bench`."""

    area: Path
    postgres: PostgresServer
    s3: S3Server

    def stack(self, encrypted: bool) -> str:
        """A stack file for this project's ways."""
        file = self.area / f"stack-{encrypted}.yaml"
        if not file.exists():
            identity = pyrage.x25519.Identity.generate()
            key = self.area / "identity"
            key.touch(mode=0o600)
            key.write_text(str(identity))
            encryption = f"encryption: {{recipients: [{identity.to_public()}], identity: {{file: {key}}}}}"
            pg, s3 = self.postgres, self.s3
            file.write_text(
                f"""
servers: {{pg: {{url: "{pg.url}", password: {{env: PGPASSWORD}}, client_tools: "{pg.bin}"}}}}
databases: {{large: {{server: pg, database: large}}, tenth: {{server: pg, database: tenth}}}}
bucket: {{name: bench, endpoint: "{s3.endpoint}", prefix: "p{encrypted}", access_key: {{env: S3_KEY}},
  secret_key: {{env: S3_SECRET}}}}
state_dir: "{self.area}/state"
{encryption if encrypted else ""}
"""
            )
        return str(file)


def backups(ground: Ground) -> list[Way]:
    """The floor and the reference come first: the others are measured against these two."""
    pg, area = ground.postgres, ground.area
    dump = f"{pg.bin}/pg_dump -d {pg.url}/large"

    def ours(name: str, encrypted: bool) -> list[str]:
        return [sys.executable, "-m", "bench.once", "backup", ground.stack(encrypted), name]

    return [
        Way("floor: pg_dump -Z0", _shell(f"{dump} -Fc -Z0 >/dev/null; echo 0")),
        Way("pg_dump | gzip", _shell(f"{dump} | gzip >{area}/sql.gz; stat -c %s {area}/sql.gz")),
        Way("pg_dump | zstd", _shell(f"{dump} -Fc -Z0 | zstd -q >{area}/zst; stat -c %s {area}/zst")),
        Way("this project", ours("large", False)),
        Way("this project, age", ours("large", True)),
        Way("this, a tenth, age", ours("tenth", True), whole=False),
    ]


def restores(ground: Ground) -> list[Way]:
    """As `backups`, whose files and objects they read. None but this project analyzes what it loaded."""
    pg, area = ground.postgres, ground.area
    local = area / "local.dump"

    def empty() -> None:
        pg.sql(f"DROP DATABASE IF EXISTS {COPY}")
        pg.sql("CHECKPOINT")

    def fresh() -> None:
        empty()
        pg.sql(f"CREATE DATABASE {COPY}")

    def ours(name: str, encrypted: bool) -> list[str]:
        return [sys.executable, "-m", "bench.once", "restore", ground.stack(encrypted), name, COPY]

    restore, size = f"{pg.bin}/pg_restore", f"stat -c %s {local}"
    into = f"-d {pg.url}/{COPY}"
    psql = f"gunzip -c {area}/sql.gz | {pg.bin}/psql -q {into} >{area}/said"
    return [
        Way("floor: pg_restore -j2", _shell(f"{restore} -j2 {into} {local}; {size}"), fresh),
        Way("gunzip | psql", _shell(f"{psql}; {size}"), fresh),
        Way("pg_restore < file", _shell(f"{restore} {into} <{local}; {size}"), fresh),
        Way("this project", ours("large", False), empty),
        Way("this project, age", ours("large", True), empty),
        Way("this, a tenth, age", ours("tenth", True), empty, whole=False),
    ]


def starts() -> list[Way]:
    """How long a person waits for a command's first word."""
    ops = Path(sys.executable).with_name("ops")
    return [
        Way("floor: python", [sys.executable, "-c", "print(0)"]),
        Way("import dagster", [sys.executable, "-c", "import dagster; print(0)"]),
        Way("ops --help", _shell(f"{ops} --help >/dev/null; echo 0")),
    ]


def _shell(line: str) -> list[str]:
    return ["bash", "-o", "pipefail", "-ec", line]
