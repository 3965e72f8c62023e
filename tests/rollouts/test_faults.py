"""What goes wrong around a rollout: said in the first line, nothing changed or all put back, the old ones serving."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ops_platform.rollouts.admission import Refused
from ops_platform.rollouts.rollout import roll_out
from ops_platform.systems.compose import ComposeError
from ops_platform.systems.engine import EngineUnreachable, ImageMissing
from ops_platform.systems.lock import LockBusy, NoState, locked
from ops_platform.systems.proxy import ProxyError
from ops_platform.systems.throwaway.process import free_port
from tests.conftest import quiet
from tests.docker_engine import PREFIX, Daemon, Engine
from tests.rollouts.conftest import QUICK, Room
from tests.stand_ins import Registry, pushed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
UNKNOWN = "sha256:" + "0" * 64


@contextmanager
def refused(room: Room, error: type[Exception], match: str) -> Iterator[None]:
    """The block raises `error`, and the one replica of v1 is as it was."""
    before = room.ids()
    with pytest.raises(error, match=match):
        yield
    assert room.ids() == before
    assert room.answer() == "v1"


class TestBadInput:
    def test_engine_unreachable(self, shared_room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch, pytest.raises(EngineUnreachable, match="no Docker Engine answers"):
            patch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{free_port()}")
            shared_room.roll("v2")
        assert shared_room.answer() == "v1"

    def test_registry_down(self, shared_room: Room) -> None:
        with refused(
            shared_room, ImageMissing, "cannot be had: .*refused.*: check the digest, the registry and its login"
        ):
            shared_room.roll(f"127.0.0.1:{free_port()}/web@{UNKNOWN}")

    def test_digest_missing(self, shared_room: Room, registry: Registry) -> None:
        with refused(shared_room, ImageMissing, "cannot be had: .*(not found|unknown)"):
            shared_room.roll(f"{registry.address}/web@{UNKNOWN}")

    def test_an_image_named_by_tag(self, shared_room: Room, registry: Registry) -> None:
        with refused(shared_room, Refused, "not named by digest"):
            shared_room.roll(f"{registry.address}/web:latest")

    def test_unknown_service(self, shared_room: Room) -> None:
        with refused(shared_room, Refused, "rollouts.services has no nope; it has backend"):
            shared_room.roll("v2", service="nope")

    def test_nothing_to_go_back_to(self, shared_room: Room) -> None:
        with refused(shared_room, Refused, "no release before"):
            shared_room.roll(None)

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"healthcheck": {"disable": True}}, "has no health check"),
            ({"container_name": "web"}, "has container_name"),
            ({"ports": ["127.0.0.1:28999:8000"]}, "publishes port 28999"),
            ({"volumes": ["routes:/data"]}, "writes to volume routes"),
            ({"network_mode": "host", "networks": None}, "uses the host's network"),
        ],
        ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
    )
    def test_what_no_second_replica_can_have(self, shared_room: Room, change: dict[str, Any], match: str) -> None:
        services = shared_room.services()
        services["backend"].update({key: value for key, value in change.items() if value is not None})
        shared_room.write(services)
        with refused(shared_room, Refused, match):
            shared_room.roll("v2")

    def test_a_machine_that_is_too_small(self, shared_room: Room) -> None:
        shared_room.describe(extra="machine: {cpus: 2, memory_gb: 0.2}")
        with refused(shared_room, Refused, "memory limits sum to 0.25 GiB with one more replica of backend"):
            shared_room.roll("v2")

    def test_a_compose_file_that_is_none(self, shared_room: Room) -> None:
        good = shared_room.file.read_text()
        shared_room.file.write_text("services: [")
        with pytest.raises(ComposeError, match="compose file cannot be read"):
            shared_room.roll("v2")
        shared_room.file.write_text(good)
        assert shared_room.answer() == "v1"

    def test_a_command_before_that_fails(self, shared_room: Room) -> None:
        shared_room.describe(rollout=", before: [\"sh -c 'echo the dump failed >&2; exit 3'\"]")
        with refused(shared_room, Exception, "exited with 3: the dump failed"):
            shared_room.roll("v2")

    def test_no_room_for_the_journal(self, shared_room: Room, small_disk: Path) -> None:
        shared_room.describe()
        assert shared_room.stack is not None
        shared_room.stack = shared_room.stack.model_copy(update={"state_dir": small_disk / "state"})
        (small_disk / "full").write_bytes(b"\0" * _free(small_disk))
        with refused(shared_room, NoState, "No space left"):
            shared_room.roll("v2")


def test_a_command_after_that_fails(room: Room) -> None:
    room.describe(rollout=QUICK + ", after: [\"sh -c 'test $OPS_ROLLOUT_SERVICE = backend && exit 4'\"]")
    with room.load() as met:
        outcome = room.roll("v2")
    assert outcome.result == "put back"
    assert "exited with 4" in outcome.why_not
    assert room.versions() == ["v1"]
    assert met.lost == []


def test_a_registry_that_asks_for_a_login(
    room: Room, images_engine: Engine, area: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = "ops:$2b$05$abcdefghijklmnopqrstuu8xaCxxL82bnl.UY74PMksDxIJShppPC\n"  # htpasswd -nbB ops right
    with Registry(area / "locked-registry", htpasswd=hashed) as locked_registry:
        repository = f"{locked_registry.address}/web"
        settings = f"registry: {{repository: {locked_registry.address}, user: ops, password: {{env: REGISTRY_PW}}}}"
        room.describe(extra=settings, rollout=QUICK)
        images_engine.docker("login", "-u", "ops", "--password-stdin", locked_registry.address, given=b"right")
        image = pushed(images_engine, room.web["v2"], repository)
        images_engine.docker("logout", locked_registry.address)
        images_engine.docker("rmi", image, f"{repository}:t")
        monkeypatch.setenv("REGISTRY_PW", "wrong")
        with refused(room, ImageMissing, "its login"):
            room.roll(image)
        monkeypatch.setenv("REGISTRY_PW", "right")
        assert room.roll(image).result == "rolled out"
        assert room.answer() == "v2"
        assert "right" not in "".join(room.said)


class TestAtTheSameTime:
    def test_a_second_rollout_names_the_first(self, shared_room: Room) -> None:
        assert shared_room.stack is not None
        with locked(shared_room.stack.state_dir, "rollout", "rollout", 0, quiet) as held:
            held.note("of worker to v2, by process 123")
            with refused(shared_room, LockBusy, "another rollout is under way .of worker to v2, by process 123"):
                shared_room.roll("v2")

    def test_a_compose_file_edited_between_plan_and_act(self, shared_room: Room) -> None:
        shared_room.describe(rollout=f', before: ["sed -i s/64M/65M/ {shared_room.file}"]')
        with refused(shared_room, Refused, "was edited since this rollout was admitted"):
            shared_room.roll("v2")

    def test_the_proxy_is_gone(self, room: Room) -> None:
        room.compose("stop", "--timeout", "1", "proxy")
        with pytest.raises(ProxyError, match="does not run: start the stack first"):
            room.roll("v2")
        room.compose("start", "proxy")
        room.wait_until_served()
        assert room.versions() == ["v1"]

    def test_the_port_of_the_proxy_is_taken(self, room: Room) -> None:
        room.compose("stop", "--timeout", "1", "proxy")
        with socket.create_server(("127.0.0.1", room.port)):
            with pytest.raises(AssertionError, match="in use"):
                room.compose("start", "proxy")
            with pytest.raises(ProxyError, match=f"does not run: .*could not be started: .*{room.port}.* in use"):
                room.roll("v2")
        room.compose("start", "proxy")
        room.wait_until_served()
        assert room.versions() == ["v1"]

    @pytest.mark.parametrize(
        ("until", "then"),
        [
            ("start:", "v2"),
            ("wait:", "v2"),
            ("route:", "v2"),
            ("retire:", "v2"),
            ("wait:", "back"),
            ("retire:", "back"),
        ],
    )
    def test_a_killed_rollout_is_finished_or_put_back(self, room: Room, until: str, then: str) -> None:
        room.describe(rollout=QUICK)
        with room.load() as met:
            room.kill("v2", until)
            outcome = room.roll(None if then == "back" else then)
        assert outcome.good
        assert room.versions() == ["v1" if then == "back" else "v2"]
        assert met.lost == []
        assert "cut off" in room.said[0]

    def test_a_killed_rollout_of_a_broken_image(self, room: Room) -> None:
        """The next one fails too: what is put back is what was good before the first."""
        with room.load() as met:
            room.kill("never healthy", "wait:")
            outcome = room.roll("exits")
        assert outcome.result == "put back"
        assert room.versions() == ["v1"]
        assert set(met.versions) == {"v1"}
        assert met.lost == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB."""
    with _mounted(tmp_path / "disk", "8m") as path:
        yield path


@contextmanager
def _mounted(path: Path, size: str) -> Iterator[Path]:
    if os.geteuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("a small disk needs root, to mount it")
        pytest.skip("a small disk needs root, to mount it")
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True, timeout=20)
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True, timeout=20)


def _free(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


@dataclass
class Own:
    """A room on an engine of its own, on a disk of its own, that may be restarted and filled."""

    room: Room
    daemon: Daemon
    disk: Path


@pytest.fixture
def own(web: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Own]:
    short = tempfile.mkdtemp(prefix=PREFIX)  # containerd's socket has 107 characters for its whole path
    with _mounted(Path(short), "1500m") as disk:
        daemon = Daemon(disk)
        daemon.start()
        for name, value in daemon.environment.items():
            monkeypatch.setenv(name, value)
        yield Own(Room(Engine(daemon.environment), web, tmp_path), daemon, disk)
        daemon.stop()
    Path(short).rmdir()


def test_an_engine_restarted_half_way(own: Own) -> None:
    room = own.room
    room.up()
    stack = room.describe(rollout=QUICK)
    over = threading.Event()

    def restart() -> None:
        own.daemon.stop()
        time.sleep(3)
        own.daemon.start()
        over.wait(120)  # an engine goes with the thread that started it

    restarting = threading.Thread(target=restart)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("wait:") and restarting.ident is None:
            restarting.start()

    outcome = roll_out(stack, "backend", room.web["v2"], say, quiet)
    assert any("waiting up to 120 s" in line for line in said)
    assert outcome.result == "rolled out", outcome.why_not
    room.wait_until_served()
    assert room.answer() == "v2"
    assert room.versions() == ["v2"]
    over.set()


def test_an_engine_without_disk(own: Own) -> None:
    room = own.room
    room.up()
    room.describe(rollout=QUICK)
    filler = own.disk / "full"
    with filler.open("wb") as file:
        file.write(b"\0" * max(0, _free(own.disk) - 4096))
    with refused(room, Refused, "the engine's disk has 0 MB free"):
        room.roll("v2")
    filler.unlink()
    assert room.roll("v2").result == "rolled out"
