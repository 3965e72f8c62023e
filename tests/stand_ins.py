"""Base images under the names that the Dockerfiles use, and a registry.

They are pulled where that is possible; elsewhere made of Debian's packages and of the programs' wheels, so that
building, starting and asking is real even where no public registry can be reached.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import requests
import yaml

from ops_platform.systems.throwaway.process import ServerProcess
from tests.docker_engine import Engine, servers_root

PYTHON = "python:3.11.14-slim-bookworm"
TRAEFIK = "traefik:v3.7.15"
CADDY = "caddy:2.11.7-alpine"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")  # this machine's own, which its package index may need
PULL_S = 20.0


def have_base_images(engine: Engine, area: Path) -> None:
    """Have all three on the engine."""
    if not _is_there(engine, PYTHON):
        _import_debian(engine, area)
    for image, program, start in ((TRAEFIK, "traefik", '["traefik"]'), (CADDY, "caddy", "[]")):
        if not _is_there(engine, image):
            context = area / program
            context.mkdir()
            shutil.copy(Path(sys.executable).with_name(program), context / program)
            (context / "Dockerfile").write_text(
                f"FROM {PYTHON}\nCOPY --chmod=755 {program} /usr/local/bin/{program}\nENTRYPOINT {start}\n"
            )
            engine.docker("build", "--quiet", "--tag", image, str(context), timeout=120)


def _is_there(engine: Engine, image: str) -> bool:
    for ask in (("image", "inspect", image), ("pull", "--quiet", image)):
        try:
            engine.docker(*ask, timeout=PULL_S)
        except (RuntimeError, subprocess.TimeoutExpired):
            continue
        return True
    return False


def _import_debian(engine: Engine, area: Path) -> None:
    root = area / "root"
    packages = "--include=python3-venv,ca-certificates,wget"
    made = ["debootstrap", "--variant=minbase", packages, "bookworm", str(root)]
    subprocess.run(made, check=True, capture_output=True, timeout=400)
    shutil.rmtree(root / "var/cache/apt", ignore_errors=True)
    shutil.rmtree(root / "usr/share/doc", ignore_errors=True)
    shutil.copy(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    changes = [f"ENV {name}={value}" for name, value in package_index().items()]
    command = ["tar", "--create", "--directory", str(root), "."]
    tar = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
    engine.docker("import", *[part for c in changes for part in ("--change", c)], "-", PYTHON, given=tar, timeout=120)
    shutil.rmtree(root)


def package_index() -> Mapping[str, str]:
    """How pip inside a build reaches the index that this machine uses."""
    told = {name: os.environ[name] for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL") if name in os.environ}
    return {"PIP_CERT": str(CERTIFICATES), **told}


class Registry(ServerProcess):
    """Debian's docker-registry on loopback, which engines may speak plain HTTP to; with `login` it asks for one."""

    name = "docker-registry"

    def __init__(self, directory: Path, port: int | None = None, htpasswd: str | None = None) -> None:
        super().__init__(directory, port)
        self.htpasswd = htpasswd
        self.address = f"{self.host}:{self.port}"

    def prepare(self) -> None:
        settings: dict[str, object] = {
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(self.directory / "data")}, "delete": {"enabled": True}},
            "http": {"addr": self.address},
        }
        if self.htpasswd is not None:
            (self.directory / "htpasswd").write_text(self.htpasswd)
            settings["auth"] = {"htpasswd": {"realm": "test", "path": str(self.directory / "htpasswd")}}
        (self.directory / "config.yml").write_text(yaml.safe_dump(settings))

    def command(self) -> Sequence[str]:
        if shutil.which("docker-registry") is None:
            pytest.fail("docker-registry is not installed: run infrastructure/debian.sh as root")
        return ["docker-registry", "serve", str(self.directory / "config.yml")]

    def answers(self) -> bool:
        try:
            return requests.get(f"http://{self.address}/v2/", timeout=2).status_code in (200, 401)
        except requests.RequestException:
            return False

    def tags(self, repository: str) -> list[str]:
        found = requests.get(f"http://{self.address}/v2/{repository}/tags/list", timeout=5)
        return sorted(found.json().get("tags") or []) if found.ok else []


def pushed(engine: Engine, image: str, repository: str, tag: str = "t") -> str:
    """Push a local image and return its reference by digest."""
    engine.docker("tag", image, f"{repository}:{tag}")
    engine.docker("push", "--quiet", f"{repository}:{tag}", timeout=120)
    found = engine.docker("image", "inspect", "--format", "{{range .RepoDigests}}{{println .}}{{end}}", image)
    return next(line for line in found.splitlines() if line.startswith(f"{repository}@"))


# Stand-ins for the images of compose.yaml that are not our own: Debian's servers, started as the real images start
# theirs. Grafana is not to be had as a package, so the whole stack runs without it.
DATABASES_ENTRYPOINT = """#!/bin/sh
set -eu
if [ "$1" = redis-server ]; then
    find . \\! -user redis -exec chown redis '{}' +
    exec setpriv --reuid redis --regid redis --clear-groups "$@"
fi
export PATH=/usr/lib/postgresql/15/bin:$PATH PGDATA=/var/lib/postgresql/data
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    mkdir -p "$PGDATA" && chown postgres "$PGDATA" && chmod 700 "$PGDATA"
    install -o postgres -m 600 "$POSTGRES_PASSWORD_FILE" /tmp/pw
    setpriv --reuid postgres --regid postgres --clear-groups sh -euc '
        initdb -U "$POSTGRES_USER" --pwfile /tmp/pw --auth-host scram-sha-256 --auth-local trust -E UTF8
        echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
        pg_ctl -w -o "-c listen_addresses= -c unix_socket_directories=/tmp" start
        createdb -h /tmp -U "$POSTGRES_USER" "$POSTGRES_DB"
        pg_ctl -w stop'
fi
exec setpriv --reuid postgres --regid postgres --clear-groups "$@" -c listen_addresses='*' \\
    -c unix_socket_directories=/tmp
"""
TEMPLATES = "/usr/share/prometheus/alertmanager"
GO_SERVERS = {
    "prom/prometheus:v2.55.1": ("prometheus", "/bin/prometheus"),
    "prom/alertmanager:v0.27.0": ("prometheus-alertmanager", "/bin/alertmanager"),
    "prom/node-exporter:v1.8.2": ("prometheus-node-exporter", "/bin/node_exporter"),
    "prometheuscommunity/postgres-exporter:v0.15.0": ("prometheus-postgres-exporter", "/bin/postgres_exporter"),
    "oliver006/redis_exporter:v1.66.0-alpine": ("prometheus-redis-exporter", "/redis_exporter"),
}


def have_server_images(engine: Engine, area: Path) -> None:
    """Have every image of compose.yaml that we do not build, but Grafana's."""
    for image, (program, path) in GO_SERVERS.items():
        if not _is_there(engine, image):
            context = area / program
            context.mkdir()
            found = shutil.which(program)
            if found is None:
                pytest.fail(f"{program} is not installed: run infrastructure/debian.sh as root")
            shutil.copy(found, context / "program")
            (context / "templates").mkdir()
            if program == "prometheus-alertmanager":  # Debian's has its templates outside the program
                shutil.copytree(TEMPLATES, context / "templates", dirs_exist_ok=True)
            start = (
                f"FROM {PYTHON}\nCOPY templates {TEMPLATES}\nCOPY --chmod=755 program {path}\n"
                "RUN mkdir /prometheus /alertmanager && chown 65534:65534 /prometheus /alertmanager\n"
                f'USER 65534:65534\nENTRYPOINT ["{path}"]\n'
            )
            (context / "Dockerfile").write_text(start)
            engine.docker("build", "--quiet", "--tag", image, str(context), timeout=120)
    databases = ("timescale/timescaledb:2.19.3-pg15", "redis:7.4.1-alpine")
    if all(_is_there(engine, image) for image in databases):
        return
    context = area / "databases"
    context.mkdir()
    (context / "root.tar").write_bytes(servers_root())
    (context / "docker-entrypoint.sh").write_text(DATABASES_ENTRYPOINT)
    (context / "Dockerfile").write_text(
        f"FROM {PYTHON}\nADD root.tar /\nCOPY --chmod=755 docker-entrypoint.sh /usr/local/bin/\n"
        "ENV PATH=/usr/lib/postgresql/15/bin:$PATH\nWORKDIR /data\n"
    )
    tags = [part for image in databases for part in ("--tag", image)]
    engine.docker("build", "--quiet", *tags, str(context), timeout=180)
