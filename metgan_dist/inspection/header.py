"""What the header of a NIfTI file says wrongly, twice, or not at all, and its readers mend or guess without a word."""

from __future__ import annotations

from collections.abc import Iterator

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.openers import ImageOpener

from metgan_dist.inspection.finding import Finding
from metgan_dist.storage import local_copy
from metgan_dist.volumes.labelled import VolumeRef
from metgan_dist.volumes.nifti import SUFFIXES

_SAME_SIZE = 0.01  # by which sizes that are stored apart may differ


def of_headers(ref: VolumeRef) -> Iterator[Finding]:
    """Findings on the NIfTI files of a volume, which open, and of its labels, whose voxel size nobody uses."""
    for uri in dict.fromkeys((*ref.paths, *ref.label_paths)):
        if uri.lower().endswith(SUFFIXES):
            path = str(local_copy(uri, ref.options))
            image = nibabel.load(path)
            with ImageOpener(path) as content:
                header = type(image.header).from_fileobj(content, check=False)  # unmended
            sized = uri in ref.paths and ref.entry.spacing is None
            for what in (*_of_place(header), *(_of_size(header, image.affine) if sized else ())):
                yield Finding("warning", ref.id, f"{uri}: {what}")


def _of_place(header: nibabel.Nifti1Header) -> Iterator[str]:
    if header["sform_code"] <= 0 and header["qform_code"] <= 0:
        yield "does not say towards which sides its axes run (sform and qform codes are 0), LAS is taken; correct it"


def _of_size(header: nibabel.Nifti1Header, affine: np.ndarray) -> Iterator[str]:
    """Sizes of 0 and below, and those of which the affine has others."""
    sizes = header["pixdim"][1:4].astype(float)
    stated, own = (", ".join(f"{size:.4g}" for size in axes) for axes in (sizes, voxel_sizes(affine)))
    if not (sizes > 0).all():
        yield (
            f"voxel size (x, y, z) {stated} in its header, where 1, or the size without its sign, is taken; correct "
            "it, or state `spacing`"
        )
    elif not np.allclose(sizes, voxel_sizes(affine), rtol=_SAME_SIZE, atol=0):
        yield (
            f"voxel size (x, y, z) {stated} in its header, but {own} in its affine; the former is taken: correct what "
            "is wrong, or state `spacing`"
        )
