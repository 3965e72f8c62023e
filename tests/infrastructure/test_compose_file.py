"""What every service of compose.yaml and every Dockerfile must have, read from the files."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.infrastructure.conftest import OURS, SOURCE

FILE = yaml.safe_load((SOURCE / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
# Cores and memory at most, then promised, as the reference deployment had them.
REFERENCE = {
    "backend": ("1.0", "512M", "0.25", "256M"),
    "frontend": ("0.5", "256M", None, None),
    "postgres": ("1.0", "1G", None, None),
    "redis": ("0.25", "128M", None, None),
    "prometheus": ("0.25", "256M", None, None),
    "grafana": ("0.25", "256M", None, None),
}


def test_the_stack_is_whole() -> None:
    others = {"worker", "proxy", "alertmanager", "node-exporter", "postgres-exporter", "redis-exporter"}
    assert set(SERVICES) == {*REFERENCE, *others}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert service["restart"] == "unless-stopped"
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    for kind in ("limits", "reservations"):
        assert service["deploy"]["resources"][kind].keys() == {"cpus", "memory"}
    assert "container_name" not in service
    assert ("ports" in service) == (name == "proxy")
    own = re.fullmatch(r"\$\{[A-Z]+_IMAGE:-ops/[a-z]+:local}", service["image"])
    assert own or re.search(r":v?[0-9]+\.[0-9]+\.[0-9]+[a-z0-9.-]*$", service["image"]), "not pinned to a version"


@pytest.mark.parametrize("name", REFERENCE)
def test_limits_are_those_of_the_reference(name: str) -> None:
    resources = SERVICES[name]["deploy"]["resources"]
    cpus, memory, promised_cpus, promised_memory = REFERENCE[name]
    assert resources["limits"] == {"cpus": cpus, "memory": memory}
    if promised_cpus is not None:
        assert resources["reservations"] == {"cpus": promised_cpus, "memory": promised_memory}


def test_no_secret_stands_in_the_file() -> None:
    assert all(secret.keys() == {"file"} for secret in FILE["secrets"].values())
    for name, service in SERVICES.items():
        for variable, value in (service.get("environment") or {}).items():
            if re.search("PASS|SECRET|TOKEN|KEY", variable):
                assert value.startswith("/run/secrets/"), (name, variable)


@pytest.mark.parametrize("image", OURS)
def test_a_dockerfile(image: str) -> None:
    lines = (SOURCE / image / "Dockerfile").read_text().splitlines()
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert len(bases) >= 2, "not in several stages"
    assert all(re.search(r":v?[0-9]+\.[0-9]+\.[0-9]+", base) for base in bases)
    assert [line for line in lines if line.startswith("USER ")] == ["USER 10001:10001"]
    assert lines.index("USER 10001:10001") > max(i for i, line in enumerate(lines) if line.startswith("FROM "))
