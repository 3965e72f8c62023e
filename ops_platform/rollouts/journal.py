"""What was rolled out: the releases of a service, newest first, and the rollout that is under way.

A release keeps the whole compose file that it was made from, so going back restores settings as well as the image.
The journal is written before anything is done, and replaced in one step; after a crash it says what was meant, and
the engine says how far it came.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from ops_platform.systems.lock import NoState


class JournalUnreadable(RuntimeError):
    """A journal is there and cannot be read; the message says where."""


class Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Release(Entry):
    """An image that served: its reference by digest, and the file name of its frozen compose file."""

    image: str
    config: str
    at: AwareDatetime


class Underway(Entry):
    """A rollout that has begun: to what, and what was good before it: release, replicas, their settings' hashes."""

    image: str
    began: AwareDatetime
    before: Release | None
    count: int
    good_hashes: tuple[str, ...]


class Journal(Entry):
    releases: tuple[Release, ...] = ()
    underway: Underway | None = None

    @property
    def current(self) -> Release | None:
        return self.releases[0] if self.releases else None

    @property
    def previous(self) -> Release | None:
        """What `rollback` goes to."""
        return self.releases[1] if len(self.releases) > 1 else None

    @property
    def images(self) -> tuple[str, ...]:
        """All that it names."""
        found = [release.image for release in self.releases]
        if self.underway is not None:
            found.append(self.underway.image)
            if self.underway.before is not None:
                found.append(self.underway.before.image)
        return tuple(found)

    def with_release(self, release: Release, keep: int) -> Journal:
        """`release` serves now. One that was served before is gone back to: what came after it is forgotten."""
        older = [known for known in self.releases if known.config != release.config]
        back = next((i for i, known in enumerate(self.releases) if known.config == release.config), None)
        rest = older if back is None else list(self.releases[back + 1 :])
        return Journal(releases=(release, *rest)[:keep])


class Journals:
    """The journals and frozen compose files in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def read(self, service: str) -> Journal:
        """Raises JournalUnreadable."""
        path = self._path(service)
        try:
            return Journal.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return Journal()
        except (OSError, ValidationError) as error:
            raise JournalUnreadable(
                f"{path} cannot be read ({type(error).__name__}): restore it, or remove it to begin a new history"
            ) from error

    def write(self, service: str, journal: Journal) -> None:
        """Raises NoState."""
        self._replace(self._path(service), journal.model_dump_json(indent=1))
        kept = {release.config for release in journal.releases}
        if journal.underway is None:
            for file in self.directory.glob(f"{service}@*.json"):
                if file.name not in kept:
                    file.unlink(missing_ok=True)

    def freeze(self, service: str, text: str, now: datetime) -> Path:
        """Keep a compose file as a rollout found it; it may hold passwords, so only its owner can read it."""
        path = self.directory / f"{service}@{now:%Y%m%dT%H%M%S%fZ}.json"
        self._replace(path, text)
        return path

    def config(self, release: Release) -> Path:
        """The compose file that `release` was made from."""
        return self.directory / release.config

    def read_config(self, release: Release) -> dict[str, Any]:
        """Its content. Raises JournalUnreadable."""
        path = self.config(release)
        try:
            found: dict[str, Any] = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise JournalUnreadable(
                f"{path}, of the release {release.image}, cannot be read ({type(error).__name__}): restore it, or"
                " name the image to roll it out with the compose file of today"
            ) from error
        return found

    def _path(self, service: str) -> Path:
        return self.directory / f"{service}.json"

    def _replace(self, path: Path, text: str) -> None:
        new = path.with_name(f".{path.name}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        except OSError as error:
            raise NoState(f"cannot write {path} ({error.strerror}): make room, or fix its owner") from error
