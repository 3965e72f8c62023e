"""A throw-away Postgres or Redis in a container of a given image: no network, no privileges, an end of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from ops_platform.systems.command import CommandFailed, run
from ops_platform.systems.throwaway.process import START_S, ServerDidNotStart

LABEL = "ops_platform.drill"
DIRECTORY = "/tmp/ops-drill"  # noqa: S108  in the container's own layer, gone with it
_POSTGRES = """
export PATH="$PATH:/usr/lib/postgresql/{major}/bin"
mkdir -m 700 {directory}
initdb -D {directory}/data -U {superuser} -E UTF8 --auth=trust
exec timeout {lifetime_s} postgres -D {directory}/data {settings}
"""
_REDIS = """
mkdir -m 700 {directory}
exec timeout {lifetime_s} redis-server --bind 127.0.0.1 --save '' --dir {directory}
"""


@dataclass(frozen=True)
class Container:
    """A running container; it ends after its lifetime even when nobody removes it."""

    name: str

    def ended(self) -> str | None:
        """The end of its log when it runs no more, else None."""
        if _docker("inspect", "-f", "{{.State.Running}}", self.name) == "true":
            return None
        return _logs(self.name)

    def kill(self) -> None:
        """End what runs in it, as a power cut would."""
        _docker("kill", self.name)

    def remove(self) -> None:
        """Remove it and its volumes; it is no error when it is gone already."""
        _docker("rm", "--force", "--volumes", self.name)


def image_of(container: str) -> str:
    """The id of the image that a container runs. Raises ServerDidNotStart."""
    try:
        return _docker("inspect", "-f", "{{.Image}}", container)
    except CommandFailed as error:
        raise ServerDidNotStart(
            f"could not ask for the image of container {container}: {error.advised(())}"
        ) from None


def start_postgres(
    name: str, image: str, major: int, superuser: str, settings: Mapping[str, str], lifetime_s: float
) -> Container:
    """Start a server that trusts whoever is in the container, as only its tools are. Raises ServerDidNotStart."""
    its = {"listen_addresses": "127.0.0.1", "unix_socket_directories": DIRECTORY, **settings}
    options = " ".join(f"-c {key}={value}" for key, value in its.items())
    script = _POSTGRES.format(
        major=major, superuser=superuser, settings=options, directory=DIRECTORY, lifetime_s=int(lifetime_s)
    )
    return _start(name, image, script, "--user", "postgres")


def start_redis(name: str, image: str, lifetime_s: float) -> Container:
    """Start an empty server without a password. Raises ServerDidNotStart."""
    return _start(name, image, _REDIS.format(directory=DIRECTORY, lifetime_s=int(lifetime_s)))


def wait_for(container: Container, ready: list[str]) -> None:
    """Wait until the command `ready` succeeds inside it. Raises ServerDidNotStart."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            _docker("exec", container.name, *ready)
            return
        except CommandFailed as error:
            ended = container.ended()
            if ended is not None or time.monotonic() > deadline:
                what = "ended" if ended is not None else f"did not answer within {START_S:.0f} s"
                raise ServerDidNotStart(
                    f"container {container.name} {what}: {error}\n{_logs(container.name)}"
                ) from None
        time.sleep(0.2)


def _start(name: str, image: str, script: str, *options: str) -> Container:
    try:
        _docker(
            *("run", "--detach", "--name", name, "--label", f"{LABEL}=1", "--network", "none", "--cap-drop", "ALL"),
            *("--security-opt", "no-new-privileges", *options, "--entrypoint", "sh", image, "-euc", script),
        )
    except CommandFailed as error:
        raise ServerDidNotStart(f"could not start a container of image {image}: {error.advised(())}") from None
    return Container(name)


def _logs(name: str) -> str:
    both = ["sh", "-c", 'docker logs --tail 20 "$0" 2>&1', name]
    return run(both, {}, program="docker logs", deadline_s=60).decode("utf-8", "replace")


def _docker(*arguments: str) -> str:
    printed = run(["docker", *arguments], {}, program=f"docker {arguments[0]}", deadline_s=120)
    return printed.decode("utf-8", "replace").strip()
