"""One image: linted, built, started, listed, scanned, and only then pushed and noted as the newest good one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from ops_platform.changes.builds import Build, building, newest_build, note_build
from ops_platform.deployment import Image, Registry
from ops_platform.images.contents import Scan, packages_of, scan, tool, write_sbom
from ops_platform.images.inputs import fingerprint, revision
from ops_platform.images.probe import probe
from ops_platform.stack import Stack
from ops_platform.systems.command import CommandFailed, run, running
from ops_platform.systems.compose import Compose
from ops_platform.systems.engine import Engine, Layer

LINT_S = 60.0
Result = TypeVar("Result")
Say = Callable[[str], None]


class BuildFailed(RuntimeError):
    """A step failed; the message says which. What is deployed and every tag in the registry are as they were."""


@dataclass(frozen=True)
class Built:
    """`build` is the newest good one, `changed` whether it was made just now; `seconds` what each step took."""

    build: Build
    changed: bool
    size_bytes: int
    layers: tuple[Layer, ...]
    packages: tuple[tuple[str, str], ...]
    scan: Scan
    sbom: Path
    seconds: dict[str, float]


def build_image(stack: Stack, name: str, say: Say, engine: Engine | None = None) -> Built:
    """Have a good image of today's inputs of `name` in the registry.

    Raises BuildFailed, ProbeFailed, EngineError, ComposeError, ToolMissing, SecretMissing, LockBusy, NoState.
    """
    settings, registry = stack.images[name], stack.registry
    assert registry is not None and stack.engine is not None  # Stack refuses images without them
    compose = Compose(stack.engine.compose_file, stack.engine.project)
    with building(stack.state_dir, settings.build_deadline_s, say) as lock:
        lock.note(f"of {name}, by process {os.getpid()}")
        built = _Pipeline(stack, name, settings, registry, compose, engine or Engine(), say).run()
        lock.clear()
    return built


class _Pipeline:
    def __init__(
        self, stack: Stack, name: str, settings: Image, registry: Registry, compose: Compose, engine: Engine, say: Say
    ) -> None:
        self.stack, self.name, self.settings, self.registry = stack, name, settings, registry
        self.compose, self.engine, self.say = compose, engine, say
        self.repository = f"{registry.repository}/{name}"
        self.scratch = stack.state_dir / "images"
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.seconds: dict[str, float] = {}

    def run(self) -> Built:
        inputs, told = self._inputs(), revision(self.settings.context)
        tag = f"inputs-{inputs[:16]}"
        credentials = self.registry.credentials()
        digest = self.engine.digest_of(f"{self.repository}:{tag}", credentials)
        if digest is not None:
            return self._unchanged(f"{self.repository}@{digest}", inputs, credentials)
        self._timed("lint", self._lint)
        image = self._timed("build", self._build)
        trial = self.scratch / f".{self.name}.probe.json"
        self._timed("probe", lambda: probe(self.compose, image, self.settings, trial))
        sbom, found = self._contents(image, inputs)
        if (self._inputs(), revision(self.settings.context)) != (inputs, told):
            raise BuildFailed(f"{self.name}: {self.settings.context} was changed while it was built: run it again")
        pushed = self._timed("push", lambda: self._push(image, (told, tag), credentials))
        build = Build(image=f"{self.repository}@{pushed}", revision=told, inputs=inputs, at=datetime.now(UTC))
        note_build(self.stack.state_dir, self.name, build)
        return self._built(build, True, image, sbom, found)

    def _built(self, build: Build, changed: bool, image: str, sbom: Path, found: Scan) -> Built:
        size, layers = self.engine.layers(image)
        return Built(build, changed, size, layers, tuple(packages_of(sbom)), found, sbom, self.seconds)

    def _contents(self, image: str, inputs: str) -> tuple[Path, Scan]:
        """The SBOM, made once for each state of the inputs, and what is known of its packages today."""
        sbom = self.scratch / f"{self.name}-{inputs[:16]}.cdx.json"
        if not sbom.exists():
            self._timed("sbom", lambda: write_sbom(image, sbom))
        for old in set(self.scratch.glob(f"{self.name}-*.cdx.*")) - {sbom}:
            old.unlink(missing_ok=True)
        return sbom, self._timed("scan", lambda: scan(sbom, self.stack.state_dir / "trivy"))

    def _inputs(self) -> str:
        if not (self.settings.context / "Dockerfile").is_file():
            raise BuildFailed(f"images.{self.name}.context: there is no Dockerfile in {self.settings.context}")
        return fingerprint(self.settings.context)

    def _unchanged(self, image: str, inputs: str, credentials: dict[str, str] | None) -> Built:
        """The registry has an image of these inputs, which passed everything when it was pushed: only holes that have
        become known since are new."""
        self.say(f"{self.name}: nothing has changed since {image} was built")
        known = newest_build(self.stack.state_dir, self.name)
        if known is None or known.image != image:
            known = Build(image=image, revision=revision(self.settings.context), inputs=inputs, at=datetime.now(UTC))
            note_build(self.stack.state_dir, self.name, known)
        here = self.engine.pull(image, lambda: credentials)
        sbom, found = self._contents(here, inputs)
        return self._built(known, False, here, sbom, found)

    def _lint(self) -> None:
        dockerfile = str(self.settings.context / "Dockerfile")
        try:
            lint = ["sh", "-c", 'exec "$@" >&2', "lint", tool("hadolint"), "--no-color", dockerfile]
            run(lint, {}, program="hadolint", deadline_s=LINT_S)
        except CommandFailed as error:
            raise BuildFailed(f"{self.name}: hadolint objects to its Dockerfile:\n{error.last_words}") from None

    def _build(self) -> str:
        """Build with BuildKit, whose cache stays on the engine; returns the image's id."""
        note = self.scratch / f".{self.name}.iid"
        context = str(self.settings.context)
        command = ["docker", "build", "--progress", "plain", "--iidfile", str(note), context]
        merged = ["sh", "-c", 'exec "$@" 2>&1', "build", *command]
        words: list[str] = []
        try:
            with running(
                merged, {"DOCKER_BUILDKIT": "1"}, program="docker build", deadline_s=self.settings.build_deadline_s
            ) as child:
                for line in iter(child.stdout.readline, b""):
                    words.append(line.decode("utf-8", "replace").rstrip())
                    if words[-1].startswith("#") and "[" in words[-1]:
                        self.say(words[-1])
                child.finish()
        except CommandFailed as error:
            advice = "install its buildx plugin (docker-buildx)\n" if "buildx" in "\n".join(words) else ""
            said = "\n".join(words[-25:])
            raise BuildFailed(f"{self.name}: {advice}docker build exited with {error.code}:\n{said}") from None
        return note.read_text(encoding="utf-8").strip()

    def _push(self, image: str, tags: tuple[str, ...], credentials: dict[str, str] | None) -> str:
        return [self.engine.push(image, self.repository, tag, credentials) for tag in tags][-1]

    def _timed(self, step: str, do: Callable[[], Result]) -> Result:
        self.say(f"{self.name}: {step}")
        began = datetime.now(UTC)
        result = do()
        self.seconds[step] = round((datetime.now(UTC) - began).total_seconds(), 2)
        return result
