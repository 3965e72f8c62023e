"""Old images leave the machine; those of every service's last rollouts stay, so that going back needs no registry."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from ops_platform.changes.builds import building, newest_build
from ops_platform.rollouts.journal import Journals, JournalUnreadable
from ops_platform.stack import Stack
from ops_platform.systems.engine import Engine, EngineError, LocalImage
from ops_platform.systems.lock import LockBusy


def superfluous(images: Iterable[LocalImage], kept: Collection[str], used: Collection[str]) -> list[LocalImage]:
    """Those of `images` that may go: not named in `kept`, by reference or by id, and no id of `used`."""
    return [i for i in images if i.id not in used and not {i.id, *i.references} & set(kept)]


def kept_images(stack: Stack, journals: Journals) -> frozenset[str]:
    """What a rollout may want again: each service's last releases, and each image's newest good build.

    Services may share a repository, as a backend and its worker do. Raises JournalUnreadable.
    """
    found = [image for service in stack.rollouts.services for image in journals.read(service).images]
    builds = [newest_build(stack.state_dir, name) for name in stack.images]
    return frozenset([*found, *(build.image for build in builds if build is not None)])


def prune(engine: Engine, stack: Stack, journals: Journals, say: Callable[[str], None]) -> tuple[str, ...]:
    """Remove superfluous images from the repositories of the kept ones; returns a reference of each."""
    gone: list[str] = []
    try:
        with building(stack.state_dir, 0, say):
            kept = kept_images(stack, journals)
            used = engine.images_in_use()
            for repository in sorted({reference.partition("@")[0] for reference in kept if "@" in reference}):
                for image in superfluous(engine.images(repository), kept, used):
                    engine.remove_image(image)
                    gone.append(image.references[-1])
    except (EngineError, JournalUnreadable, LockBusy) as error:
        say(f"old images were not all removed, the next rollout will: {error}")
    return tuple(gone)
