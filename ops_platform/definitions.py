"""The roof: everything that Dagster loads. Nothing imports it."""

from __future__ import annotations

import dagster as dg

from jobs.backup import backup
from ops_platform.backups.assets import build_backup_assets
from ops_platform.resources import Operations
from ops_platform.stack import load_stack
from schedules.nightly_backup import build_nightly_backup


def build_defs(operations: Operations) -> dg.Definitions:
    """All definitions over one stack; tests and the demo give their own."""
    stack = operations.stack
    return dg.Definitions(
        assets=build_backup_assets(stack),
        jobs=[backup],
        schedules=[build_nightly_backup(stack.schedules.nightly_backup)],
        resources={"operations": operations},
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The stack that OPS_STACK names."""
    return build_defs(Operations(load_stack()))
