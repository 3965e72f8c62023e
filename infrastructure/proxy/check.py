"""Starts Traefik on free loopback ports with what the image has, without and with a DOMAIN, and asks it what it made
of that: its routers and services, what it calls an error, and where plain HTTP goes."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
START_S = 20.0


def main(traefik: str) -> None:
    faults = [*found_by(traefik, ""), *found_by(traefik, "example.test")]
    if faults:
        sys.exit("\n".join(faults))


def found_by(traefik: str, domain: str) -> list[str]:
    """What is wrong with it for `domain` (none: plain HTTP)."""
    with tempfile.TemporaryDirectory() as scratch:
        area = Path(scratch)
        settings = settings_in(area)
        api, web = (settings["entryPoints"][name]["address"] for name in ("traefik", "web"))
        file = area / "traefik.yaml"
        file.write_text(yaml.safe_dump(settings))
        with (area / "log").open("wb") as log:
            environment = {**os.environ, "DOMAIN": domain}
            server = subprocess.Popen([traefik, f"--configFile={file}"], stdout=log, stderr=log, env=environment)
        try:
            routers = ask(f"http://{api}/api/http/routers?per_page=500", server)
            services = ask(f"http://{api}/api/http/services?per_page=500", server)
            location = sent_on(web)
        finally:
            server.kill()  # it would wait for connections to end
            server.wait(10)
        # There is no certificate to be had for a domain that is nobody's.
        complaints = [
            line for line in (area / "log").read_text().splitlines() if "ERR" in line and "acme" not in line
        ]
    wanted = {"plain", "grafana", "api", "site"} if domain else {"api", "site"}
    ours = {str(found["name"]).partition("@")[0] for found in routers if str(found["name"]).endswith("@file")}
    faults = [
        f"{found['name']}: {found.get('error')}" for found in routers + services if found["status"] != "enabled"
    ]
    if ours != wanted:
        faults.append(f"routers are {sorted(ours)}, not {sorted(wanted)}")
    if (location == f"https://{domain}/x") != bool(domain):
        faults.append(f"plain HTTP is sent on to {location}")
    return [f"with DOMAIN={domain}: {fault}" for fault in [*faults, *complaints]]


def settings_in(area: Path) -> dict[str, Any]:
    """The image's settings with every address and directory on this machine."""
    settings: dict[str, Any] = yaml.safe_load((HERE / "traefik.yaml").read_text())
    for entry in settings["entryPoints"].values():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            entry["address"] = f"127.0.0.1:{probe.getsockname()[1]}"
    shutil.copytree(HERE / "routes", area / "routes")
    shutil.copy(HERE / "routers.yaml", area / "routes")
    settings["providers"]["file"]["directory"] = str(area / "routes")
    acme = settings["certificatesResolvers"]["letsencrypt"]["acme"]
    acme.update(storage=str(area / "acme.json"), caServer="https://127.0.0.1:1/directory")
    return settings


def sent_on(address: str) -> str | None:
    """Where a plain request for example.test is sent on to."""
    connection = http.client.HTTPConnection(address, timeout=5)
    connection.request("GET", "/x", headers={"Host": "example.test"})
    return connection.getresponse().getheader("Location")


def ask(url: str, server: subprocess.Popen[bytes]) -> list[dict[str, object]]:
    deadline = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  our own http address
                found = json.load(answer)
            if any(str(each["name"]).endswith("@file") for each in found):
                return list(found)
        except OSError:
            if server.poll() is not None:
                sys.exit(f"Traefik ended with {server.returncode}: run it with {HERE / 'traefik.yaml'} to see why")
        if time.monotonic() > deadline:
            sys.exit(f"Traefik has not read its routes within {START_S:.0f} s")
        time.sleep(0.1)


if __name__ == "__main__":
    main(sys.argv[1])
