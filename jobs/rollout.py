"""The job `rollout`: the newest good images of all services, or the service, image or way back that is chosen."""

import dagster as dg

rollout = dg.define_asset_job(
    "rollout",
    selection=dg.AssetSelection.groups("rollouts"),
    executor_def=dg.in_process_executor,  # one service after the other: a machine has room for one replica more
    description="Replace the replicas of services one by one without losing a request; put back what fails.",
)
