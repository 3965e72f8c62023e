"""The job `build_images`: all images whose inputs have changed, or those that are chosen when it is launched."""

import dagster as dg

build_images = dg.define_asset_job(
    "build_images",
    selection=dg.AssetSelection.groups("images"),
    executor_def=dg.in_process_executor,  # one build at a time: they share the machine with what serves
    description="Lint, build, start, list, scan and push images; one that fails changes no tag and no deployment.",
)
