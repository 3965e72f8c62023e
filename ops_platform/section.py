"""What every section of stack.yaml is made of: strict, frozen values, names, and secrets held by where they lie."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]


class SecretMissing(RuntimeError):
    """A secret's environment variable or file is not there; the message never holds a value."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def from_base(path: str | None, info: ValidationInfo) -> str | None:
    """A relative path in stack.yaml is meant from where stack.yaml lies."""
    return None if path is None else str(Path((info.context or {}).get("base", ".")) / path)


class Secret(Section):
    """Where a secret lies: `{env: NAME}` or `{file: /path}`; exactly one of the two."""

    env: str | None = None
    file: str | None = None

    @field_validator("file")
    @classmethod
    def _beside_the_stack(cls, file: str | None, info: ValidationInfo) -> str | None:
        return from_base(file, info)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError("give exactly one of env (a variable's name) and file (a path)")
        return self

    def reveal(self) -> str:
        """Return the secret's value, without a trailing newline. Raises SecretMissing."""
        if self.env is not None:
            value = os.environ.get(self.env, "")
            if not value:
                raise SecretMissing(f"environment variable {self.env} is not set: set it where the run starts")
            return value
        try:
            value = Path(str(self.file)).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise SecretMissing(f"secret file {self.file} cannot be read ({error}): create it") from error
        if not value:
            raise SecretMissing(f"secret file {self.file} is empty: write the secret into it")
        return value
