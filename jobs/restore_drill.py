"""The job `restore_drill`: a drill of the newest backup of everything, or what is chosen in the launchpad."""

import dagster as dg

restore_drill = dg.define_asset_job(
    "restore_drill",
    selection=dg.AssetSelection.groups("drills"),
    executor_def=dg.in_process_executor,
    description="Restore backups on throw-away servers and hold what comes back against their manifests.",
)
