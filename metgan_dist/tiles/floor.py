"""Below which intensity an image is background, and what that takes away.

Paper 4 takes 35, which says something of its scanner alone: MR has no unit. A share of a high percentile of the same
volume says the same of every scanner.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metgan_dist.errors import UserError
from metgan_dist.recipe import Data, Tiles
from metgan_dist.tiles import brain_dwi
from metgan_dist.tiles.grid import grid_of

COLUMNS = ("floor", "removed", "removed_of_label")


@dataclass(frozen=True)
class Removed:
    """below: what became background, in the image's intensities; share: of all voxels, those that were not 0 before and
    are now; labelled: the same share of the labelled voxels, None where there are none."""

    below: float
    share: float
    labelled: float | None

    def columns(self) -> dict[str, float]:
        """What the rows of a block carry of it to the manifest, by the ends of their names; NaN for None."""
        labelled = float("nan") if self.labelled is None else self.labelled
        return dict(zip(COLUMNS, (self.below, self.share, labelled), strict=True))


@dataclass(frozen=True)
class Floor:
    """absolute: an intensity, or relative: a share of the percentile of a volume's voxels; neither: nothing is cut."""

    absolute: float | None = None
    relative: float | None = None
    percentile: float = 100.0

    def below(self, image: np.ndarray) -> float | None:
        """The intensity below which voxels of an image (any shape) are background; None where nothing is cut."""
        if self.relative is not None:
            return self.relative * float(np.percentile(image, self.percentile, method="inverted_cdf"))
        return self.absolute

    def cut(self, image: np.ndarray, label: np.ndarray | None) -> tuple[np.ndarray, Removed | None]:
        """The image with 0 below the floor, and what that takes of it and of the labelled voxels."""
        below = self.below(image)
        if below is None:
            return image, None
        low = image < below
        gone = low & (image != 0)
        tissue = None if label is None else label > 0
        share = None if tissue is None or not tissue.any() else float(gone[tissue].mean())
        return np.where(low, image.dtype.type(0), image), Removed(below, float(gone.mean()), share)


def floor_of(data: Data, tiles: Tiles) -> Floor:
    """The floor of `data`, else the paper's 35 for brain DWI, else none.

    Raises UserError where one is asked for of volumes that are not prepared as a whole, piece by piece of which a
    percentile is not known.
    """
    paper = tiles.modality == "brain-dwi"
    asked = next((name for name in ("floor", "floor_relative") if getattr(data, name) is not None), None)
    if asked is not None and grid_of(tiles) is None:
        raise UserError(f"data.{asked}: cuts volumes that are resampled as a whole; set tiles.grid, or leave it out")
    if data.floor_relative is not None:
        return Floor(relative=data.floor_relative, percentile=_upper(tiles))
    if data.floor is not None:
        return Floor(absolute=data.floor)
    return Floor(absolute=brain_dwi.BACKGROUND_BELOW if paper else None)


def removed_lines(volumes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line for each layer of a manifest's volumes of which the floor took something away, and how much."""
    for layer in dict.fromkeys(layer for volume in volumes for layer in volume["intensities"]):
        own = {volume["id"]: volume["intensities"].get(layer, {}) for volume in volumes}
        taken = {name: found["removed"] for name, found in own.items() if found.get("removed")}
        if not taken:
            continue
        floors = [found["floor"] for found in own.values() if "floor" in found]
        below = " to ".join(f"{end:.4g}" for end in dict.fromkeys((min(floors), max(floors))))
        most = max(taken, key=lambda name: taken[name])
        tissue = [found["removed_of_label"] for found in own.values() if found.get("removed_of_label") is not None]
        labelled = f", {sum(tissue) / len(tissue):.2%} of the labelled ones" if tissue else ""
        yield (
            f"{layer}: what is below {below} became background: {sum(taken.values()) / len(own):.2%} of the voxels"
            f"{labelled}; most of {most!r}, {taken[most]:.2%}"
        )


def _upper(tiles: Tiles) -> float:
    """The percentile that becomes 1."""
    return brain_dwi.CLIP_PERCENTILE if tiles.modality == "brain-dwi" else tiles.percentiles[1]
