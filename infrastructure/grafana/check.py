"""Prints the expressions of all dashboards as recording rules, which promtool can check.

Fails on a panel that asks a source which provisioning/ does not set up, and on a directory of dashboards that
compose.yaml does not mount. No Grafana is needed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent


def main() -> None:
    sources = {source["uid"] for source in provisioned("datasources")["datasources"]}
    mounted = {volume.split(":")[1] for volume in grafana()["volumes"]}
    faults = [
        f"provisioning/dashboards: {provider['options']['path']} is not mounted by compose.yaml"
        for provider in provisioned("dashboards")["providers"]
        if provider["options"]["path"] not in mounted
    ]
    rules = []
    for file in sorted((HERE / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            if panel["datasource"]["uid"] not in sources:
                faults.append(
                    f"{file.name}: {panel['title']} asks {panel['datasource']['uid']}, which nothing sets up"
                )
            rules += [
                {"record": f"panel:{panel['id']}:{target['refId']}", "expr": target["expr"]}
                for target in panel["targets"]
            ]
    if faults or not rules:
        sys.exit("\n".join(faults) or "the dashboards have no panels")
    yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}, sys.stdout)


def provisioned(what: str) -> dict[str, Any]:
    [file] = (HERE / "provisioning" / what).iterdir()
    found: dict[str, Any] = yaml.safe_load(file.read_text())
    return found


def grafana() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((HERE.parent / "compose.yaml").read_text())["services"]["grafana"]
    return found


if __name__ == "__main__":
    main()
