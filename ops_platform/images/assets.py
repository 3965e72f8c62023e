"""The images as Dagster shows them: one asset an image, its size and layers over time, its packages and its scan."""

from collections.abc import Iterator

import dagster as dg

from ops_platform.images.build import Built, build_image
from ops_platform.images.contents import Scan
from ops_platform.resources import Operations
from ops_platform.stack import SecretMissing, Stack
from ops_platform.systems.object_store import StoreError

SCAN = "no_known_vulnerabilities"


def build_image_assets(stack: Stack) -> list[dg.AssetsDefinition]:
    """`images/<name>` for every image that `stack` builds."""
    return [_image(stack, name) for name in stack.images]


def _image(stack: Stack, name: str) -> dg.AssetsDefinition:
    @dg.asset(
        key=["images", name],
        group_name="images",
        kinds={"docker"},
        description=f"The newest good image of {stack.images[name].context.name}: built, started, listed and pushed.",
        check_specs=[
            dg.AssetCheckSpec(
                SCAN,
                asset=["images", name],
                description="A scanner knows no hole in its packages. No database: failed.",
            )
        ],
    )
    def image(
        context: dg.AssetExecutionContext, operations: dg.ResourceParam[Operations]
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:  # type: ignore[type-arg]  # Dagster reads this annotation
        built = build_image(operations.stack, name, context.log.info)
        yield dg.MaterializeResult(metadata=_metadata(built, operations, name, context.log))
        yield _checked(built.scan, name)

    return image


def _checked(scan: Scan, name: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=["images", name],
        check_name=SCAN,
        passed=scan.outcome == "clean",
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"outcome": scan.outcome, **scan.found, **({"said": scan.said} if scan.said else {})},
    )


def _metadata(
    built: Built, operations: Operations, name: str, log: dg.DagsterLogManager
) -> dict[str, dg.MetadataValue]:
    figures = {f"{step}_seconds": dg.MetadataValue.float(took) for step, took in built.seconds.items()}
    return {
        "image": dg.MetadataValue.text(built.build.image),
        "revision": dg.MetadataValue.text(built.build.revision),
        "inputs": dg.MetadataValue.text(built.build.inputs),
        "changed": dg.MetadataValue.bool(built.changed),
        "size_bytes": dg.MetadataValue.int(built.size_bytes),
        "layers": dg.MetadataValue.int(sum(1 for layer in built.layers if layer.size_bytes)),
        "layer_table": dg.MetadataValue.md(_layers(built)),
        "packages": dg.MetadataValue.int(len(built.packages)),
        "package_table": dg.MetadataValue.md(_packages(built)),
        "sbom": dg.MetadataValue.text(_kept(built, operations, name, log)),
        "scan": dg.MetadataValue.text(built.scan.outcome),
        **figures,
    }


def _kept(built: Built, operations: Operations, name: str, log: dg.DagsterLogManager) -> str:
    """Put the SBOM into the bucket and return where it lies, or why it does not: the image is good anyway."""
    digest = built.build.image.rpartition(":")[2]
    key = f"{operations.stack.bucket.prefix}/images/{name}/{digest}.cdx.json"
    try:
        store = operations.store()
        store.write(key, built.sbom.read_bytes(), "application/vnd.cyclonedx+json")
    except (StoreError, SecretMissing) as error:
        log.warning(f"the SBOM of {name} is on this machine alone, as {built.sbom}: {error}")
        return str(built.sbom)
    return store.uri(key)


def _layers(built: Built) -> str:
    rows = [f"| {layer.size_bytes:,} | `{layer.made_by[:120].replace('|', '/')}` |" for layer in built.layers]
    return "\n".join(["| bytes | made by |", "|---|---|", *rows])


def _packages(built: Built) -> str:
    rows = [f"| {package} | {version} |" for package, version in built.packages]
    return "\n".join(["| package | version |", "|---|---|", *rows])
