"""A Docker Engine: what runs, in which state, from which image; and ending one container of it.

The engine is the one that DOCKER_HOST names, by default the local socket. Building and Compose go through their
own programs: the SDK has no BuildKit (docker-py#2230).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import docker
import docker.errors
import requests
from docker.auth import resolve_repository_name

CALL_S = 30
PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
HASH_LABEL = "com.docker.compose.config-hash"

Health = Literal["none", "starting", "healthy", "unhealthy"]


class EngineError(RuntimeError):
    """The engine refused a request; the message says which and why."""


class EngineUnreachable(EngineError):
    """No engine answers, or it is not ready, for now."""


class ImageMissing(EngineError):
    """An image is neither here nor in its registry, or the registry refused or did not answer."""


class RegistryError(EngineError):
    """The registry refused or did not answer; the message says what was asked of it."""


@dataclass(frozen=True)
class Layer:
    """A step of an image's Dockerfile and the bytes that it added."""

    made_by: str
    size_bytes: int


@dataclass(frozen=True)
class LocalImage:
    """An image on the engine's machine: its id, and the references in one repository that lead to it."""

    id: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Container:
    """A container as the engine describes it; `config_hash` is Compose's, over image and settings, `error` why the
    engine could not start it, `addresses` its IPv4 ones on its networks."""

    id: str
    name: str
    image: str
    image_id: str
    config_hash: str
    running: bool
    health: Health
    restarts: int
    out_of_memory: bool
    exit_code: int
    error: str
    addresses: tuple[str, ...]
    created_at: datetime

    @property
    def host(self) -> str:
        """The name by which others on its networks reach exactly this container."""
        return self.id[:12]

    def described(self) -> str:
        """Its state for a message."""
        if self.out_of_memory:
            return f"{self.name} needed more memory than its limit and was killed"
        if not self.running and self.error:
            return f"{self.name} could not be started: {self.error}"
        if not self.running and self.exit_code:
            hint = " (killed, as by its memory limit)" if self.exit_code == 137 else ""
            return f"{self.name} ended with exit code {self.exit_code}{hint}"
        if self.restarts or not self.running:
            return f"{self.name} ended, and was started again {self.restarts} times"
        return f"{self.name} is {self.health if self.health != 'none' else 'running'}"


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except docker.errors.APIError as error:
        if error.status_code == 503:  # a swarm's manager that has just started has no leader yet
            raise EngineUnreachable(
                f"{what}: the Docker Engine is not ready: {error.explanation or error}"
            ) from error
        raise EngineError(f"{what}: the Docker Engine refused: {error.explanation or error}") from error
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise EngineUnreachable(
            f"{what}: no Docker Engine answers ({type(error).__name__}): start it (systemctl start docker),"
            " or check DOCKER_HOST"
        ) from error


class Engine:
    """A connection, made at the first call and again after one failed."""

    def __init__(self) -> None:
        self._client: docker.DockerClient | None = None

    @contextmanager
    def asked(self, what: str) -> Iterator[docker.DockerClient]:
        """The client, for one request that messages call `what`. Raises EngineError, EngineUnreachable."""
        with _told(what):
            try:
                self._client = self._client or docker.from_env(timeout=CALL_S)
                yield self._client
            except Exception:
                self._client = None
                raise

    def check(self) -> str:
        """The engine's version. Raises EngineError."""
        with self.asked("ask for the version") as client:
            return str(client.version()["Version"])

    def free_bytes(self) -> int | None:
        """Room on the disk of its images and containers; None when that is another machine's. Raises EngineError."""
        with self.asked("ask for its directory") as client:
            root = Path(client.info()["DockerRootDir"])
            here = client.api.base_url.startswith("http+docker")  # a Unix socket
        try:
            return shutil.disk_usage(root).free if here else None
        except OSError:  # not readable for us, or the engine runs in a machine of its own
            return None

    def swarm_active(self) -> bool:
        """Whether this engine manages a swarm. Raises EngineError."""
        with self.asked("ask for the swarm") as client:
            return bool(client.info()["Swarm"].get("ControlAvailable"))

    def containers(self, project: str, service: str) -> tuple[Container, ...]:
        """All containers of a Compose service, oldest first, stopped ones too. Raises EngineError."""
        labels = [f"{PROJECT_LABEL}={project}", f"{SERVICE_LABEL}={service}", "com.docker.compose.oneoff=False"]
        with self.asked(f"list the containers of {service}") as client:
            found = client.api.containers(all=True, filters={"label": labels})
        described = [self._inspect(item["Id"]) for item in found]
        return tuple(sorted((c for c in described if c is not None), key=lambda c: c.created_at))

    def _inspect(self, container: str) -> Container | None:
        with self.asked(f"inspect container {container[:12]}") as client:
            try:
                return _container(client.api.inspect_container(container))
            except docker.errors.NotFound:  # it went between the list and this
                return None

    def stop(self, container: str, grace_s: float) -> None:
        """Send its stop signal and wait; after `grace_s` seconds it is killed. Raises EngineError."""
        with self.asked(f"stop container {container[:12]}") as client:
            try:
                client.api.stop(container, timeout=int(grace_s))
            except docker.errors.NotFound:
                return

    def remove(self, container: str) -> None:
        """Kill it if it runs, and remove it with its unnamed volumes; it may be gone. Raises EngineError."""
        with self.asked(f"remove container {container[:12]}") as client:
            try:
                client.api.remove_container(container, v=True, force=True)
            except docker.errors.NotFound:
                return
            except docker.errors.APIError as error:
                if error.status_code != 409:  # it is being removed already
                    raise

    def log(self, container: str, lines: int = 20) -> str:
        """The end of what it wrote. Raises EngineError."""
        with self.asked(f"read the log of {container[:12]}") as client:
            return bytes(client.api.logs(container, tail=lines)).decode("utf-8", "replace").strip()

    def pull(self, image: str, login: Callable[[], Mapping[str, str] | None]) -> str:
        """Have `image` (by digest) here and return its id; a registry is asked, with `login`, only if need be.

        Raises ImageMissing, EngineError, and what `login` raises.
        """
        with self.asked(f"look for image {image}") as client:
            try:
                return _image_id(client, image)
            except docker.errors.ImageNotFound:
                pass
        repository, at, digest = image.partition("@")
        if not at:
            raise ImageMissing(
                f"image {image} is not on this machine and names no registry's digest: push it, or build"
            )
        credentials = login()
        with self.asked(f"pull image {image}") as client:
            try:
                self._pull(client, repository, digest, credentials)
                return _image_id(client, image)
            except docker.errors.APIError as error:
                raise ImageMissing(_not_to_be_had(image, str(error.explanation or error))) from error

    def _pull(
        self, client: docker.DockerClient, repository: str, digest: str, credentials: Mapping[str, str] | None
    ) -> None:
        login = dict(credentials) if credentials else None
        for line in client.api.pull(repository, tag=digest, auth_config=login, stream=True, decode=True):
            if "error" in line:  # once the answer has begun, the engine reports what went wrong only in it
                raise ImageMissing(_not_to_be_had(f"{repository}@{digest}", line["error"]))

    def digest_of(self, reference: str, credentials: Mapping[str, str] | None) -> str | None:
        """The digest that a tag has in its registry; None when the registry has no such tag.

        Raises RegistryError, EngineError.
        """
        login = dict(credentials) if credentials else None
        with self.asked(f"ask for {reference}") as client:
            try:
                return str(client.images.get_registry_data(reference, auth_config=login).id)
            except docker.errors.NotFound:
                return None
            except docker.errors.APIError as error:
                said = str(error.explanation or error)
                if "manifest unknown" in said or "not found" in said:
                    return None
                if "denied" in said and login is not None:  # so some registries call what is not there yet
                    self._insist_on_login(client, reference, login)
                    return None
                raise RegistryError(_registry_said(reference, said)) from error

    @staticmethod
    def _insist_on_login(client: docker.DockerClient, reference: str, login: Mapping[str, str]) -> None:
        host, _ = resolve_repository_name(reference)
        try:
            client.api.login(**login, registry=host, reauth=True)
        except docker.errors.APIError as error:
            raise RegistryError(_registry_said(reference, f"unauthorized: {error.explanation or error}")) from error

    def push(self, image: str, repository: str, tag: str, credentials: Mapping[str, str] | None) -> str:
        """Push an image by id as `repository:tag` and return its digest. Raises RegistryError, EngineError."""
        login = dict(credentials) if credentials else None
        with self.asked(f"push {repository}:{tag}") as client:
            client.api.tag(image, repository, tag)
            digest = ""
            for line in client.api.push(repository, tag=tag, auth_config=login, stream=True, decode=True):
                if "error" in line:  # the engine answers 200 first, and reports what went wrong only in its text
                    raise RegistryError(_registry_said(f"{repository}:{tag}", line["error"]))
                digest = (line.get("aux") or {}).get("Digest", digest)
        if not digest:
            raise RegistryError(f"pushing {repository}:{tag} ended without a digest: push again")
        return digest

    def layers(self, image: str) -> tuple[int, tuple[Layer, ...]]:
        """The image's size in bytes and its layers, newest first. Raises EngineError."""
        with self.asked(f"inspect image {image}") as client:
            size = int(client.api.inspect_image(image)["Size"])  # type: ignore[no-untyped-call]
            found = client.api.history(image)  # type: ignore[no-untyped-call]
        return size, tuple(Layer(layer["CreatedBy"], int(layer["Size"])) for layer in found)

    def images(self, repository: str) -> tuple[LocalImage, ...]:
        """The images of `repository` on this machine, by digest or by tag. Raises EngineError."""
        with self.asked(f"list the images of {repository}") as client:
            found = client.api.images(name=repository, all=False)
        return tuple(
            LocalImage(
                item["Id"], tuple(r for r in _references(item) if r.startswith((f"{repository}:", f"{repository}@")))
            )
            for item in found
        )

    def images_in_use(self) -> frozenset[str]:
        """Ids of the images that containers were made from, stopped ones too. Raises EngineError."""
        with self.asked("list the containers") as client:
            return frozenset(item["ImageID"] for item in client.api.containers(all=True))

    def remove_image(self, image: LocalImage) -> None:
        """Take an image's references away, and with the last the image; it may be gone. Raises EngineError."""
        for reference in image.references:
            with self.asked(f"remove image {reference}") as client:
                try:
                    client.api.remove_image(reference)
                except docker.errors.ImageNotFound:  # a digest goes by itself with the last tag of its repository
                    continue


def _references(item: dict[str, Any]) -> list[str]:
    """Tags, then digests: the engine gives null for none."""
    return [*(item.get("RepoTags") or ()), *(item.get("RepoDigests") or ())]


def by_digest(reference: str) -> str:
    """`repository:tag@digest`, as `docker stack deploy` and some people write it, is `repository@digest`."""
    name, at, digest = reference.partition("@")
    path, slash, last = name.rpartition("/")
    return f"{path}{slash}{last.partition(':')[0]}{at}{digest}" if at else reference


def _not_to_be_had(image: str, cause: str) -> str:
    if "no space left" in cause:
        return f"image {image} does not fit the engine's disk: make room (docker system df): {cause}"
    return (
        f"image {image} cannot be had: {cause}: check the digest, the registry and its login (stack.yaml's registry)"
    )


def _registry_said(reference: str, cause: str) -> str:
    if "unauthorized" in cause or "denied" in cause or "basic auth" in cause:
        return (
            f"the registry refuses the login for {reference}: check stack.yaml's registry.user and password: {cause}"
        )
    return f"the registry did not take or give {reference}: {cause}: see that it runs, and its address"


def _image_id(client: docker.DockerClient, image: str) -> str:
    return str(client.api.inspect_image(image)["Id"])  # type: ignore[no-untyped-call]


def _container(found: dict[str, Any]) -> Container:
    state, labels = found["State"], found["Config"]["Labels"] or {}
    return Container(
        id=found["Id"],
        name=found["Name"].lstrip("/"),
        image=found["Config"]["Image"],
        image_id=found["Image"],
        config_hash=labels.get(HASH_LABEL, ""),
        running=bool(state["Running"]) and not state["Restarting"],
        health=(state.get("Health") or {}).get("Status", "none"),
        restarts=int(found.get("RestartCount", 0)),
        out_of_memory=bool(state["OOMKilled"]),
        exit_code=int(state["ExitCode"]),
        error=state["Error"],
        addresses=tuple(n["IPAddress"] for n in found["NetworkSettings"]["Networks"].values() if n["IPAddress"]),
        created_at=datetime.fromisoformat(found["Created"]),
    )
