"""The manifest: what a backup holds and how it was made. Without one there is no backup.

Layout and meaning are documented in docs/backups.md; a change that an older reader would misread gets a
new `version`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from ops_platform.backups.layout import OBJECT_FILE


class UnreadableManifest(ValueError):
    """A manifest that this version cannot read; the message says which and why."""


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Content = Literal["schema", "tables", "rest", "globals", "rdb"]


class StoredObject(Part):
    """An object of the backup; sizes in bytes, `sha256` of the stored bytes, `file` beside the manifest.

    Only a name that a backup would have given is taken: what a manifest names, retention deletes.
    """

    file: str = Field(pattern=f"^{OBJECT_FILE}$")
    content: Content
    stored_bytes: int
    raw_bytes: int
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    seconds: float
    listed_tables: tuple[int, ...] = ()


class TableFacts(Part):
    """A table in the snapshot. `checksum` does not depend on the rows' order; see docs/backups.md."""

    oid: int
    schema_name: str
    name: str
    rows: int
    bytes: int
    checksum: str | None = None


class Census(Part):
    """What must come back beside the rows. `sequences` gives last values, None where nothing was drawn.

    `materialized_views` are those that were populated, in the order of their refreshing: no dump holds that.
    """

    valid_indexes: int
    invalid_indexes: int
    constraints: int
    large_objects: int
    sequences: dict[str, int | None]
    materialized_views: tuple[str, ...]
    unvalidated: tuple[str, ...]
    roles: dict[str, str]


class Grant(Part):
    """A privilege on the database itself; `role` None is PUBLIC."""

    role: str | None
    privilege: str
    grantable: bool


class DatabaseProperties(Part):
    """What CREATE and ALTER DATABASE need to make its like; `settings` are (role or None, name, value)."""

    owner: str
    collate: str
    ctype: str
    provider: str
    locale: str | None
    connection_limit: int
    comment: str | None
    shared_preload_libraries: str | None
    settings: tuple[tuple[str | None, str, str], ...]
    grants: tuple[Grant, ...]


class PostgresFacts(Part):
    """`census` and `properties` are missing in manifests from before there were restores."""

    kind: Literal["postgres"] = "postgres"
    database: str
    server_version: str
    server_major: int
    dump_version: str
    snapshot: str
    encoding: str
    extensions: dict[str, str]
    role_passwords: bool
    tables: tuple[TableFacts, ...]
    census: Census | None = None
    properties: DatabaseProperties | None = None


class RedisFacts(Part):
    """`keys`, `expiring` and `expiry_sums` (of Unix ms) by logical database.

    `types` and `expiry_sums` are missing in manifests from before there were restores.
    """

    kind: Literal["redis"] = "redis"
    server_version: str
    rdb_version: int
    keys: dict[int, int]
    expiring: dict[int, int]
    types: dict[str, int] | None = None
    expiry_sums: dict[int, int] | None = None


class Manifest(Part):
    version: Literal[1] = 1
    id: str
    name: str
    taken_at: AwareDatetime
    finished_at: AwareDatetime
    seconds: dict[str, float]
    compression: Literal["zstd"] = "zstd"
    encryption: Literal["age"] | None = None
    recipients: tuple[str, ...] = ()
    objects: tuple[StoredObject, ...]
    source: Annotated[PostgresFacts | RedisFacts, Field(discriminator="kind")]

    @property
    def raw_bytes(self) -> int:
        return sum(stored.raw_bytes for stored in self.objects)

    @property
    def stored_bytes(self) -> int:
        return sum(stored.stored_bytes for stored in self.objects)


class Verification(Part):
    """The mark beside a manifest that the backup was proved: `how` says by what; a drill adds its RTO in seconds."""

    version: Literal[1] = 1
    at: datetime
    how: Literal["read back", "drill"]
    rto_s: float | None = None


def read_manifest(body: bytes, where: str) -> Manifest:
    """Parse a manifest's bytes. Raises UnreadableManifest, which names `where`."""
    try:
        return Manifest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, first["loc"])) or "the whole"
        raise UnreadableManifest(
            f"{where}: not a manifest that this version reads ({path}: {first['msg']}): it is left alone;"
            " update ops_platform, or move the folder away if it is damaged"
        ) from error
