"""A small stack on a real engine behind the real proxy, images good and broken in a real registry, and load on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from ops_platform.rollouts.attempt import Outcome
from ops_platform.rollouts.rollout import roll_out
from ops_platform.stack import Stack, parse_stack
from ops_platform.systems import swarm as ops_swarm
from ops_platform.systems.engine import Engine as DockerEngine
from ops_platform.systems.throwaway.process import free_port
from tests.conftest import quiet
from tests.docker_engine import Engine
from tests.rollouts.load import Load, load_on
from tests.stand_ins import Registry, pushed

HERE = Path(__file__).parent
PROXY = HERE.parent.parent / "infrastructure" / "proxy"
BROKEN = ("exits", "never healthy", "dies after 5 s", "needs more memory")
UNREACHABLE = "listens on loopback"
QUICK = ", settle_s: 0"


@pytest.fixture(scope="session")
def web(images_engine: Engine, registry: Registry) -> dict[str, str]:
    """Digest references of the versions v1 to v4 and of each broken one, and of the proxy."""
    found = {"proxy": _built(images_engine, registry, PROXY, "proxy", ())}
    broken_ones = ((broken, broken) for broken in (*BROKEN, UNREACHABLE))
    versions = [("v1", ""), ("v2", ""), ("v3", ""), ("v4", ""), *broken_ones]
    for version, broken in versions:
        arguments = ("--build-arg", f"VERSION={version.replace(' ', '-')}", "--build-arg", f"BROKEN={broken}")
        found[version] = _built(images_engine, registry, HERE / "web", "web", arguments)
    return found


def _built(engine: Engine, registry: Registry, context: Path, name: str, arguments: tuple[str, ...]) -> str:
    tag = f"ops-test-{name}"
    engine.docker("build", "--quiet", *arguments, "--tag", tag, str(context), timeout=180)
    return pushed(engine, tag, f"{registry.address}/{name}", f"t{time.monotonic_ns()}")


CHILD = """
import sys
from pathlib import Path
from ops_platform.rollouts.rollout import roll_out
from ops_platform.stack import parse_stack
roll_out(parse_stack(Path(sys.argv[1]).read_text(), "test", Path(sys.argv[1]).parent), *sys.argv[2:],
         lambda line: print(line, flush=True), print)
"""


@dataclass
class Room:
    """A Compose project of its own: `backend` behind the proxy."""

    engine: Engine
    web: dict[str, str]
    directory: Path
    replicas: int = 1
    project: str = ""
    said: list[str] = field(default_factory=list)
    bucket: str = "bucket: {name: unused, access_key: {env: NONE}, secret_key: {env: NONE}}"
    port: int = 0
    stack: Stack | None = None

    def __post_init__(self) -> None:
        self.project = f"ops-test-{os.getpid()}-{time.monotonic_ns() % 10**9}"
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def file(self) -> Path:
        return self.directory / "compose.yaml"

    def services(self) -> dict[str, Any]:
        return {
            "backend": {
                "image": self.web["v1"],
                "restart": "unless-stopped",
                "healthcheck": {
                    "test": [
                        *("CMD", "python", "-c"),
                        "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=2)",
                    ],
                    "interval": "1s",
                    "timeout": "3s",
                    "retries": 5,
                },
                "deploy": {
                    "replicas": self.replicas,
                    "endpoint_mode": "dnsrr",
                    "resources": {"limits": {"cpus": "1.0", "memory": "64M"}},
                },
            },
            "proxy": {
                "image": self.web["proxy"],
                "restart": "unless-stopped",
                "ports": [{"target": 8080, "published": self.port, "host_ip": "127.0.0.1"}],
                "volumes": ["routes:/etc/traefik/routes"],
                "healthcheck": {"test": ["CMD", "true"], "interval": "1s"},
                "deploy": {"resources": {"limits": {"cpus": "1.0", "memory": "128M"}}},
            },
        }

    def write(self, services: dict[str, Any] | None = None) -> None:
        content = {"version": "3.8", "services": services or self.services(), "volumes": {"routes": None}}
        self.file.write_text(yaml.safe_dump(content))

    def describe(self, kind: str = "compose", rollout: str = "", services: str = "", extra: str = "") -> Stack:
        text = f"""
servers: {{}}
{self.bucket}
state_dir: state
engine: {{kind: {kind}, compose_file: compose.yaml, project: {self.project}}}
rollouts:
  services:
    backend: {{port: 8000, health: /health, deadline_s: 12, drain_s: 5{rollout}}}
{services}
{extra}
"""
        (self.directory / "stack.yaml").write_text(text)
        self.stack = parse_stack(text, "test stack", self.directory)
        return self.stack

    def compose(self, *arguments: str) -> str:
        """Compose as an operator starts it, in the directory of its files."""
        command = [str(Path(sys.executable).with_name("docker-compose")), "--project-name", self.project, *arguments]
        done = subprocess.run(command, cwd=self.directory, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def up(self) -> None:
        self.write()
        self.compose("up", "--detach", "--wait")
        self.wait_until_served()

    def deploy(self) -> None:
        """The same stack by the swarm, whose ports are a node's own: it knows no loopback.

        The swarm routes to a task as soon as it is healthy, so the health check asks for seven seconds of age.
        """
        services = self.services()
        services["backend"]["healthcheck"]["retries"] = 15
        services["backend"]["healthcheck"]["test"][-1] += (
            "; import os, time; assert time.time() - os.stat('/proc/1').st_ctime > 7"
        )
        services["proxy"]["ports"] = [{"target": 8080, "published": self.port, "mode": "host"}]
        self.write(services)
        self.engine.docker("stack", "deploy", "--compose-file", str(self.file), self.project)
        self.wait_until_served()

    def wait_until_served(self) -> None:
        deadline = time.monotonic() + 60
        while self.answer() is None:
            assert time.monotonic() < deadline, "nothing is served"
            time.sleep(0.1)

    def answer(self, path: str = "/api/x") -> str | None:
        """The version that answers; None when none does."""
        try:
            found = requests.get(self.url + path, timeout=30)
        except requests.RequestException:
            return None
        return found.text.split()[0] if found.status_code == 200 else None

    def roll(self, version: str | None, service: str = "backend") -> Outcome:
        assert self.stack is not None
        return roll_out(self.stack, service, version and self.web.get(version, version), self.said.append, quiet)

    def kill(self, version: str, until: str, service: str = "backend") -> None:
        """Roll `version` out in a process that gets SIGKILL soon after it says a line that begins with `until`."""
        command = [sys.executable, "-c", CHILD, str(self.directory / "stack.yaml"), service, self.web[version]]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert any(line.startswith(until) for line in child.stdout), "it ended before it said so"
        time.sleep(0.3)
        child.kill()
        child.wait(10)

    def ids(self) -> list[str]:
        """All containers of the service, whatever their state."""
        labels = (f"label=com.docker.compose.project={self.project}", "label=com.docker.compose.service=backend")
        return self.engine.docker("ps", "-aq", *[part for label in labels for part in ("--filter", label)]).split()

    def versions(self) -> list[str]:
        """The versions that have containers, one entry a container."""
        names = {digest: version for version, digest in self.web.items()}
        images = [self.engine.docker("inspect", "-f", "{{.Config.Image}}", one) for one in self.ids()]
        return sorted(names[image] for image in images)

    def load(self, path: str = "/api/x") -> AbstractContextManager[Load]:
        return load_on(self.url + path)

    @contextmanager
    def slow_requests(self, seconds_each: float) -> Iterator[list[str | None]]:
        """Requests that take so long each, two at a time, the one begun while the other is half-way.

        Yields the versions that answered (None: lost).
        """
        answers: list[str | None] = []
        ended = threading.Event()

        def ask(after: float) -> None:
            time.sleep(after)
            while not ended.is_set():
                answers.append(self.answer(f"/api/slow?s={seconds_each}"))

        both = [threading.Thread(target=ask, args=(after,)) for after in (0, seconds_each / 2)]
        for asking in both:
            asking.start()
        try:
            yield answers
        finally:
            ended.set()
            for asking in both:
                asking.join(60)

    def tasks(self) -> list[str]:
        """The versions that the swarm's tasks run, one entry a task."""
        names = {digest: version for version, digest in self.web.items()}
        found = ops_swarm.service(DockerEngine(), f"{self.project}_backend")
        return sorted(names[task.image] for task in found.tasks if task.state == task.desired == "running")

    def down(self) -> None:
        self.compose("down", "--volumes", "--timeout", "1")


@contextmanager
def served(room: Room) -> Iterator[Room]:
    """`room`, served by Compose; removed at the end."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in room.engine.environment.items():
            patch.setenv(name, value)
        room.describe()
        room.up()
        yield room
        room.down()


@pytest.fixture
def room(images_engine: Engine, web: dict[str, str], tmp_path: Path) -> Iterator[Room]:
    """One replica of v1."""
    with served(Room(images_engine, web, tmp_path)) as room:
        yield room


@pytest.fixture(scope="module")
def _shared(images_engine: Engine, web: dict[str, str], area: Path) -> Iterator[Room]:
    directory = area / "shared-room"
    directory.mkdir(exist_ok=True)
    with served(Room(images_engine, web, directory)) as room:
        yield room
    shutil.rmtree(directory)


@pytest.fixture
def shared_room(_shared: Room) -> Iterator[Room]:
    """One replica of v1 for tests that leave it serving as it was, whatever they write into its files."""
    before = _shared.ids()
    _shared.write()
    _shared.describe()
    _shared.said.clear()
    yield _shared
    assert _shared.ids() == before
    assert _shared.answer() == "v1"


@pytest.fixture(scope="module")
def deployed(swarm: Engine, web: dict[str, str], area: Path) -> Iterator[Room]:
    """One replica of v1, served by the swarm; every test leaves it so."""
    directory = area / "swarm-room"
    directory.mkdir()
    room = Room(swarm, web, directory)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in swarm.environment.items():
            patch.setenv(name, value)
        room.deploy()
        yield room
        room.engine.leave_stack(room.project)


@pytest.fixture
def swarm_room(deployed: Room) -> Room:
    deployed.describe("swarm")
    return deployed
