"""The same compose.yaml on a swarm: deployed, asked, and its backend rolled out under load."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ops_platform.images.build import Built
from ops_platform.rollouts.rollout import roll_out
from ops_platform.systems.throwaway.s3 import S3Server
from tests.conftest import FIGURES, quiet
from tests.docker_engine import Engine
from tests.infrastructure.conftest import SAMPLE_RATE, Site, site_on
from tests.rollouts.load import load_on
from tests.rollouts.test_compose import lost_nothing
from tests.stand_ins import Registry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def deploy(site: Site) -> None:
    """Returns once every service has all of its replicas."""
    file = str(site.directory / "compose.yaml")
    site.engine.docker("stack", "deploy", "--compose-file", file, site.project, environment=site.environment)
    listing = ("stack", "services", "--format", "{{.Name}} {{.Replicas}}", site.project)
    deadline = time.monotonic() + 240
    while waiting := [each for each in site.engine.docker(*listing).splitlines() if not each.endswith(" 1/1")]:
        assert time.monotonic() < deadline, waiting
        time.sleep(1)


def test_the_sample_under_load(
    swarm: Engine, registry: Registry, s3: S3Server, area: Path, built: dict[str, Built], another_backend: str
) -> None:
    with site_on("swarm", swarm, registry, s3, area) as site:
        site.environment = {f"{name.upper()}_IMAGE": each.build.image for name, each in built.items()}
        began = time.monotonic()
        try:
            deploy(site)
            FIGURES.append(
                f"the whole stack without Grafana, on a swarm: complete {time.monotonic() - began:.0f} s after deploy"
            )
            assert site.get("/api/health").json() == {"status": "ok"}
            assert "Investment analysis" in site.get("/").text
            with load_on(f"http://127.0.0.1:{site.port}/api/prices/SYM1", SAMPLE_RATE) as met:
                there = roll_out(site.stack, "backend", another_backend, print, quiet)
                back = roll_out(site.stack, "backend", None, print, quiet)
            lost_nothing("the sample on a swarm, rollout of the backend and back", met, there, back)
            assert (there.result, back.result) == ("rolled out", "rolled out")
        finally:
            site.engine.leave_stack(site.project)
