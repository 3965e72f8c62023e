"""A server process on loopback: found, started, waited for, stopped, killed; none outlives its parent."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import pwd
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

HOST = "127.0.0.1"
START_S = 60.0
STOP_S = 20.0
_SET_PDEATHSIG = 1  # linux/prctl.h


class ServerDidNotStart(RuntimeError):
    """A throw-away server is missing, or ended or stayed silent at its start; the message ends with its log."""


def free_port() -> int:
    """A loopback TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def is_taken(port: int) -> bool:
    """Whether something listens on the loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def kept_secret(file: Path) -> str:
    """The secret in `file`, made at random (mode 0600) on the first call."""
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(24), encoding="utf-8")
    return file.read_text(encoding="utf-8")


def unprivileged() -> pwd.struct_passwd | None:
    """The user that servers run as which refuse root; None when we are not root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


class ServerProcess:
    """One process; subclasses say how it is started and when it answers. Its log is `<directory>/server.log`."""

    name = "server"
    user: pwd.struct_passwd | None = None

    def __init__(self, directory: Path, port: int | None, lifetime_s: float | None = None) -> None:
        """With `lifetime_s` it outlives this process and ends itself (coreutils' timeout) after so many seconds."""
        self.directory = directory
        self.lifetime_s = lifetime_s
        directory.mkdir(parents=True, exist_ok=True)
        self.host = HOST
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def prepare(self) -> None:
        """Make what the server wants before its first start."""

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        return {}

    def answers(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        """Start and wait until it answers. Raises ServerDidNotStart."""
        if is_taken(self.port):
            raise ServerDidNotStart(
                f"{self.name}: port {self.port} of {HOST} is taken: stop what listens there (ss -ltnp tells)"
            )
        self.prepare()
        lasting = self.lifetime_s is not None
        limit = ["timeout", f"--signal={self.stop_signal.name[3:]}", f"{self.lifetime_s:.0f}"] if lasting else []
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*limit, *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment()},
                preexec_fn=_become(self.user, None if lasting else os.getpid()),  # noqa: PLW1509  no thread runs Python before exec
                start_new_session=True,
            )
        if not lasting:
            atexit.register(self.kill)
        self._wait_until(self.answers)

    def stop(self) -> None:
        """End it in order, by force after 20 s."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(self.stop_signal)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self.kill()

    stop_signal = signal.SIGTERM

    def kill(self) -> None:
        """SIGKILL the process and its group, as a power cut would."""
        process, self._process = self._process, None
        atexit.unregister(self.kill)
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_S)

    def release(self) -> None:
        """Let a lasting server go on alone."""
        self._process = None

    def _wait_until(self, answers: Callable[[], bool]) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_S
        while self._process.poll() is None and time.monotonic() < deadline:
            if answers():
                return
            time.sleep(0.05)
        code = self._process.poll()
        self.kill()
        log = (self.directory / "server.log").read_text("utf-8", "replace")[-1500:]
        how = f"ended with {code}" if code is not None else f"did not answer within {START_S:.0f} s"
        raise ServerDidNotStart(f"{self.name} on port {self.port} {how}; its log ends:\n{log}")


def _become(user: pwd.struct_passwd | None, parent: int | None) -> Callable[[], None]:
    """Change the user, then ask the kernel for SIGKILL when `parent` dies: setuid would clear that wish."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def before_exec() -> None:
        if user is not None:
            os.initgroups(user.pw_name, user.pw_gid)
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
        if libc is not None and parent is not None:
            libc.prctl(_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGKILL)

    return before_exec
