"""Servers that only their container reaches, backed up, restored and drilled on a real Docker Engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops_platform.backups.backup import take_backup
from ops_platform.backups.choice import NEWEST
from ops_platform.backups.manifest import PostgresFacts, RedisFacts
from ops_platform.backups.restore import Target, restore_backup
from ops_platform.backups.verification import verify
from ops_platform.drills.drill import Request, run_drill
from ops_platform.stack import Stack, parse_stack
from ops_platform.systems.object_store import ObjectStore
from ops_platform.systems.postgres import PostgresError
from ops_platform.systems.redis import RedisError
from ops_platform.systems.throwaway.container import LABEL
from ops_platform.systems.throwaway.s3 import S3Server
from tests.conftest import keys, quiet, with_drills
from tests.docker_engine import Engine, container
from tests.drills.test_drill import CHILD

POSTGRES = """
mkdir -p /srv/pg && chown postgres /srv/pg && cd /srv
setpriv --reuid postgres --regid postgres --clear-groups sh -euc '
  echo secret-in-container >/srv/pg/pw
  initdb -D /srv/pg/data -U postgres -A scram-sha-256 --pwfile /srv/pg/pw -E UTF8 --locale C.UTF-8
  exec postgres -D /srv/pg/data -c listen_addresses=127.0.0.1 -c unix_socket_directories=/tmp'
"""
REDIS = "exec redis-server --requirepass secret-in-container --dir /srv --save ''"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def postgres_container(engine: Engine) -> Iterator[str]:
    with container(engine, POSTGRES, ("pg_isready", "-h", "127.0.0.1")) as name:
        sql = "CREATE TABLE t AS SELECT generate_series(1, 50000) AS a"
        exec_psql = (
            "exec",
            "-e",
            "PGPASSWORD=secret-in-container",
            name,
            "psql",
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
        )
        engine.docker(*exec_psql, "-c", sql)
        yield name


@pytest.fixture(scope="module")
def redis_container(engine: Engine) -> Iterator[str]:
    with container(engine, REDIS, ("redis-cli", "ping")) as name:
        engine.docker(
            "exec", "-e", "REDISCLI_AUTH=secret-in-container", name, "redis-cli", "MSET", "a", "1", "b", "2"
        )
        yield name


@pytest.fixture
def stack(
    engine: Engine, postgres_container: str, redis_container: str, s3: S3Server, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Stack:  # fmt: skip
    secrets = {"TEST_AK": s3.access_key, "TEST_SK": s3.secret_key, "TEST_PW": "secret-in-container"}
    for name, value in {**secrets, **engine.environment}.items():
        monkeypatch.setenv(name, value)
    return parse_stack(
        f"""
servers:
  pg: {{url: "postgresql://postgres@127.0.0.1", container: {postgres_container}, password: {{env: TEST_PW}}}}
  cache: {{url: "redis://127.0.0.1", container: {redis_container}, password: {{env: TEST_PW}}}}
databases: {{market: {{server: pg, database: postgres, checksums: all}}}}
redis: {{cache: {{server: cache}}}}
bucket: {{name: backups, endpoint: "{s3.endpoint}", prefix: "d/{tmp_path.name}",
  access_key: {{env: TEST_AK}}, secret_key: {{env: TEST_SK}}}}
""",
        "containers",
        tmp_path,
    )


def test_both_are_backed_up_by_the_same_code(stack: Stack) -> None:
    store = ObjectStore(stack.bucket)
    market = take_backup(stack, "market", store, quiet, quiet).backup
    assert isinstance(market.manifest.source, PostgresFacts)
    assert [(t.name, t.rows) for t in market.manifest.source.tables] == [("t", 50_000)]
    cache = take_backup(stack, "cache", store, quiet, quiet).backup
    assert isinstance(cache.manifest.source, RedisFacts)
    assert cache.manifest.source.keys == {0: 2}
    for backup in (market, cache):
        assert all(finding.passed for finding in verify(store, backup, quiet))


@pytest.mark.parametrize(("name", "error"), [("market", PostgresError), ("cache", RedisError)])
def test_a_container_that_is_not_there(stack: Stack, name: str, error: type[Exception]) -> None:
    servers = {key: s.model_copy(update={"container": "gone"}) for key, s in stack.servers.items()}
    with pytest.raises(error, match="there is no such container"):
        take_backup(stack.model_copy(update={"servers": servers}), name, ObjectStore(stack.bucket), quiet, quiet)
    assert not keys(ObjectStore(stack.bucket), stack.bucket.prefix)


def test_an_engine_that_is_away(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(PostgresError, match="the Docker Engine is away"):
        take_backup(stack, "market", ObjectStore(stack.bucket), quiet, quiet)


def test_a_drill_runs_in_a_container_of_the_same_image(
    stack: Stack, engine: Engine, tmp_path: Path, postgres_container: str, redis_container: str
) -> None:
    stack = with_drills(stack, tmp_path)
    store = ObjectStore(stack.bucket)
    for name, container_name in (("market", postgres_container), ("cache", redis_container)):
        take_backup(stack, name, store, quiet, quiet)
        result = run_drill(stack, name, store, Request(), (), quiet, quiet)
        assert [f.faults for f in result.findings if not f.passed] == []
        assert "without a network" in result.server
        image = engine.docker("inspect", "-f", "{{.Image}}", container_name)
        assert image[:19] in result.server
    assert engine.docker("ps", "-aq", "--filter", f"label={LABEL}") == ""


def test_a_killed_drills_container_is_swept_by_the_next(stack: Stack, engine: Engine, tmp_path: Path) -> None:
    stack = with_drills(stack, tmp_path)
    store = ObjectStore(stack.bucket)
    take_backup(stack, "market", store, quiet, quiet)
    saved = tmp_path / "stack.json"
    saved.write_text(stack.model_dump_json())
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, saved],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not engine.docker("ps", "-q", "--filter", f"label={LABEL}") and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait(10)
    [left] = engine.docker("ps", "-aq", "--filter", f"label={LABEL}").split()
    assert run_drill(stack, "market", store, Request(), (), quiet, quiet).passed
    assert left not in engine.docker("ps", "-aq", "--filter", f"label={LABEL}").split()
    assert list(stack.drills.directory.glob("*")) == []


def test_a_container_that_fills_the_disk_is_ended(stack: Stack, engine: Engine, tmp_path: Path) -> None:
    small = with_drills(stack, tmp_path, size_limit_gb=0.01)
    store = ObjectStore(stack.bucket)
    take_backup(stack, "market", store, quiet, quiet)
    result = run_drill(small, "market", store, Request(), (), quiet, quiet)
    assert "drills.size_limit_gb allows 0.01" in result.findings[0].faults[0]
    assert engine.docker("ps", "-aq", "--filter", f"label={LABEL}") == ""


def test_a_restore_into_a_container(stack: Stack, engine: Engine, postgres_container: str) -> None:
    store = ObjectStore(stack.bucket)
    take_backup(stack, "market", store, quiet, quiet)
    restore_backup(stack, "market", store, NEWEST, Target(database="again"), (), quiet, quiet)
    look = ("psql", "-h", "127.0.0.1", "-U", "postgres", "-d", "again", "-Atc", "SELECT count(*) FROM t")
    assert engine.docker("exec", "-e", "PGPASSWORD=secret-in-container", postgres_container, *look) == "50000"
    assert "ops-scratch" not in engine.docker("exec", postgres_container, "sh", "-c", "echo /tmp/*")
