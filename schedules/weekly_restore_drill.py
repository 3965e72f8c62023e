"""The schedule `weekly_restore_drill`, with its time from stack.yaml; on as soon as the daemon runs."""

import dagster as dg

from jobs.restore_drill import restore_drill
from ops_platform.stack import Schedule


def build_weekly_restore_drill(schedule: Schedule) -> dg.ScheduleDefinition:
    """The job `restore_drill` at `schedule`'s ticks, in its time zone."""
    return dg.ScheduleDefinition(
        name="weekly_restore_drill",
        job=restore_drill,
        cron_schedule=schedule.cron,
        execution_timezone=schedule.time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
