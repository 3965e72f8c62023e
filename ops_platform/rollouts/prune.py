"""Old images leave the machine; those of the last rollouts stay, so that going back needs no registry."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from ops_platform.systems.engine import Engine, EngineError


def superfluous(images: Mapping[str, str], kept: Collection[str]) -> list[str]:
    """Of `images` (reference to id) the references that may go: those whose id no reference in `kept` has."""
    kept_ids = {identity for reference, identity in images.items() if reference in kept}
    return sorted(reference for reference, identity in images.items() if identity not in kept_ids)


def prune(engine: Engine, kept: Collection[str], say: Callable[[str], None]) -> tuple[str, ...]:
    """Remove images of the kept ones' repositories that are not kept; returns what went. What is in use stays."""
    gone: list[str] = []
    try:
        for reference in _candidates(engine, kept):
            if engine.remove_image(reference):
                gone.append(reference)
    except EngineError as error:
        say(f"old images were not all removed, the next rollout will: {error}")
    return tuple(gone)


def _candidates(engine: Engine, kept: Collection[str]) -> Iterable[str]:
    for repository in sorted({reference.partition("@")[0] for reference in kept if "@" in reference}):
        yield from superfluous(engine.images(repository), kept)
