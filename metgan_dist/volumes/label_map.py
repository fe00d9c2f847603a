"""Values of a label file to classes: a lookup that refuses what it does not know, or counts it as background."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from metgan_dist.errors import UserError
from metgan_dist.recipe import Labels, class_numbers
from metgan_dist.volumes.volume import Region, region_text

# A label stored through a scale factor comes back a rounding error away from its integer.
ROUNDING = 1e-3
_SHOWN = 5


@dataclass(frozen=True)
class LabelMap:
    """values: of the file, ascending, int64 (V,); classes: what each becomes, uint8 (V,); ignores: what is in neither
    becomes background."""

    values: np.ndarray
    classes: np.ndarray
    ignores: bool = False

    @staticmethod
    def of(labels: Mapping[int, str], unmapped: str | None, among: Labels | None = None) -> LabelMap:
        """Of `labels` and `unmapped` as a data section has them; `among`: see `class_numbers`."""
        numbers = sorted(class_numbers(labels, among).items())
        values, classes = zip(*numbers, strict=True)
        return LabelMap(np.array(values, np.int64), np.array(classes, np.uint8), unmapped is not None)

    def classes_of(self, voxels: np.ndarray, uri: str, region: Region) -> np.ndarray:
        """Classes (z, y, x), uint8, of label values (z, y, x) of any type.

        Raises UserError that names values of `uri` which are no integers, or are not mapped, how many voxels have them
        and the region.
        """
        out, unknown = np.empty(voxels.shape, np.uint8), Counter[int]()
        # Plane by plane: what a lookup needs beside its result is several times the label.
        for plane, into in zip(voxels, out, strict=True):
            into[...], missed = self._looked_up(integers(plane, uri, region))
            unknown.update(missed)
        if unknown and not self.ignores:
            raise UserError(
                f"{uri}: label value {counts_text(unknown)} in region {region_text(region)}: not in `labels` of the "
                "data set; name it there, or set `unmapped: background`"
            )
        return out

    def unmapped(self, voxels: np.ndarray, uri: str, region: Region) -> dict[int, int]:
        """How many voxels have which value that is not mapped."""
        unknown = Counter[int]()
        for plane in voxels:
            unknown.update(self._looked_up(integers(plane, uri, region))[1])
        return dict(sorted(unknown.items()))

    def _looked_up(self, plane: np.ndarray) -> tuple[np.ndarray, dict[int, int]]:
        """Classes of integers, 0 where there is none, and how many have which value that is not mapped."""
        at = np.searchsorted(self.values, plane).clip(max=len(self.values) - 1)
        known = self.values[at] == plane
        missed = {} if known.all() else _counted(plane[~known])
        return np.where(known, self.classes[at], np.uint8(0)), missed


def integers(voxels: np.ndarray, uri: str, region: Region) -> np.ndarray:
    """Label values as int64; UserError that names the first ones that are no integers."""
    if voxels.dtype.kind != "f":
        return voxels.astype(np.int64)
    values = np.rint(voxels)
    wrong = ~(np.abs(values - voxels) <= ROUNDING)  # NaN is none, too
    if wrong.any():
        found = ", ".join(f"{value:g}" for value in np.unique(voxels[wrong])[:_SHOWN])
        raise UserError(
            f"{uri}: label value {found} in region {region_text(region)}: no integer, as if the label had been "
            "interpolated; save it again with nearest neighbours"
        )
    return values.astype(np.int64)


def counts_text(counts: Mapping[int, int]) -> str:
    """Values and how many voxels have them, the most frequent first: `421 (37 voxels), 7 (1 voxel)`."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = [f"{value} ({count} voxel{'s' if count > 1 else ''})" for value, count in ordered[:_SHOWN]]
    more = len(ordered) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _counted(values: np.ndarray) -> dict[int, int]:
    found, counts = np.unique(values, return_counts=True)
    return {int(value): int(count) for value, count in zip(found, counts, strict=True)}
