"""Where the databases are: addresses from the environment, passwords from files that the engine mounts."""

from __future__ import annotations

import os
from pathlib import Path


def database_url() -> str:
    """A libpq connection string without a password, which `PGPASSFILE`'s or `password` gives."""
    return os.environ["DATABASE_URL"]


def redis_url() -> str:
    return os.environ["REDIS_URL"]


def secret(name: str) -> str:
    """The secret that `<NAME>_FILE` names."""
    return Path(os.environ[f"{name}_FILE"]).read_text(encoding="utf-8").rstrip("\n")
