"""Where a backup lies in the bucket: `<prefix>/<name>/<id>/<file>`, and what may be called ours there."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

MANIFEST = "manifest.json"
VERIFIED = "verified.json"  # every object was read back
DRILLED = "drilled.json"  # a restore drill was passed
_ID = re.compile(r"^(\d{8}T\d{6}Z)-[0-9a-f]{6}$")
OBJECT_FILE = r"(?:globals\.sql|schema\.dump|data-\d{3}\.dump|snapshot\.rdb)\.zst(?:\.age)?"
_FILE = re.compile(rf"^(?:manifest\.json|verified\.json|drilled\.json|{OBJECT_FILE})$")


def new_id(now: datetime) -> str:
    """A backup's id: its UTC time and six random digits, so that two of one second differ."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


@dataclass(frozen=True)
class BackupPath:
    """One backup's folder."""

    prefix: str
    name: str
    id: str

    def key(self, file: str) -> str:
        return f"{self.folder}{file}"

    @property
    def folder(self) -> str:
        return f"{family(self.prefix, self.name)}{self.id}/"

    @property
    def begun(self) -> datetime:
        """When the backup began, from its id."""
        return datetime.strptime(self.id[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)

    @classmethod
    def of_key(cls, prefix: str, name: str, key: str) -> Self | None:
        """The backup that `key` belongs to, None where this project would not have written such a key."""
        parts = key.removeprefix(family(prefix, name)).split("/")
        if not key.startswith(family(prefix, name)) or len(parts) != 2:
            return None
        if not _ID.match(parts[0]) or not _FILE.match(parts[1]):
            return None
        try:
            path = cls(prefix, name, parts[0])
            path.begun  # noqa: B018  a folder like 20269999T000000Z is nobody's backup
        except ValueError:
            return None
        return path


def family(prefix: str, name: str) -> str:
    """Where all backups of one name lie; the slash keeps `app` apart from `app2`."""
    return f"{prefix}/{name}/"


def reports_of(prefix: str, name: str) -> str:
    """Where the reports of the drills of `name` lie: beside the backups, so that they outlive them."""
    return f"{family(prefix, name)}drills/"


def report_key(prefix: str, name: str, begun: datetime, id: str) -> str:
    """The key of the report of a drill of backup `id`; in key order they stand in time order."""
    return f"{reports_of(prefix, name)}{begun.astimezone(UTC):%Y%m%dT%H%M%SZ}-of-{id}.md"


def file_name(stem: str, encrypted: bool) -> str:
    """`schema.dump` → `schema.dump.zst.age`."""
    return f"{stem}.zst.age" if encrypted else f"{stem}.zst"
