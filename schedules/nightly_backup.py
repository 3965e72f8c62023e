"""The schedule `nightly_backup`, with its time from stack.yaml; on as soon as the daemon runs."""

import dagster as dg

from jobs.backup import backup
from ops_platform.stack import Schedule


def build_nightly_backup(schedule: Schedule) -> dg.ScheduleDefinition:
    """The job `backup` at `schedule`'s ticks, in its time zone."""
    return dg.ScheduleDefinition(
        name="nightly_backup",
        job=backup,
        cron_schedule=schedule.cron,
        execution_timezone=schedule.time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
