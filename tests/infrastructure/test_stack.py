"""The operated stack, whole but for Grafana: built by `build_images`, started, asked, rolled out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg
import pytest
import requests
import yaml

from ops_platform.definitions import build_defs
from ops_platform.images.build import BuildFailed, Built, build_image
from ops_platform.resources import Operations
from ops_platform.rollouts.rollout import roll_out
from ops_platform.stack import Stack, parse_stack
from ops_platform.systems.object_store import ObjectStore
from ops_platform.systems.throwaway.process import free_port
from ops_platform.systems.throwaway.s3 import S3Server
from tests.conftest import FIGURES
from tests.docker_engine import Engine
from tests.stand_ins import Registry, have_server_images
from tests.test_dagster import QUIET, metadata_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SOURCE = Path(__file__).parent.parent.parent / "infrastructure"
OURS = ("backend", "frontend", "proxy")


class Site:
    """A copy of infrastructure/ with its own project, secrets and port."""

    def __init__(self, engine: Engine, directory: Path, registry: Registry) -> None:
        self.engine, self.directory, self.port = engine, directory, free_port()
        self.project = f"ops-site-{os.getpid()}"
        shutil.copytree(SOURCE, directory, ignore=shutil.ignore_patterns("secrets", "__pycache__"))
        subprocess.run([directory / "secrets.sh"], check=True, timeout=20)
        content = yaml.safe_load((directory / "compose.yaml").read_text())
        del content["services"]["grafana"]
        content["services"]["proxy"]["ports"] = [{"target": 8080, "published": self.port, "host_ip": "127.0.0.1"}]
        (directory / "compose.yaml").write_text(yaml.safe_dump(content))
        text = (directory / "stack.yaml").read_text()
        described = yaml.safe_load(text)
        described["engine"]["project"] = self.project
        described["registry"] = {"repository": f"{registry.address}/site"}
        described["rollouts"]["services"]["backend"]["before"] = []
        described["state_dir"] = "state"
        self.stack: Stack = parse_stack(yaml.safe_dump(described), "infrastructure/stack.yaml", directory)
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


@pytest.fixture(scope="module")
def site(images_engine: Engine, registry: Registry, area: Path) -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="ops-servers-") as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"/usr/bin:{os.environ['PATH']}")  # Debian's docker has BuildKit without a plugin
        for name, value in images_engine.environment.items():
            patch.setenv(name, value)
        have_server_images(images_engine, Path(scratch))
        yield Site(images_engine, area / "site", registry)


@pytest.fixture(scope="module")
def built(site: Site) -> dict[str, Built]:
    """The three images, by the pipeline that operators use."""
    found = {name: build_image(site.stack, name, print) for name in OURS}
    site.environment = {f"{name.upper()}_IMAGE": each.build.image for name, each in found.items()}
    return found


@pytest.fixture(scope="module")
def running(site: Site, built: dict[str, Built]) -> Iterator[Site]:
    assert set(built) == set(OURS)
    began = time.monotonic()
    site.compose("up", "--detach", "--wait", "--wait-timeout", "200")
    FIGURES.append(f"the whole stack without Grafana: healthy {time.monotonic() - began:.0f} s after `up`")
    yield site
    site.compose("down", "--volumes", "--timeout", "2")


def test_images_are_built_once(site: Site, built: dict[str, Built]) -> None:
    for name, each in built.items():
        assert each.changed
        assert len(each.packages) > 10
        took = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in each.seconds.items())
        FIGURES.append(f"image {name}: {each.size_bytes / 1e6:.0f} MB, {len(each.packages)} packages; {took}")
        again = build_image(site.stack, name, print)
        assert not again.changed
        assert again.build.image == each.build.image
        assert again.packages == each.packages
        assert set(again.seconds) == {"scan"}


@pytest.mark.usefixtures("built")
def test_a_failing_step_leaves_tags_and_the_newest_build(site: Site, registry: Registry) -> None:
    before = registry.tags("site/frontend")
    caddyfile = site.directory / "frontend" / "Caddyfile"
    dockerfile = site.directory / "frontend" / "Dockerfile"
    for file, broken, match in (
        (caddyfile, caddyfile.read_text() + "\nnonsense {\n", "docker build exited with"),
        (
            caddyfile,
            caddyfile.read_text().replace("/health 200", "/health 500"),
            "did not become healthy",
        ),
        (dockerfile, dockerfile.read_text().replace("caddy:2.11.7-alpine AS", "caddy:latest AS"), "hadolint objects"),
    ):
        good = file.read_text()
        file.write_text(broken)
        with pytest.raises(Exception, match=match):
            build_image(site.stack, "frontend", print)
        file.write_text(good)
    assert registry.tags("site/frontend") == before
    assert not build_image(site.stack, "frontend", print).changed
    assert site.engine.docker("ps", "-aq", "--filter", "label=com.docker.compose.project=ops-probe") == ""


def test_a_context_without_dockerfile(site: Site) -> None:
    image = site.stack.images["frontend"].model_copy(update={"context": site.directory / "redis"})
    stack = site.stack.model_copy(update={"images": {**site.stack.images, "frontend": image}})
    with pytest.raises(BuildFailed, match="there is no Dockerfile"):
        build_image(stack, "frontend", print)


def test_the_whole_stack_answers(running: Site) -> None:
    assert running.get("/api/health").json() == {"status": "ok"}
    assert len(running.get("/api/prices/SYM1").json()["prices"]) == 30
    assert running.get("/api/prices/NONE").status_code == 404
    assert "Investment analysis" in running.get("/").text
    queued = requests.post(f"http://127.0.0.1:{running.port}/api/analyses/SYM2", timeout=10).json()["id"]
    deadline = time.monotonic() + 20
    while (answer := running.get(f"/api/analyses/{queued}")).status_code == 404:
        assert time.monotonic() < deadline, "no worker took the analysis"
        time.sleep(0.2)
    assert answer.json()["symbol"] == "SYM2"
    assert running.get("/metrics").status_code == 404  # the proxy gives the backend only what is under /api


def test_servers_are_tuned_by_their_limits(running: Site) -> None:
    ask = ("psql", "-h", "/tmp", "-U", "market", "-Atc", "SHOW shared_buffers; SHOW work_mem")
    shown = running.inside("postgres", *ask)
    assert shown.split() == ["256MB", "16MB"]
    password = (running.directory / "secrets" / "redis_password").read_text()
    told = running.inside("redis", "sh", "-c", f"REDISCLI_AUTH={password} redis-cli config get maxmemory")
    assert told.split()[-1] == str(100 * 1024 * 1024)


def test_prometheus_has_every_target_and_metric(running: Site) -> None:
    deadline = time.monotonic() + 90
    jobs = {"backend", "postgres", "redis", "node", "prometheus"}
    while {found["metric"]["job"] for found in running.prometheus("up == 1")} != jobs:
        assert time.monotonic() < deadline, running.prometheus("up")
        time.sleep(1)
    for name in ("http_requests_total", "http_request_duration_seconds_bucket", "api_calls_remaining"):
        assert running.prometheus(name), name
    assert running.prometheus("sum(pg_stat_activity_count)")
    assert running.prometheus("redis_up == 1")


def test_the_job_shows_what_it_built(running: Site, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    code = running.directory / "backend" / "app" / "settings.py"
    code.write_text(code.read_text() + "\n# changed\n")
    monkeypatch.setenv("OPS_BUCKET_KEY_ID", s3.access_key)
    monkeypatch.setenv("OPS_BUCKET_KEY", s3.secret_key)
    bucket = running.stack.bucket.model_copy(update={"name": "backups", "endpoint": s3.endpoint, "prefix": "site"})
    stack = running.stack.model_copy(update={"bucket": bucket})
    selection = [dg.AssetKey(["images", "backend"])]

    def run() -> dg.ExecuteInProcessResult:
        job = build_defs(Operations(stack)).resolve_job_def("build_images")
        return job.execute_in_process(asset_selection=selection, run_config=QUIET)

    first = run()
    shown = metadata_of(first, "images", "backend")
    assert shown["changed"] is True
    assert shown["image"].startswith(f"{stack.registry.repository if stack.registry else ''}/backend@sha256:")
    assert shown["size_bytes"] > 50_000_000
    assert shown["layers"] >= 3
    assert shown["packages"] > 10
    assert "| fastapi |" in shown["package_table"]
    assert all(shown[f"{step}_seconds"] >= 0 for step in ("lint", "build", "probe", "sbom", "scan", "push"))
    store = ObjectStore(bucket)
    [kept] = store.list("site/images/backend/")
    assert shown["sbom"] == store.uri(kept.key)
    assert json.loads(store.read(kept.key))["bomFormat"] == "CycloneDX"
    [check] = first.get_asset_check_evaluations()
    assert check.passed == (shown["scan"] == "clean")
    assert check.metadata["outcome"].value == shown["scan"]
    again = run()
    assert metadata_of(again, "images", "backend")["changed"] is False
    assert metadata_of(again, "images", "backend")["image"] == shown["image"]


@pytest.mark.parametrize("service", ["backend", "worker"])
def test_a_rollout_of_another_build(running: Site, service: str, built: dict[str, Built]) -> None:
    image = build_image(running.stack, "backend", print).build.image  # the job's, from the test before
    assert image != built["backend"].build.image
    outcome = roll_out(running.stack, service, image, print)
    assert outcome.result == "rolled out", outcome
    steps = ", ".join(f"{t.what} {t.seconds:.1f} s" for t in outcome.timings)
    FIGURES.append(f"rollout of the sample {service}: {outcome.seconds:.1f} s ({steps})")
    own = sum(timing.seconds for timing in outcome.timings)
    assert outcome.seconds <= own + 5
    assert running.get("/api/health").status_code == 200
    if service == "backend":
        assert roll_out(running.stack, service, None, print).image == built["backend"].build.image
