"""Volumes written as NIfTI, lying as the file that they were made from, so that both can be laid over each other."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from metgan_dist.storage import Options, write_whole
from metgan_dist.volumes.volume import Spacing

_UNITS = {"millimeter": "mm", "micrometer": "micron"}


def write_nifti(
    uri: str,
    voxels: np.ndarray,
    affine: np.ndarray,
    lies: str,
    spacing: Spacing | None,
    options: Options | None = None,
    effort: int = 9,
) -> None:
    """Write a .nii.gz, whole or not at all.

    Args:
        uri: where to.
        voxels: (z, y, x), of a type that NIfTI knows.
        affine: 4x4 from voxels (x, y, z) to millimetres.
        lies: sides towards which x, y, z of the file shall run, e.g. LPS; voxels are turned, and the affine with them.
        spacing: voxel size, which a header states beside the affine, and not always as that has it; None: the affine's.
        options: fsspec options of remote storage.
        effort: of the compression, 1 (fast) to 9 (small).
    """
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(tuple(lies)))
    image = nibabel.Nifti1Image(voxels.T, affine).as_reoriented(turn)
    if spacing is not None:
        sizes = np.empty(3)
        sizes[turn[:, 0].astype(int)] = spacing.x, spacing.y, spacing.z
        image.header.set_zooms(sizes)
    _write(uri, image, spacing, effort, options)


def write_nifti_plane(uri: str, pixels: np.ndarray, spacing: Spacing | None, options: Options | None = None) -> None:
    """Write a plane (y, x) as a .nii.gz of two axes, whole or not at all; the voxel size is that of `spacing`, or 1."""
    edges = (1.0, 1.0) if spacing is None else (spacing.x, spacing.y)
    image = nibabel.Nifti1Image(pixels.T, np.diag([*edges, 1.0, 1.0]))
    _write(uri, image, spacing, 9, options)


def _write(uri: str, image: nibabel.Nifti1Image, spacing: Spacing | None, effort: int, options: Options | None) -> None:
    """With the unit of `spacing`, and without a time: the same voxels are the same bytes."""
    if spacing is not None:
        image.header.set_xyzt_units(_UNITS.get(spacing.unit, "unknown"))
    write_whole(uri, gzip.compress(image.to_bytes(), effort, mtime=0), options)
