"""The job `restore`: one backup, brought back where the launchpad says; by hand only."""

from typing import Any

import dagster as dg

from ops_platform.backups.choice import Choice
from ops_platform.backups.placing import drop_statement
from ops_platform.backups.restore import Restored, Target, restore_backup
from ops_platform.backups.retrieval import identities_of
from ops_platform.resources import Operations
from ops_platform.times import parse_time


class RestoreConfig(dg.Config):
    """What to restore and where to.

    `name`: as stack.yaml calls the database or Redis instance. `backup`: an id, else the newest, or the newest taken
    `before` a time (2026-11-23T18:00:00Z). Beside what lives: `database` is the new database's name, `server` another
    server of stack.yaml. In its stead: `over` is the name of what is replaced, typed as confirmation; a fresh backup
    of it is taken first.
    """

    name: str
    backup: str | None = None
    before: str | None = None
    database: str | None = None
    server: str | None = None
    over: str | None = None


@dg.op(description="Restore one backup.")
def restore_one(
    context: dg.OpExecutionContext, config: RestoreConfig, operations: dg.ResourceParam[Operations]
) -> None:
    stack = operations.stack
    if config.name not in {*stack.databases, *stack.redis}:
        names = ", ".join((*stack.databases, *stack.redis))
        raise dg.Failure(
            f"stack.yaml backs up nothing called {config.name!r}: there are {names}", allow_retries=False
        )
    restored = restore_backup(
        stack,
        config.name,
        operations.store(),
        Choice(id=config.backup, before=parse_time("before", config.before)),
        Target(server=config.server, database=config.database, over=config.over),
        identities_of(stack.encryption),
        context.log.info,
        operations.reporter(context.log),
    )
    context.add_output_metadata(_metadata(restored))


def _metadata(restored: Restored) -> dict[str, Any]:
    placed = restored.placed
    shown: dict[str, Any] = {
        "backup": dg.MetadataValue.text(restored.backup.path.id),
        "where": dg.MetadataValue.text(restored.where),
        "seconds": dg.MetadataValue.float(round(sum(placed.seconds.values()), 3)),
        "phases": dg.MetadataValue.json(dict(placed.seconds)),
        "roles_created": dg.MetadataValue.text(", ".join(placed.roles) or "none"),
    }
    if placed.replaced is not None:
        advice = (
            f"`{placed.replaced}` holds what was there; when you need it no more: `{drop_statement(placed.replaced)}`"
        )
        shown["replaced"] = dg.MetadataValue.md(advice)
    if restored.fresh is not None:
        shown["backup_of_what_was_there"] = dg.MetadataValue.text(restored.fresh.path.id)
    return shown


@dg.job(
    executor_def=dg.in_process_executor, description="Restore one backup: choose it and its target in the launchpad."
)
def restore() -> None:
    restore_one()
