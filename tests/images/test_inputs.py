"""What counts as a change of an image's inputs, and what a probe starts."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ops_platform.deployment import Image
from ops_platform.images.inputs import fingerprint, revision
from ops_platform.images.probe import throwaway


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "app").mkdir()
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "app" / "main.py").write_text("print(1)\n")
    return tmp_path


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda at: (at / "app" / "main.py").write_text("print(2)\n"),
    "a name": lambda at: (at / "app" / "main.py").rename(at / "app" / "mair.py"),
    "a file more": lambda at: (at / "app" / "empty").touch(),
    "executable": lambda at: (at / "app" / "main.py").chmod(0o755),
    "a link": lambda at: (at / "app" / "link").symlink_to("main.py"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_inputs(context: Path, change: str) -> None:
    before = fingerprint(context)
    CHANGES[change](context)
    assert fingerprint(context) != before


def test_what_is_no_change(context: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = fingerprint(context)
    (context / "app" / "__pycache__").mkdir()
    (context / "app" / "__pycache__" / "main.pyc").write_bytes(b"x")
    (context / "Dockerfile").touch()
    assert fingerprint(context) == before
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "copy"
    context.rename(elsewhere)
    assert fingerprint(elsewhere) == before


def test_bytes_do_not_move_between_files(context: Path) -> None:
    (context / "a").write_text("12")
    (context / "b").write_text("3")
    before = fingerprint(context)
    (context / "a").write_text("1")
    (context / "b").write_text("23")
    assert fingerprint(context) != before


def test_a_revision_says_when_files_differ_from_it(context: Path) -> None:
    assert revision(context) == "unversioned"
    git = ["git", "-C", str(context), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "one"]):
        subprocess.run([*git, *command], check=True, timeout=20)
    clean = revision(context)
    assert len(clean) == 12
    (context / "Dockerfile").write_text("FROM debian\n")
    assert revision(context) == f"{clean}-dirty"


def test_a_probe_meets_nobody() -> None:
    web: dict[str, Any] = {
        "image": "old",
        "ports": [1],
        "container_name": "web",
        "restart": "always",
        "depends_on": {"db": {}},
    }
    resolved = {
        "name": "live",
        "services": {"web": web, "db": {"image": "db", "ports": [2]}},
        "volumes": {"data": {"name": "live_data"}},
        "networks": {"default": {"name": "live_default"}},
    }
    image = Image(context=Path(), probe="web")
    found = throwaway(resolved, image, "new")
    assert found["name"] != "live"
    assert found["services"]["web"] == {
        "image": "new",
        "pull_policy": "never",
        "depends_on": {"db": {}},
        "environment": {"OPS_PROBE": "1"},
    }
    assert found["services"]["db"] == {"image": "db"}
    assert (found["volumes"], found["networks"]) == ({"data": {}}, {"default": {}})
    alone = throwaway(resolved, image.model_copy(update={"probe_alone": True}), "new")
    assert "depends_on" not in alone["services"]["web"]
    assert web["image"] == "old"


def test_a_probe_writes_to_nothing_of_the_host() -> None:
    read = {"type": "bind", "source": "/etc/db.conf", "target": "/db.conf", "read_only": True}
    written = {"type": "bind", "source": "/srv/data", "target": "/data"}
    volume = {"type": "volume", "source": "cache", "target": "/cache"}
    db = {
        "image": "db",
        "network_mode": "host",
        "volumes": [read, written, volume, {"type": "tmpfs", "target": "/t"}],
    }
    resolved = {"services": {"db": db}, "volumes": {"cache": {"external": True, "name": "live"}}}
    found = throwaway(resolved, Image(context=Path(), probe="db"), "new")
    mounts = found["services"]["db"]["volumes"]
    assert mounts == [read, {"type": "volume", "source": "db-1", "target": "/data"}, volume, mounts[3]]
    assert found["volumes"] == {"cache": {}, "db-1": {}}
    assert "network_mode" not in found["services"]["db"]
