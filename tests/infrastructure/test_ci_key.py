"""The one command of the CI's key: it rolls a service out to a digest, and nothing that is smuggled in runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "infrastructure" / "rollout-from-ci.sh"
IMAGE = "ghcr.io/me/stack/backend@sha256:" + "a" * 64


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The script beside a `dagster` that writes down what it is given: tests/rollouts/test_dagster.py has a real."""
    (tmp_path / "infrastructure").mkdir()
    shutil.copy(SCRIPT, tmp_path / "infrastructure")
    dagster = tmp_path / ".venv" / "bin" / "dagster"
    dagster.parent.mkdir(parents=True)
    dagster.write_text('#!/bin/sh\nprintf "%s\\n" "$@" >given\n')
    dagster.chmod(0o755)
    return tmp_path


def asked(place: Path, command: str | None) -> tuple[int, str, list[str]]:
    told = {} if command is None else {"SSH_ORIGINAL_COMMAND": command}
    environment = {"PATH": os.environ["PATH"], "OPS_STACK": "stack.yaml", "DAGSTER_HOME": str(place), **told}
    done = subprocess.run(
        [place / "infrastructure" / SCRIPT.name],
        env=environment,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    given = place / "given"
    return done.returncode, done.stderr, given.read_text().splitlines() if given.exists() else []


def test_a_service_and_a_digest(place: Path) -> None:
    code, _, given = asked(place, f"web-site {IMAGE}")
    assert code == 0
    assert given[given.index("--select") + 1] == "rollouts/web-site"
    config = {"image": IMAGE, "why": "a build of the main branch"}
    assert json.loads(given[-1]) == {"ops": {"rollouts__web_site": {"config": config}}}


@pytest.mark.parametrize(
    ("command", "match"),
    [
        (None, "wanted: service"),
        ("backend", "wanted: service"),
        (f"backend {IMAGE} --back", "wanted: service"),
        (f"--back {IMAGE}", "not a service's name"),
        (f"$(id) {IMAGE}", "not a service's name"),
        (f"backend;reboot {IMAGE}", "not a service's name"),
        ("backend ghcr.io/me/backend:latest", "not an image by digest"),
        (f"backend {IMAGE};reboot", "not an image by digest"),
        (f"backend --image={IMAGE}", "not an image by digest"),
        (f"* {IMAGE}", "not a service's name"),
    ],
)
def test_anything_else_is_refused(place: Path, command: str | None, match: str) -> None:
    code, said, given = asked(place, command)
    assert code == 2
    assert match in said
    assert given == []
