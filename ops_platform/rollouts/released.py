"""What `docker compose up` by hand must know, or it would undo rollouts: the images and replicas that serve.

It stands in the override file beside the compose file, which Compose reads by itself; `docker stack deploy` is given
both. Rollouts themselves do not read it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

HEADER = "# Written by rollouts, so that starting the stack by hand starts what was rolled out. Do not edit.\n"


def with_release(override: str, version: str | None, service: str, image: str, replicas: int) -> str | None:
    """`override` ("" for none yet) with one service's release; None when it is somebody else's.

    `version` is the compose file's own, which `docker stack deploy` insists on in both.
    """
    if override and not override.startswith(HEADER):
        return None
    content: dict[str, Any] = yaml.safe_load(override) or {}
    services = {**content.get("services", {}), service: {"image": image, "deploy": {"replicas": replicas}}}
    return HEADER + yaml.safe_dump({**({"version": version} if version else {}), "services": services})


def note_release(compose_file: Path, service: str, image: str, replicas: int, say: Callable[[str], None]) -> None:
    """Note a release in the override file, in one step; where that cannot be, `say` so: the release serves anyway."""
    path = compose_file.with_name(f"{compose_file.stem}.override{compose_file.suffix}")
    new = path.with_name(f".{path.name}.new")
    try:
        version = yaml.safe_load(compose_file.read_bytes()).get("version")
        text = with_release(
            path.read_text(encoding="utf-8") if path.exists() else "", version, service, image, replicas
        )
        if text is None:
            say(
                f"{path} is not of rollouts' making: name {image} for {service} in it, or `compose up` brings the old"
            )
            return
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    except (OSError, yaml.YAMLError) as error:
        say(f"{path} does not name {image} for {service}, so `compose up` would bring the old one: {error}")
