"""A real Docker Engine for tests: the one that runs, else one of our own, with containers of this machine's files.

No registry is needed: the image is made of this machine's own Postgres, Redis, shell and libraries.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

START_S = 60.0
# Debian's own client builds with BuildKit; a newer one found first on PATH would need the buildx plugin for it.
BUILDKIT = {"DOCKER_BUILDKIT": "1", "PATH": f"/usr/bin:{os.environ['PATH']}"}
IMAGE = "ops-test-servers"
PREFIX = "ops-docker-"
POSTGRES = Path("/usr/lib/postgresql/15")
PROGRAMS = (
    *("sh", "mkdir", "chown", "timeout", "du", "df", "tail", "cat", "rm", "find", "mktemp", "id", "setpriv"),
    *("redis-server", "redis-cli", "redis-check-rdb"),
)


class NoDockerEngine(RuntimeError):
    """No engine answers and none could be started; the message says why."""


class Daemon:
    """A dockerd of our own, with all that it keeps in `area`."""

    def __init__(self, area: Path) -> None:
        self.area = area
        self.environment = {"DOCKER_HOST": f"unix://{area}/sock"}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers. Raises NoDockerEngine."""
        with (self.area / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "TERM"),  # it goes when the tests are killed
                    *("dockerd", "--host", self.environment["DOCKER_HOST"], "--data-root", str(self.area / "data")),
                    *("--exec-root", str(self.area / "run"), "--pidfile", str(self.area / "pid")),
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_S
        while not Engine(self.environment).answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise NoDockerEngine(f"dockerd did not start: {(self.area / 'log').read_text()[-1500:]}")
            time.sleep(0.2)

    def stop(self) -> None:
        """Stop it, and with it all of its containers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)


@dataclass(frozen=True)
class Engine:
    """`environment` points the docker client at it; `daemon` is there when it is our own, and may be restarted."""

    environment: dict[str, str]
    daemon: Daemon | None = None

    def docker(
        self, *arguments: str, given: bytes = b"", timeout: float = 60, environment: Mapping[str, str] | None = None
    ) -> str:
        done = subprocess.run(
            ["docker", *arguments],
            input=given,
            env={**os.environ, **self.environment, **BUILDKIT, **(environment or {})},
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"docker {arguments[0]}: {done.stderr.decode()}")
        return done.stdout.decode().strip()

    def leave_stack(self, project: str) -> None:
        """Remove a swarm's stack; its networks and volumes can go only once its tasks have."""
        label = f"label=com.docker.stack.namespace={project}"
        deadline = time.monotonic() + 60
        while True:
            networks, volumes = (self.docker(what, "ls", "-q", "--filter", label) for what in ("network", "volume"))
            if not networks and not volumes:
                return
            assert time.monotonic() < deadline, f"the stack leaves networks {networks} and volumes {volumes}"
            with suppress(RuntimeError):
                self.docker("stack", "rm", project)
                self.docker("volume", "rm", "--force", *volumes.split())
            time.sleep(0.5)

    def answers(self) -> bool:
        try:
            self.docker("version", timeout=10)
        except (RuntimeError, OSError, subprocess.TimeoutExpired):
            return False
        return True


def clear_killed() -> None:
    """Unmount what engines of killed tests left: their network namespaces hold names that the next one needs."""
    for line in Path("/proc/mounts").read_text().splitlines():
        place = line.split()[1]
        area = re.match(rf"{tempfile.gettempdir()}/{PREFIX}[^/]+", place)
        if area and not _runs(Path(area[0]) / "pid"):
            subprocess.run(["umount", "--lazy", place], check=True, timeout=20)


def _runs(pid_file: Path) -> bool:
    try:
        os.kill(int(pid_file.read_text()), 0)
    except (OSError, ValueError):
        return False
    return True


@contextmanager
def docker_engine() -> Iterator[Engine]:
    """An engine that answers. Raises NoDockerEngine."""
    ambient = Engine({})
    if ambient.answers():
        yield ambient
        return
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        raise NoDockerEngine("no Docker Engine answers; as root with docker.io installed one would be started")
    clear_killed()
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as area:
        daemon = Daemon(Path(area))
        daemon.start()
        try:
            yield Engine(daemon.environment, daemon)
        finally:
            daemon.stop()


def servers_root() -> bytes:
    """A file system with Debian's servers and what they are linked to, as `docker import` takes it."""
    programs = [Path(found) for found in map(shutil.which, PROGRAMS) if found]
    linked = [*programs, *(POSTGRES / "bin").iterdir(), *(POSTGRES / "lib").glob("*.so")]
    linked = [path for path in linked if "llvmjit" not in path.name]  # its library is big, and it is not needed
    listed = subprocess.run(["ldd", *linked], capture_output=True, text=True, check=False, timeout=60).stdout
    libraries = {Path(path) for path in re.findall(r"(/\S+\.so\S*) \(0x", listed)}
    folders = [Path("/usr/share/postgresql/15"), Path("/usr/share/zoneinfo"), Path("/usr/lib/locale/C.utf8")]
    everything = [*linked, *libraries, *folders, Path("/etc/passwd"), Path("/etc/group")]
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w", dereference=True) as tar:
        parents = {parent for path in everything for parent in path.parents} - {Path("/")}
        modes = {**dict.fromkeys(sorted(map(str, parents)), 0o755), **dict.fromkeys(("tmp", "srv", "run"), 0o1777)}
        for name, mode in modes.items():
            entry = tarfile.TarInfo(name.lstrip("/"))
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        for path in everything:
            tar.add(path)
        entry = tarfile.TarInfo("bin")
        entry.type, entry.linkname = tarfile.SYMTYPE, "usr/bin"
        tar.addfile(entry)
    return body.getvalue()


@contextmanager
def container(engine: Engine, script: str, ready: tuple[str, ...]) -> Iterator[str]:
    """A container that runs `script`; yields its name once the command `ready` succeeds inside it."""
    path = f"PATH={POSTGRES}/bin:/usr/local/bin:/usr/bin:/bin"
    engine.docker("import", "--change", f"ENV {path}", "-", IMAGE, given=servers_root(), timeout=300)
    name = f"ops-test-{os.getpid()}-{time.monotonic_ns()}"
    made = engine.docker(
        *("run", "-d", "--name", name, "--network", "none"),
        *(IMAGE, "/bin/sh", "-euc", script),
    )
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                engine.docker("exec", name, *ready)
                break
            except RuntimeError as error:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{error}\n{engine.docker('logs', name)}") from None
                time.sleep(0.2)
        yield name
    finally:
        engine.docker("rm", "-f", made)
