"""What is in an image: its packages (SBOM, by syft), and which of them have known holes (by trivy)."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ops_platform.systems.command import CommandFailed, ToolMissing, run

SBOM_S = 300.0
SCAN_S = 600.0
_HANDED = ("PATH", "HTTPS_PROXY", "https_proxy", "SSL_CERT_FILE")
SEVERITIES = ("CRITICAL", "HIGH", "MEDIUM", "LOW", "UNKNOWN")


@dataclass(frozen=True)
class Scan:
    """`no database` is neither `clean` nor an error: nothing could be said. `found` counts by severity."""

    outcome: Literal["clean", "vulnerable", "no database"]
    found: dict[str, int]
    said: str = ""


def tool(name: str) -> str:
    """The program that is pinned with this package, else the one on PATH. Raises ToolMissing."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which(name)
    if found is None:
        raise ToolMissing(f"{name} is not installed: install this package's requirements")
    return found


def write_sbom(image: str, file: Path) -> None:
    """List the image's packages into `file` (CycloneDX JSON), in one step. Raises CommandFailed, ToolMissing."""
    new = file.with_suffix(".new")
    command = [tool("syft"), "scan", f"docker:{image}", "--quiet", "--output", f"cyclonedx-json={new}"]
    quiet = {"SYFT_CHECK_FOR_APP_UPDATE": "false"}
    run(command, quiet, program="syft", deadline_s=SBOM_S)
    new.replace(file)


def packages_of(sbom: Path) -> list[tuple[str, str]]:
    """The names and versions that an SBOM lists, in order."""
    components = json.loads(sbom.read_bytes()).get("components") or []
    return sorted({(c["name"], c.get("version", "")) for c in components if c["type"] == "library"})


def scan(sbom: Path, cache: Path) -> Scan:
    """Look the SBOM's packages up. Raises CommandFailed, ToolMissing; a database that cannot be had is an outcome."""
    # The scanner gets no secrets, whatever this process holds: only what it needs to reach its database.
    withheld = [part for name in os.environ if name not in _HANDED for part in ("-u", name)]
    command = [
        *("env", *withheld, tool("trivy"), "sbom", "--quiet", "--format", "json"),
        *("--cache-dir", str(cache), str(sbom)),
    ]
    try:
        printed = run(command, {}, program="trivy", deadline_s=SCAN_S)
    except CommandFailed as error:
        if "DB error" in error.last_words or "vulnerability DB" in error.last_words:
            return Scan("no database", {}, error.last_words.strip().splitlines()[0])
        raise
    results = json.loads(printed).get("Results") or []
    holes = [hole for result in results for hole in result.get("Vulnerabilities") or ()]
    counts = Counter(hole["Severity"] for hole in holes)
    return Scan("vulnerable" if holes else "clean", {s: counts[s] for s in SEVERITIES if counts[s]})
