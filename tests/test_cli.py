"""The command `ops` as a shell runs it: what it prints where, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyrage
import pytest

from ops_platform.stack import Stack
from ops_platform.systems.throwaway.postgres import PostgresServer
from tests.conftest import StackOf, with_drills
from tests.drills.test_drill import damaged, flipped

OPS = Path(sys.executable).with_name("ops")
DATABASES = "{market: {server: pg, database: for_ops, assertions: {some: 'SELECT count(*) > 0 FROM t'}}}"


@pytest.fixture
def stack(stack_of: StackOf, postgres: PostgresServer, tmp_path: Path) -> Stack:
    for name in ("for_ops", "for_ops_copy"):
        postgres.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    postgres.sql("CREATE DATABASE for_ops")
    postgres.sql("CREATE TABLE t AS SELECT generate_series(1, 100) AS a", "for_ops")
    return written(with_drills(stack_of(databases=DATABASES), tmp_path), tmp_path)


def written(stack: Stack, directory: Path) -> Stack:
    (directory / "stack.yaml").write_text(stack.model_dump_json(exclude_none=True))  # JSON is YAML
    return stack


def ops(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [OPS, *arguments], cwd=directory, capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "OPS_STACK": "stack.yaml"},
    )  # fmt: skip


def answer(directory: Path, *arguments: str) -> Any:
    done = ops(directory, "--json", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_day_without_dagster(stack: Stack, tmp_path: Path, postgres: PostgresServer) -> None:
    taken = answer(tmp_path, "backup")
    assert [each["name"] for each in taken] == ["market", "cache"]
    [proved] = answer(tmp_path, "drill", "market")
    assert proved["passed"]
    assert proved["checks"]["rows"] == {"passed": True, "faults": [], "tables": 1, "rows": 100}
    assert proved["figures"]["rto_s"] > 0
    listed = {each["name"]: each["proved"] for each in answer(tmp_path, "backups")}
    assert listed == {"market": "restored in a drill", "cache": "read back"}
    restored = answer(tmp_path, "restore", "market", "--as", "for_ops_copy")
    assert restored["backup"] == taken[0]["id"]
    assert postgres.sql("SELECT count(*) FROM t", "for_ops_copy") == "100"
    text = ops(tmp_path, "backups", "market")
    assert text.stdout.split()[:2] == ["market", taken[0]["id"]]


@pytest.mark.slow
def test_what_is_wrong_is_told_and_fails(stack: Stack, tmp_path: Path) -> None:
    assert ops(tmp_path, "backup", "market").returncode == 0
    for code, said, *arguments in (
        (2, "stack.yaml has nothing called 'nope': there are market, cache", "backup", "nope"),
        (2, "'yesterday' is no time", "restore", "market", "--as", "x", "--before", "yesterday"),
        (2, "not by both", "restore", "market", "--as", "x", "--before", "2026-01-01T00:00Z", "--backup", "y"),
        (2, "cannot be read", "--stack", "elsewhere.yaml", "backups"),
        (1, "there is no backup 20200101T000000Z-abcdef", "drill", "market", "--backup", "20200101T000000Z-abcdef"),
        (2, "say under which name it is to be restored", "restore", "market"),
        (1, "has a database for_ops already", "restore", "market", "--as", "for_ops"),
        (2, "its name must be typed as it is", "restore", "market", "--over", "for-ops"),
        (2, "has no check 'rowz'", "drill", "market", "--check", "rowz"),
    ):
        done = ops(tmp_path, *arguments)
        assert (done.returncode, done.stdout) == (code, ""), arguments
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    damaged(stack, "data-000", flipped)
    done = ops(tmp_path, "drill", "market")
    assert done.returncode == 1
    assert "market: FAILED" in done.stdout
    assert "is damaged" in done.stdout
    as_json = ops(tmp_path, "--json", "restore", "market", "--as", "for_ops_copy")
    assert as_json.returncode == 1
    assert "is damaged" in json.loads(as_json.stdout)["error"]


def test_a_restore_on_another_machine_needs_only_the_key(
    stack_of: StackOf, stack: Stack, tmp_path: Path, postgres: PostgresServer
) -> None:
    """stack.yaml on the server has no private key; the laptop brings it."""
    key = pyrage.x25519.Identity.generate()
    encrypted = stack_of(databases=DATABASES, extra=f"encryption: {{recipients: [{key.to_public()}]}}")
    written(encrypted, tmp_path)
    assert ops(tmp_path, "backup", "market").returncode == 0
    without = ops(tmp_path, "restore", "market", "--as", "for_ops_copy")
    assert without.returncode == 1
    assert "give ops restore --identity FILE" in without.stderr
    (tmp_path / "key.txt").write_text(f"# created: today\n# public key: {key.to_public()}\n{key}\n")
    assert ops(tmp_path, "restore", "market", "--as", "for_ops_copy", "--identity", "key.txt").returncode == 0
    assert postgres.sql("SELECT count(*) FROM t", "for_ops_copy") == "100"


class TestDoctor:
    def test_a_healthy_stack(self, stack: Stack, tmp_path: Path) -> None:
        found = {each["what"]: each["verdict"] for each in answer(tmp_path, "doctor")}
        assert set(found.values()) == {"ok", "warning"}
        assert [what for what, verdict in found.items() if verdict == "warning"] == ["encryption"]
        assert {"server pg", "server cache", "database market", "bucket backups", "drill server for cache"} < set(
            found
        )

    def test_what_is_broken_is_named_with_what_to_do(
        self, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres: PostgresServer
    ) -> None:
        nonsense = {"some": "SELECT nope FROM t"}
        entry = stack.databases["market"].model_copy(update={"assertions": nonsense})
        drills = stack.drills.model_copy(update={"keep_free_gb": 10.0**6})
        key = pyrage.x25519.Identity.generate()
        monkeypatch.setenv("TEST_KEY", str(key))
        other = pyrage.x25519.Identity.generate().to_public()
        broken = stack.model_copy(update={"databases": {"market": entry}, "drills": drills})
        text = json.loads(broken.model_dump_json(exclude_none=True))
        text["encryption"] = {"recipients": [str(other)], "identity": {"env": "TEST_KEY"}}
        (tmp_path / "stack.yaml").write_text(json.dumps(text))
        monkeypatch.setenv("TEST_REDIS", "wrong")
        done = ops(tmp_path, "--json", "doctor")
        assert done.returncode == 1
        failed = {each["what"]: each["said"] for each in json.loads(done.stdout) if each["verdict"] == "failed"}
        assert "check the server's `password`" in failed["server cache"]
        assert "databases.market.assertions.some cannot be asked" in failed["database market"]
        assert "belongs to none of encryption.recipients" in failed["encryption"]
        assert "make room" in failed["drills.directory"]
        assert str(key) not in done.stdout + done.stderr
        limited = "CREATE ROLE limited LOGIN PASSWORD 'x'"
        if postgres.sql("SELECT count(*) FROM pg_roles WHERE rolname = 'limited'") == "0":
            postgres.sql(limited)
        text["servers"]["pg"]["url"] = postgres.url.replace("postgres@", "limited@")
        (tmp_path / "stack.yaml").write_text(json.dumps(text))
        monkeypatch.setenv("TEST_PG", "x")
        limits = json.loads(ops(tmp_path, "--json", "doctor").stdout)
        said = {each["what"]: each["said"] for each in limits if each["verdict"] != "ok"}
        assert "is no superuser" in said["server pg"]
        assert "may not read public.t: GRANT pg_read_all_data" in said["database market"]


def test_it_starts_without_dagster_and_at_once(tmp_path: Path) -> None:
    begun = time.monotonic()
    imported = subprocess.run(
        [sys.executable, "-X", "importtime", OPS, "--help"], capture_output=True, text=True, check=True, timeout=30
    )
    seconds = time.monotonic() - begun
    modules = {line.split("|")[-1].strip() for line in imported.stderr.splitlines()}
    assert "click" in modules
    assert not {"dagster", "boto3", "rich"} & modules
    modules_of_commands = "ops_platform.doctor, ops_platform.drills.drill, ops_platform.backups.restore"
    every = subprocess.run(
        [sys.executable, "-c", f"import sys, {modules_of_commands}; print('dagster' in sys.modules)"],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert every.stdout.strip() == "False"
    assert seconds < 5  # a loaded machine's bound; half a second is what `make bench` shows
