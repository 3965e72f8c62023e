"""The part of stack.yaml that says where the services run, and how another image of them is rolled out."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from ops_platform.section import Name, Secret, Section, from_base

ServiceName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class EngineSettings(Section):
    """The orchestrator and the one file that describes the services to it."""

    kind: Literal["compose", "swarm"] = "compose"
    compose_file: Path = Field(strict=False)
    project: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    proxy: ServiceName = "proxy"

    @field_validator("compose_file")
    @classmethod
    def _beside_the_stack(cls, file: Path, info: ValidationInfo) -> Path:
        return Path(from_base(str(file), info) or "")


class Machine(Section):
    """The rented server: cores, memory (2^30 bytes a gigabyte, as engines count limits) and price in $ a month."""

    cpus: float = Field(gt=0)
    memory_gb: float = Field(gt=0)
    dollars_a_month: Decimal = Field(default=Decimal(0), ge=0, strict=False)


class Registry(Section):
    """Where images are pushed and pulled: `host[:port]/path`; without `user` no login is made."""

    repository: str = Field(pattern=r"^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)*$")
    user: str | None = None
    password: Secret | None = None

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password belong together: give both or neither")
        return self

    def credentials_for(self, image: str) -> dict[str, str] | None:
        """What the engine is given to log in for `image`: nothing when that lies elsewhere. Raises SecretMissing."""
        return self.credentials() if image.startswith(f"{self.repository}/") else None

    def credentials(self) -> dict[str, str] | None:
        """What the engine is given to log in. Raises SecretMissing."""
        if self.user is None or self.password is None:
            return None
        return {"username": self.user, "password": self.password.reveal()}


class Image(Section):
    """An image that is built from the Dockerfile in `context`.

    `probe` names the service of the compose file that is started with it, with what that depends on, in a throw-away
    project; its health check must go green within `probe_deadline_s`. With `probe_alone` it is started by itself.
    """

    context: Path = Field(strict=False)
    probe: ServiceName
    probe_alone: bool = False
    probe_deadline_s: float = Field(default=120, gt=0, le=900)
    build_deadline_s: float = Field(default=1800, gt=0)

    @field_validator("context")
    @classmethod
    def _beside_the_stack(cls, context: Path, info: ValidationInfo) -> Path:
        return Path(from_base(str(context), info) or "")


class Rollout(Section):
    """How one service is rolled out.

    `image` is the name under `images` that it runs. Without `port` nobody sends it requests (a worker). A replica
    must be healthy within `deadline_s` of its start and stay so for `settle_s` before it serves. `drain_s` is how
    long requests in flight may take to end. `before` and `after` are commands: one that fails stops the rollout
    (before), or has the old state put back (after).
    """

    image: Name | None = None
    port: int | None = Field(default=None, ge=1, le=65535)
    health: str = Field(default="/", pattern="^/")
    deadline_s: float = Field(default=120, gt=0, le=3600)
    settle_s: float = Field(default=5.5, ge=0, le=600)
    drain_s: float = Field(default=15, ge=0, le=600)
    hook_deadline_s: float = Field(default=3600, gt=0)
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @field_validator("before", "after", mode="before")
    @classmethod
    def _tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


class Rollouts(Section):
    """The services that are rolled out; the images of the last `keep` rollouts of each stay on the machine."""

    keep: int = Field(default=3, ge=2)
    services: dict[ServiceName, Rollout] = {}
