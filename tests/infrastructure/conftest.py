"""A copy of infrastructure/ with a project, secrets and a port of its own, on either engine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg
import pytest
import requests
import yaml

from ops_platform.definitions import build_defs
from ops_platform.images.build import Built, build_image
from ops_platform.resources import Operations
from ops_platform.stack import Stack, load_stack
from ops_platform.systems.throwaway.process import free_port
from ops_platform.systems.throwaway.s3 import S3Server
from tests.docker_engine import Engine
from tests.stand_ins import Registry, have_server_images
from tests.test_dagster import QUIET, metadata_of

SOURCE = Path(__file__).parent.parent.parent / "infrastructure"
OURS = ("backend", "frontend", "proxy")
SAMPLE_RATE = 100.0  # requests a second: what FastAPI, Postgres, proxy and load do together on two cores, with room


class Site:
    def __init__(self, kind: str, engine: Engine, directory: Path, registry: Registry, s3: S3Server) -> None:
        self.engine, self.directory, self.port = engine, directory, free_port()
        self.project = f"ops-site-{kind}-{os.getpid()}"
        shutil.copytree(SOURCE, directory, ignore=shutil.ignore_patterns("secrets", "__pycache__"))
        subprocess.run([directory / "secrets.sh"], check=True, timeout=20)
        content = yaml.safe_load((directory / "compose.yaml").read_text())
        del content["services"]["grafana"]
        where = {"host_ip": "127.0.0.1"} if kind == "compose" else {"mode": "host"}
        content["services"]["proxy"]["ports"] = [{"target": 8080, "published": self.port, **where}]
        (directory / "compose.yaml").write_text(yaml.safe_dump(content))
        described = yaml.safe_load((directory / "stack.yaml").read_text())
        described["engine"].update(kind=kind, project=self.project)
        described["registry"] = {"repository": f"{registry.address}/site"}
        described["bucket"].update(name="backups", endpoint=s3.endpoint, prefix="site")
        for name, server in described["servers"].items():
            server["container"] = f"{self.project}-{name}-1"
        if kind == "swarm":  # whose containers have no fixed name that a backup could be told
            described["rollouts"]["services"]["backend"]["before"] = []
        described["images"]["frontend"]["probe_deadline_s"] = 15
        described["state_dir"] = "state"
        (directory / "stack.yaml").write_text(yaml.safe_dump(described))
        (directory / "secrets" / "bucket_key_id").write_text(s3.access_key)
        (directory / "secrets" / "bucket_key").write_text(s3.secret_key)
        self.stack: Stack = load_stack(directory / "stack.yaml")
        self.environment: dict[str, str] = {}

    def compose(self, *arguments: str) -> str:
        program = str(Path(sys.executable).with_name("docker-compose"))
        file = str(self.directory / "compose.yaml")
        command = [program, "--project-name", self.project, "--file", file, *arguments]
        environment = {**os.environ, **self.environment}
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(self, path: str) -> requests.Response:
        return requests.get(f"http://127.0.0.1:{self.port}{path}", timeout=20)

    def inside(self, service: str, *command: str) -> str:
        return self.compose("exec", "-T", service, *command)

    def prometheus(self, query: str) -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:9090/api/v1/query?query={quote(query)}"
        printed = self.inside("prometheus", "wget", "-q", "-O", "-", url)
        found = yaml.safe_load(printed)["data"]["result"]
        assert isinstance(found, list)
        return found


@contextmanager
def site_on(kind: str, engine: Engine, registry: Registry, s3: S3Server, area: Path) -> Iterator[Site]:
    """A site that nothing of runs yet."""
    with tempfile.TemporaryDirectory(prefix="ops-servers-") as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"/usr/bin:{os.environ['PATH']}")  # Debian's docker has BuildKit without a plugin
        for name, value in engine.environment.items():
            patch.setenv(name, value)
        have_server_images(engine, Path(scratch))
        site = Site(kind, engine, area / f"site-{kind}", registry, s3)
        patch.setenv("OPS_STACK", str(site.directory / "stack.yaml"))
        yield site


@pytest.fixture(scope="package")
def site(images_engine: Engine, registry: Registry, s3: S3Server, area: Path) -> Iterator[Site]:
    with site_on("compose", images_engine, registry, s3, area) as site:
        yield site


@pytest.fixture(scope="package")
def built(site: Site) -> dict[str, Built]:
    """The three images, by the pipeline that operators use; the site is started with them."""
    found = {name: build_image(site.stack, name, print) for name in OURS}
    site.environment = {f"{name.upper()}_IMAGE": each.build.image for name, each in found.items()}
    return found


def run_build_images(site: Site) -> dg.ExecuteInProcessResult:
    """The job, for the backend alone."""
    job = build_defs(Operations(site.stack)).resolve_job_def("build_images")
    return job.execute_in_process(asset_selection=[dg.AssetKey(["images", "backend"])], run_config=QUIET)


@pytest.fixture(scope="package")
def rebuilt(site: Site, built: dict[str, Built]) -> dg.ExecuteInProcessResult:
    """The job's run after a line was added to the backend's code."""
    assert set(built) == set(OURS)
    code = site.directory / "backend" / "app" / "settings.py"
    code.write_text(code.read_text() + "\n# one more line\n")
    return run_build_images(site)


@pytest.fixture(scope="package")
def another_backend(rebuilt: dg.ExecuteInProcessResult) -> str:
    return str(metadata_of(rebuilt, "images", "backend")["image"])
