"""How nnU-Net would lay out its U-Net for a data set, as flags of this package's jobs, from voxel sizes and shapes."""

from __future__ import annotations

from collections.abc import Sequence

from metgan_dist.inspection.volume import Inspected
from metgan_dist.networks.nnunet_plan import LEAST_LEVELS, Fingerprint, Plan, plan


def plan_lines(volumes: Sequence[Inspected], classes: int) -> list[str]:
    """Lines for a segmentor of crops and one of slices; none unless all labelled volumes tell the size of their voxels.

    Volumes without a label are left out: no segmentor learns from them.
    """
    labelled = [(one.image, one.image.spacing) for one in volumes if one.image is not None and one.labels]
    spacings = [(at.z, at.y, at.x) for _, at in labelled if at is not None]
    if not labelled or len(spacings) < len(labelled) or min(map(min, spacings)) <= 0:
        return []
    fingerprint = Fingerprint(tuple(spacings), tuple(image.shape for image, _ in labelled))
    plans = {"crop": plan(fingerprint, 3, classes=classes), "slice": plan(fingerprint, 2, classes=classes)}
    return [_line(kind, found) for kind, found in plans.items() if len(found.layout.strides) >= LEAST_LEVELS]


def _line(kind: str, found: Plan) -> str:
    voxel = ",".join(f"{size:.4g}" for size in found.spacing)
    size, levels = ",".join(map(str, found.patch)), len(found.layout.strides)
    # Slices lie in the planes of a volume as it is: their distance is not resampled.
    spacing = f"--tiles.spacing {voxel}" if kind == "crop" else f"voxels of {voxel} in the plane"
    return (
        f"nnU-Net's plan, {kind}s: --tiles.kind {kind} {spacing} --tiles.size {size} --segmentation.network dynunet "
        f"--segmentation.batch_size {found.batch}; {levels} levels"
    )
