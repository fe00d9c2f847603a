"""`data.tissue_map`: brains without a map of tissues get one that is made of their images, as a label file of its own.

Nothing is written: who reads the label `tissue` of such a volume reads what `kmeans_tissue` makes of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metgan_dist.errors import UserError
from metgan_dist.recipe import LESION, Data, Labels, VolumeEntry, by_file, label_names
from metgan_dist.recipe.labels import TISSUE
from metgan_dist.volumes.kmeans_tissue import CLASSES, tissue_of
from metgan_dist.volumes.volume import Region, Volume, whole


class MadeTissue(Volume):
    """The map of an image, in `values` of CSF, white and grey matter; made as a whole at the first read, and kept.

    others: the volume's other labels, a volume and a channel each; what they mark (lesions) is left out of what is
    fitted. Raises UserError, when it is read, for an image in which no tissue can be told apart.
    """

    computed = True

    def __init__(
        self, image: Volume, channel: str, values: Sequence[int], others: Sequence[tuple[Volume, str]]
    ) -> None:
        self._image, self._channel, self._others = image, channel, others
        self._values = np.array([0, *values], np.int32)
        self._map: np.ndarray | None = None
        self.uri = f"{image.uri_of(channel)} (tissue by k-means)"
        self.source_axes, self.shape, self.chunks = image.source_axes, image.shape, image.shape
        self.channels, self.dtype = (TISSUE,), self._values.dtype
        self.spacing, self.affine, self.lies = image.spacing, image.affine, image.lies

    def overview(self) -> None:
        """None: to make it is no look of little cost, and it holds no value that is not known."""

    def _read(self, channel: int, region: Region) -> np.ndarray:
        if self._map is None:
            everything, at = whole(self), self.spacing
            marked = [volume.read(name, everything) != 0 for volume, name in self._others]
            apart = np.any(marked, axis=0) if marked else None
            pixel = (at.y * at.x) ** 0.5 if at is not None and at.unit == "millimeter" else 1.0
            image = self._image.read(self._channel, everything)
            self._map = self._values[tissue_of(image, apart, pixel, self._image.uri_of(self._channel))]
        return self._map[tuple(slice(*span) for span in region)]


def made_values(labels: Labels | None) -> tuple[int, ...]:
    """What `labels` calls the classes that are made, by rising intensity; UserError for one that it does not name."""
    files = by_file(labels or {})
    tissue = files[TISSUE] if TISSUE in files else files[""]
    values = {name: value for value, name in list(tissue.items())[::-1]}  # of several the first
    lacking = next((name for name in CLASSES.values() if name not in values), None)
    if lacking is not None:
        raise UserError(
            f"data.tissue_map: k-means tells {', '.join(CLASSES.values())} apart, and the map that `labels` has of the "
            f"label {TISSUE!r} names no {lacking}; name it there, or leave {TISSUE!r} out of `labels`"
        )
    return tuple(values[name] for name in CLASSES.values())


def with_made_tissue(data: Data) -> Data:
    """`data`, its volumes listed, with a label `tissue` where it names none: its label files then go by name.

    A single one gets the name that `data.label` gives it, else `lesion`. Itself without `data.tissue_map`. Applied to
    its own result it changes nothing. Raises UserError where no tissue can be told apart in the volumes of the set.
    """
    if data.tissue_map is None:
        return data
    if any(entry.domain or entry.path is None for entry in data.volumes):
        what = "masks without images" if any(entry.path is None for entry in data.volumes) else "images of two domains"
        raise UserError(f"data.tissue_map: tells tissue apart in the images of brains, and these are {what}")
    files, wanted = by_file(data.labels or {}), label_names(data.label)
    alone = wanted == (TISSUE,) and set(CLASSES.values()) <= set(files.get("", {}).values())
    if TISSUE in files or alone:
        made_values(data.labels)
        return data
    name = next((name for name in wanted if name != TISSUE), LESION)
    if data.labels is None and any(entry.label for entry in data.volumes):
        raise UserError(f"data.tissue_map: the values of the labels have no names; say labels: {{1: {LESION}}}")
    own = {} if data.labels is None else {name: files[""]} if "" in files else files
    entries = [_named(entry, name) for entry in data.volumes]
    return data.model_copy(update={"labels": {TISSUE: dict(CLASSES), **own}, "volumes": entries})


def _named(entry: VolumeEntry, name: str) -> VolumeEntry:
    """An entry whose one label goes by a name."""
    return entry.model_copy(update={"label": {name: entry.label}}) if isinstance(entry.label, str) else entry
