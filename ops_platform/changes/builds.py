"""The newest good image of each name: noted when a build has passed everything, asked by whoever rolls it out."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from ops_platform.systems.lock import Lock, locked


class Build(BaseModel):
    """An image that was built, probed and pushed: `image` by digest, `inputs` what it was made from, as a hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: str
    revision: str
    inputs: str
    at: AwareDatetime


def building(state_dir: Path, patience_s: float, say: Callable[[str], None]) -> AbstractContextManager[Lock]:
    """Held from an image's build until it is noted: before, nobody knows it is wanted. Raises LockBusy, NoState."""
    return locked(state_dir, "build", "build of an image", patience_s, say)


def note_build(state_dir: Path, name: str, build: Build) -> None:
    """Note `build` as the newest good one, in one step."""
    path = _path(state_dir, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    with new.open("w", encoding="utf-8") as file:
        file.write(build.model_dump_json(indent=1))
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def newest_build(state_dir: Path, name: str) -> Build | None:
    """The newest good build; None when none was noted, or the note cannot be read: then a build notes it again."""
    try:
        return Build.model_validate_json(_path(state_dir, name).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _path(state_dir: Path, name: str) -> Path:
    return state_dir / "images" / f"{name}.json"
