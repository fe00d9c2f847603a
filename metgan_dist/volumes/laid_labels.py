"""The label files of a volume laid over each other: one label whose classes go by name, the later files on top."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from metgan_dist.errors import UserError
from metgan_dist.recipe import Labels, by_file
from metgan_dist.volumes.label_map import ROUNDING, LabelMap
from metgan_dist.volumes.volume import Region, Volume, region_text, whole

OpenedLabel = tuple[Volume, str]
"""A label file and the channel of it."""


class LaidLabels:
    """Of the label files of a volume, opened, by name; where none is left (a healthy volume) all is background.

    labels, unmapped: as the data set has them, None without a map; classes: how many there are; ignored: how many
    voxels have which value that `unmapped` makes background, once `check` has counted them.
    """

    def __init__(
        self, files: Mapping[str, OpenedLabel], labels: Labels | None, unmapped: str | None, classes: int
    ) -> None:
        self._classes = classes
        self._files = [(volume, channel, _map_of(name, labels, unmapped)) for name, (volume, channel) in files.items()]
        self.ignored: dict[int, int] | None = None

    @property
    def ignores(self) -> bool:
        """Whether values that are not named become background."""
        return any(values is not None and values.ignores for _, _, values in self._files)

    def read(self, region: Region) -> np.ndarray:
        """Classes (z, y, x), uint8; the background of a file lets those below it be seen.

        Raises UserError that names the file for values that are no class, NaN or infinite.
        """
        laid = np.zeros([last - first for first, last in region], np.uint8)
        for volume, channel, values in self._files:
            own = self._classes_of(finite(volume, channel, region), volume.uri_of(channel), values, region)
            np.copyto(laid, own, where=own > 0)
        return laid

    def check(self) -> None:
        """UserError for a value that is no class, as far as a look that costs little shows: see `Volume.overview`.

        Counts what `unmapped` lets pass, into `ignored`.
        """
        counted = Counter[int]()
        given = [file for file in self._files if not file[0].computed]
        seen = [(volume.overview(), volume, channel, values) for volume, channel, values in given]
        for look, volume, channel, values in seen:
            if look is volume and values is not None and values.ignores:
                everything = whole(volume)
                counted.update(values.unmapped(volume.read(channel, everything), volume.uri_of(channel), everything))
            elif look is volume:
                everything = whole(volume)
                self._classes_of(finite(volume, channel, everything), volume.uri_of(channel), values, everything)
            elif look is not None and values is None:
                # A coarse level may hold means of classes, which are no mistake, but never more than the highest class.
                voxels = np.rint(look.read(channel, whole(look)))
                _as_classes(voxels, volume.uri_of(channel), self._classes, whole(look))
        if self.ignores and all(look is volume for look, volume, _, _ in seen):
            self.ignored = dict(sorted(counted.items()))

    def _classes_of(self, voxels: np.ndarray, uri: str, values: LabelMap | None, region: Region) -> np.ndarray:
        if values is None:
            return _as_classes(voxels, uri, self._classes, region)
        return values.classes_of(voxels, uri, region)


def finite(volume: Volume, channel: str, region: Region) -> np.ndarray:
    """Voxels of a channel; UserError for NaN and infinite ones."""
    voxels = volume.read(channel, region)
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).all():
        raise UserError(
            f"{volume.uri_of(channel)}: NaN or infinite voxels in channel '{channel}', region {region_text(region)}; "
            "replace them in the file"
        )
    return voxels


def own_labels(name: str, labels: Labels) -> Mapping[int, str]:
    """The map of the label file of this name among those of a set, which may have but one."""
    files = by_file(labels)
    return files[name] if name in files else files[""]


def _map_of(name: str, labels: Labels | None, unmapped: str | None) -> LabelMap | None:
    return None if labels is None else LabelMap.of(own_labels(name, labels), unmapped, labels)


def _as_classes(voxels: np.ndarray, uri: str, classes: int, region: Region) -> np.ndarray:
    """Label values as uint8; UserError that names the first value that is no class."""
    values = voxels if voxels.dtype.kind != "f" else np.rint(voxels)
    wrong = (values < 0) | (values >= classes)
    if voxels.dtype.kind == "f":
        wrong |= np.abs(values - voxels) > ROUNDING
    if wrong.any():
        found = ", ".join(f"{value:g}" for value in np.unique(voxels[wrong])[:5])
        raise UserError(
            f"{uri}: label value {found} in region {region_text(region)}, but data.classes is {classes}; `classes` in "
            f"dataset.yaml or a recipe is how many values labels have, background included (now 0 to {classes - 1}): "
            "correct it or the label, or name the values in `labels`"
        )
    return values.astype(np.uint8)
