"""Starts Traefik with this folder's routes on free loopback ports and fails on anything that it calls an error."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import yaml

HERE = Path(__file__).parent
START_S = 20.0


def main(traefik: str) -> None:
    settings = yaml.safe_load((HERE / "traefik.yaml").read_text())
    for entry in settings["entryPoints"].values():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            entry["address"] = f"127.0.0.1:{probe.getsockname()[1]}"
    settings["providers"]["file"]["directory"] = str(HERE / "routes")
    api = settings["entryPoints"]["traefik"]["address"]
    with tempfile.TemporaryDirectory() as area:
        file = Path(area) / "traefik.yaml"
        file.write_text(yaml.safe_dump(settings))
        with (Path(area) / "log").open("wb") as log:
            server = subprocess.Popen([traefik, f"--configFile={file}"], stdout=log, stderr=log)
        try:
            routers = ask(f"http://{api}/api/http/routers?per_page=500", server)
            services = ask(f"http://{api}/api/http/services?per_page=500", server)
        finally:
            server.terminate()
            server.wait(10)
        complaints = [line for line in (Path(area) / "log").read_text().splitlines() if "ERR" in line]
    faults = [
        f"{found['name']}: {found.get('error')}" for found in routers + services if found["status"] != "enabled"
    ]
    ours = {found["name"] for found in routers} & {"api@file", "site@file"}
    if faults or complaints or len(ours) != 2:
        sys.exit("\n".join([*faults, *complaints, f"routers that were read: {sorted(ours)}"]))


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
