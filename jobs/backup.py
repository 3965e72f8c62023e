"""The job `backup`: all backups and their retention, or those chosen when it is launched."""

import dagster as dg

# In-process: a step process of its own costs three seconds and buys nothing for work that streams.
backup = dg.define_asset_job(
    "backup",
    selection=dg.AssetSelection.groups("backups", "retention"),
    executor_def=dg.in_process_executor,
    description="Back up every database and Redis instance of stack.yaml, check it, then let old backups go.",
)
