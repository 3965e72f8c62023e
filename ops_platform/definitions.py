"""The roof: everything that Dagster loads. Nothing imports it."""

from __future__ import annotations

import dagster as dg

from jobs.backup import backup
from jobs.build_images import build_images
from jobs.restore import restore
from jobs.restore_drill import restore_drill
from jobs.rollout import rollout
from ops_platform.backups.assets import build_backup_assets
from ops_platform.drills.assets import build_drill_assets
from ops_platform.images.assets import build_image_assets
from ops_platform.resources import Operations
from ops_platform.rollouts.assets import build_rollout_assets
from ops_platform.stack import load_stack
from schedules.nightly_backup import build_nightly_backup
from schedules.weekly_restore_drill import build_weekly_restore_drill


def build_defs(operations: Operations) -> dg.Definitions:
    """All definitions over one stack; tests and the demo give their own."""
    stack = operations.stack
    return dg.Definitions(
        assets=[
            *build_backup_assets(stack),
            *build_drill_assets(stack),
            *build_image_assets(stack),
            *build_rollout_assets(stack),
        ],
        jobs=[
            *(backup, restore, restore_drill),
            *([build_images] if stack.images else []),
            *([rollout] if stack.rollouts.services else []),
        ],
        schedules=[
            build_nightly_backup(stack.schedules.nightly_backup),
            build_weekly_restore_drill(stack.schedules.weekly_restore_drill),
        ],
        resources={"operations": operations},
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The stack that OPS_STACK names."""
    return build_defs(Operations(load_stack()))
