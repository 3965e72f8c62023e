"""What the commands of `ops` share: their options, how they answer, and how they end."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ops_platform.stack import Stack
    from ops_platform.systems.object_store import ObjectStore

WRONG = 2
FAILED = 1


@dataclass(frozen=True)
class Session:
    """The options that every command shares."""

    as_json: bool

    def stack(self) -> Stack:
        """The stack that OPS_STACK or --stack names. Ends the command with 2 when it cannot be read."""
        from ops_platform.stack import StackError, load_stack

        try:
            return load_stack()
        except StackError as error:
            raise click.UsageError(str(error)) from None

    def tell(self, found: Any, lines: Sequence[str]) -> None:
        """Print `found` as JSON, or `lines`."""
        click.echo(json.dumps(found, indent=1, default=str) if self.as_json else "\n".join(lines))


def say(line: str) -> None:
    """Tell whoever is there to listen: a terminal that was closed must not keep work from being put back."""
    with suppress(OSError):
        click.echo(line, err=True)


def store_of(stack: Stack) -> ObjectStore:
    """The stack's bucket. Raises SecretMissing."""
    from ops_platform.systems.object_store import ObjectStore

    return ObjectStore(stack.bucket)


@contextmanager
def failing(session: Session) -> Iterator[None]:
    """End the command with 1 and the error's own words, and what it left behind; with 2 for a wrong request."""
    from ops_platform.backups.restore import Refused
    from ops_platform.drills.drill import UnknownCheck
    from ops_platform.rollouts.admission import Refused as RolloutRefused

    try:
        yield
    except (Refused, RolloutRefused, UnknownCheck) as error:
        raise click.UsageError(str(error)) from None
    except KeyboardInterrupt:
        say("stopped by hand: what was begun has been cleared away")
        sys.exit(130)
    except (click.ClickException, AssertionError, TypeError, AttributeError, KeyError):
        raise  # a wrong command, or a fault of this program, which is told with its traceback
    except Exception as error:
        text = "\n".join([str(error) or repr(error), *getattr(error, "__notes__", ())])
        if session.as_json:
            click.echo(json.dumps({"error": text}))
        say(f"{click.style('failed', 'red', bold=True)}: {text}")
        sys.exit(FAILED)
