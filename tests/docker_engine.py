"""A real Docker Engine for tests: the one that runs, else one of our own, with containers of this machine's files.

No registry is needed: a container is an empty root with the host's /usr mounted, so Debian's Postgres and Redis run
in it in their own process, network and mount namespaces.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_S = 60.0
IMAGE = "ops-test-root"
MOUNTS = ("-v", "/usr:/usr:ro", "-v", "/etc:/etc:ro")


class NoDockerEngine(RuntimeError):
    """No engine answers and none could be started; the message says why."""


@dataclass(frozen=True)
class Engine:
    """`environment` points the docker client at it."""

    environment: dict[str, str]

    def docker(self, *arguments: str, given: bytes = b"", timeout: float = 60) -> str:
        done = subprocess.run(
            ["docker", *arguments],
            input=given,
            env={**os.environ, **self.environment},
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"docker {arguments[0]}: {done.stderr.decode()}")
        return done.stdout.decode().strip()

    def answers(self) -> bool:
        try:
            self.docker("version", timeout=10)
        except (RuntimeError, OSError, subprocess.TimeoutExpired):
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
    area = Path(tempfile.mkdtemp(prefix="ops-docker-"))
    engine = Engine({"DOCKER_HOST": f"unix://{area}/sock"})
    with (area / "log").open("wb") as log:
        daemon = subprocess.Popen(
            [
                *("dockerd", "--host", engine.environment["DOCKER_HOST"], "--data-root", str(area / "data")),
                *("--exec-root", str(area / "run"), "--pidfile", str(area / "pid"), "--storage-driver", "vfs"),
                *("--bridge", "none", "--iptables=false"),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + START_S
        while not engine.answers():
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise NoDockerEngine(f"dockerd did not start: {(area / 'log').read_text()[-1500:]}")
            time.sleep(0.2)
        yield engine
    finally:
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(30)
        except subprocess.TimeoutExpired:
            daemon.kill()
        shutil.rmtree(area, ignore_errors=True)


def _empty_root() -> bytes:
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w") as tar:
        for name in ("etc", "usr", "tmp", "var", "run", "proc", "sys", "dev", "root", "srv"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name in ("tmp", "srv", "run") else 0o755
            tar.addfile(entry)
        for name in ("bin", "lib", "lib64", "sbin"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(entry)
    return body.getvalue()


@contextmanager
def container(engine: Engine, script: str, ready: tuple[str, ...]) -> Iterator[str]:
    """A container that runs `script`; yields its name once the command `ready` succeeds inside it."""
    engine.docker("import", "-", IMAGE, given=_empty_root())
    name = f"ops-test-{os.getpid()}-{time.monotonic_ns()}"
    path = "/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin"
    made = engine.docker(
        *("run", "-d", "--name", name, "--network", "none", "-e", f"PATH={path}", *MOUNTS),
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
