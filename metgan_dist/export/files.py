"""Voxels as files of one form: NIfTI, TIFF, PNG; and what each file is known by."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import tifffile

from metgan_dist.errors import UserError
from metgan_dist.storage import Options, filesystem, join, read_bytes, write_whole
from metgan_dist.synthesis.volume_files import PNG_TYPES, png_bytes, tiff_bytes
from metgan_dist.volumes.nifti_writer import write_nifti, write_nifti_plane
from metgan_dist.volumes.orientation import sides
from metgan_dist.volumes.volume import Spacing

SUFFIXES = {"nnunet": ".nii.gz", "nifti": ".nii.gz", "tiff": ".tif", "png": ".png", "ome-zarr": ".ome.zarr"}
TOP = 65535


@dataclass(frozen=True)
class Grid:
    """Where voxels lie: spacing; affine 4x4 from voxels (x, y, z) to mm and the sides to which a file's axes run, where
    the source is NIfTI."""

    spacing: Spacing | None = None
    affine: np.ndarray | None = None
    lies: str | None = None

    @property
    def placed(self) -> tuple[np.ndarray, str]:
        """Affine and sides; of the spacing alone, or voxels of 1, where the source has no affine."""
        if self.affine is not None and self.lies is not None:
            return self.affine, self.lies
        at = self.spacing
        own = np.diag([1.0, 1.0, 1.0, 1.0] if at is None else [at.x, at.y, at.z, 1.0])
        return own, sides(own)


def write_voxels(form: str, uri: str, voxels: np.ndarray, grid: Grid, options: Options) -> None:
    """Write voxels (z, y, x), or a plane (y, x), to `uri`; PNG of a volume as a folder of planes z0000.png and so on.

    Raises UserError for what PNG does not hold.
    """
    if form == "png":
        _write_png(uri, voxels, options)
    elif form == "tiff":
        write_whole(uri, _placed_tiff(voxels, grid.spacing) if voxels.ndim == 3 else tiff_bytes(voxels), options)
    elif voxels.ndim == 2:
        write_nifti_plane(uri, voxels, grid.spacing, options)
    else:
        write_nifti(uri, voxels, *grid.placed, grid.spacing, options)


def check_png(dtype: np.dtype, what: str, png_range: Sequence[float] | None) -> None:
    """UserError for an image of a type that PNG does not hold, unless a range is given that is brought to 16 bits."""
    if png_range is None and str(dtype) not in PNG_TYPES:
        raise UserError(
            f"export.format: {what} is {dtype}, and png holds integers of 8 or 16 bits; take tiff or nifti, or say "
            "with export.png_range which intensities become 0 and 65535"
        )


def scaled(image: np.ndarray, png_range: Sequence[float] | None) -> np.ndarray:
    """uint16 of an image whose `png_range` (low, high) becomes 0 and 65535, clipped; the image itself without one."""
    if png_range is None:
        return image
    low, high = png_range
    return np.rint(np.clip((image.astype(np.float64) - low) / (high - low), 0, 1) * TOP).astype(np.uint16)


def checksums(folder: str, uris: Iterable[str], options: Options) -> dict[str, str]:
    """SHA-256 of each file, and of all files below each folder, by their paths from `folder`."""
    found = {}
    for uri in uris:
        fs, path = filesystem(uri, options)
        root = filesystem(folder, options)[1].rstrip("/")
        for file in sorted(fs.find(path)) if fs.isdir(path) else [path]:
            name = file[len(root) + 1 :]
            found[name] = hashlib.sha256(read_bytes(join(folder, name), options)).hexdigest()
    return found


def _write_png(uri: str, voxels: np.ndarray, options: Options) -> None:
    if voxels.ndim == 2:
        write_whole(uri, png_bytes(voxels), options)
        return
    folder = uri.removesuffix(".png")
    for z, plane in enumerate(voxels):
        write_whole(join(folder, f"z{z:04d}.png"), png_bytes(plane), options)


def _placed_tiff(voxels: np.ndarray, spacing: Spacing | None) -> bytes:
    """Pages (z, y, x); the voxel size where ImageJ has it, in the resolution and in `spacing`, with its unit."""
    if spacing is None or str(voxels.dtype) not in ("uint8", "uint16", "float32"):
        return tiff_bytes(voxels)  # ImageJ knows no other types
    packed = io.BytesIO()
    unit = {"micrometer": "um", "millimeter": "mm"}.get(spacing.unit, "")
    tifffile.imwrite(
        packed,
        voxels,
        imagej=True,
        resolution=(1 / spacing.x, 1 / spacing.y),
        metadata={"axes": "ZYX", "spacing": spacing.z, "unit": unit},
    )
    return packed.getvalue()
