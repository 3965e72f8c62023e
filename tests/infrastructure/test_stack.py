"""The operated stack on one machine, whole but for Grafana: built by `build_images`, started, asked, rolled out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import dagster as dg
import pytest
import requests

from ops_platform.backups.catalog import read_catalog
from ops_platform.images.build import BuildFailed, Built, build_image
from ops_platform.rollouts.rollout import roll_out
from ops_platform.systems.object_store import ObjectStore
from tests.conftest import FIGURES, quiet
from tests.infrastructure.conftest import OURS, SAMPLE_RATE, SOURCE, Site, run_build_images
from tests.rollouts.load import load_on
from tests.rollouts.test_compose import lost_nothing
from tests.stand_ins import PYTHON, Registry
from tests.test_dagster import metadata_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


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


@pytest.mark.parametrize(
    ("server", "memory", "wanted"),
    [
        ("postgres", "4g", ["shared_buffers=1024MB", "effective_cache_size=2048MB", "work_mem=64MB"]),
        ("postgres", "0", ["this container has no memory limit"]),
        ("redis", "1g", [f"maxmemory {1024 * 1024 * 1024 * 25 // 32}", "maxmemory-policy volatile-lru"]),
        ("redis", "0", ["this container has no memory limit"]),
    ],
)
def test_a_bigger_limit_needs_no_new_file(site: Site, server: str, memory: str, wanted: list[str]) -> None:
    """The start scripts in a container of so much memory, with an entrypoint that shows what it is given."""
    shows = '#!/bin/sh\necho "$@"\n[ "$1" = postgres ] || cat\n'
    script = (
        f"printf %s '{shows}' >/bin/docker-entrypoint.sh; chmod +x /bin/docker-entrypoint.sh; sh /start.sh 2>&1 || :"
    )
    secrets = f"{site.directory}/secrets/redis_password:/run/secrets/redis_password:ro"
    printed = site.engine.docker(
        *("run", "--rm", "--memory", memory, "--entrypoint", "sh", "--volume", secrets),
        *("--volume", f"{SOURCE}/{server}/start.sh:/start.sh:ro", PYTHON, "-c", script),
    )
    assert all(part in printed for part in wanted), printed


def test_no_server_runs_as_root(running: Site) -> None:
    """Whatever an image's own start needs root for, what listens does not keep it."""
    for service in running.compose("config", "--services").split():
        [container] = running.compose("ps", "--quiet", service).split()
        listed = running.engine.docker("top", container, "-eo", "pid,user,comm").splitlines()[1:]
        assert listed
        assert not [line for line in listed if line.split()[1] == "root"], (service, listed)


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


def test_every_panel_of_the_dashboard_has_figures(running: Site) -> None:
    dashboard = json.loads((SOURCE / "grafana" / "dashboards" / "platform.json").read_text())
    wanted = {target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())}
    assert len(wanted) > 5
    deadline = time.monotonic() + 90
    while missing := [expression for expression in wanted if not running.prometheus(expression)]:
        assert time.monotonic() < deadline, missing
        time.sleep(2)


def test_the_job_shows_what_it_built(site: Site, rebuilt: dg.ExecuteInProcessResult) -> None:
    stack = site.stack
    shown = metadata_of(rebuilt, "images", "backend")
    assert shown["changed"] is True
    assert shown["image"].startswith(f"{stack.registry.repository if stack.registry else ''}/backend@sha256:")
    assert shown["size_bytes"] > 50_000_000
    assert shown["layers"] >= 3
    assert shown["packages"] > 10
    assert "| fastapi |" in shown["package_table"]
    assert all(shown[f"{step}_seconds"] >= 0 for step in ("lint", "build", "probe", "sbom", "scan", "push"))
    store = ObjectStore(stack.bucket)
    [kept] = store.list("site/images/backend/")
    assert shown["sbom"] == store.uri(kept.key)
    assert json.loads(store.read(kept.key))["bomFormat"] == "CycloneDX"
    [check] = rebuilt.get_asset_check_evaluations()
    assert check.passed == (shown["scan"] == "clean")
    assert check.metadata["outcome"].value == shown["scan"]
    again = run_build_images(site)
    assert metadata_of(again, "images", "backend")["changed"] is False
    assert metadata_of(again, "images", "backend")["image"] == shown["image"]


def test_a_rollout_of_the_sample_under_load(running: Site, built: dict[str, Built], another_backend: str) -> None:
    """The backend, whose command before is `ops backup market`, and back; prices are answered meanwhile."""
    assert another_backend != built["backend"].build.image
    with load_on(f"http://127.0.0.1:{running.port}/api/prices/SYM1", SAMPLE_RATE) as met:
        there = roll_out(running.stack, "backend", another_backend, print, quiet)
        back = roll_out(running.stack, "backend", None, print, quiet)
    lost_nothing("the sample on compose, rollout of the backend and back", met, there, back)
    assert (there.result, back.result) == ("rolled out", "rolled out")
    assert back.image == built["backend"].build.image
    assert read_catalog(ObjectStore(running.stack.bucket), "site", "market").backups


def test_a_worker_takes_its_own_time_and_five_seconds(running: Site, another_backend: str) -> None:
    outcome = roll_out(running.stack, "worker", another_backend, print, quiet)
    own = sum(timing.seconds for timing in outcome.timings)
    FIGURES.append(
        f"the sample on compose, rollout of the worker: {outcome.seconds:.1f} s, of which its own {own:.1f}"
    )
    assert outcome.result == "rolled out"
    assert outcome.seconds <= own + 5
