"""Labels that the user drew: an image, or a folder of them (PNG, TIFF, NIfTI), for `synthesis.drawn`.

A drawing of the tiles' shape lies where it was drawn. Any other is cut to the box around its lesions, which must fit
into a tile, and is laid at a random place. Where tiles are 2D, every plane of a stack is a drawing of its own. With two
classes a black-and-white mask (0 and 255) is taken as 0 and 1.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from tifffile import natural_sorted

from metgan_dist.errors import UserError
from metgan_dist.storage import Options, absolute, basename, entries, exists, is_folder, join, read_bytes
from metgan_dist.volumes import images, nifti
from metgan_dist.volumes.images import read_image
from metgan_dist.volumes.open import open_volume
from metgan_dist.volumes.volume import whole

SUFFIXES = (*images.SUFFIXES, *nifti.SUFFIXES)
READ_AT_ONCE = 8


@dataclass(frozen=True)
class Drawing:
    """One non-empty label: uint8 pixels, and the file that it is from (`plane`: of a stack, else None)."""

    file: str
    sha256: str
    plane: int | None
    pixels: np.ndarray

    @property
    def source(self) -> dict[str, Any]:
        """As `label_sources` of a tile name it."""
        return {"file": self.file, "sha256": self.sha256, **({} if self.plane is None else {"plane": self.plane})}


def read_drawings(uri: str, shape: tuple[int, ...], classes: int, options: Options | None = None) -> list[Drawing]:
    """All drawings of a file or folder that hold a lesion, in natural order of the files.

    Raises UserError, naming the file, for values that are no class, lesions that do not fit into a tile of `shape`, and
    where no file holds a lesion.
    """
    uri = absolute(uri)
    if not exists(uri, options):
        raise UserError(f"synthesis.labels: {uri}: not found; give a label image, or a folder of them")
    files = [uri]
    if is_folder(uri, options):
        files = [join(uri, name) for name in natural_sorted(entries(uri, options)[0])]
        files = [file for file in files if file.lower().endswith(SUFFIXES)]
    if not files or not files[0].lower().endswith(SUFFIXES):
        raise UserError(f"synthesis.labels: {uri}: no label image here; PNG, TIFF and NIfTI are read")
    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        found = list(pool.map(lambda file: _drawings_of(file, shape, classes, options), files))
    drawings = [drawing for drawn in found for drawing in drawn]
    if not drawings:
        raise UserError(f"synthesis.labels: {uri}: none of {len(files)} file(s) holds a labelled pixel")
    return drawings


def _drawings_of(file: str, shape: tuple[int, ...], classes: int, options: Options | None) -> list[Drawing]:
    if file.lower().endswith(".png"):
        pixels = read_image(file, options)[np.newaxis]
    else:
        volume = open_volume(file, options=options)
        if len(volume.channels) > 1:
            raise UserError(f"synthesis.labels: {file}: {len(volume.channels)} channels; a label has one")
        pixels = volume.read(volume.channels[0], whole(volume))
    label = _as_classes(pixels, classes, file)
    planes = list(label) if len(shape) == 2 else [label]
    digest = hashlib.sha256(read_bytes(file, options)).hexdigest()
    return [
        Drawing(basename(file), digest, number if len(planes) > 1 else None, _fitted(plane, shape, file))
        for number, plane in enumerate(planes)
        if plane.any()
    ]


def _as_classes(pixels: np.ndarray, classes: int, file: str) -> np.ndarray:
    values = np.unique(pixels)
    if classes == 2 and set(values.tolist()) <= {0, 255}:
        return (pixels > 0).astype(np.uint8)
    # Not `0 <= value`: NaN must be among the wrong ones.
    wrong = [value for value in values.tolist() if not (0 <= value < classes and value == int(value))]
    if wrong:
        shown = ", ".join(f"{value:g}" for value in wrong[:5])
        raise UserError(
            f"synthesis.labels: {file}: label value {shown}, but data.classes is {classes} (0 to {classes - 1})"
        )
    return pixels.astype(np.uint8)


def _fitted(label: np.ndarray, shape: tuple[int, ...], file: str) -> np.ndarray:
    if label.shape == shape:
        return label
    places = np.argwhere(label)
    low, high = places.min(axis=0), places.max(axis=0) + 1
    if any(high - low > shape):
        extent, tile = (" x ".join(str(edge) for edge in edges) for edges in (high - low, shape))
        raise UserError(
            f"synthesis.labels: {file}: its lesions reach over {extent} pixels, a tile has {tile}; cut it or "
            "scale it down"
        )
    return label[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
