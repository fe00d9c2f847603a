"""A volume of a data set by role: a picklable reference, and the opened volume with its label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from metgan_dist.errors import UserError
from metgan_dist.recipe import Labels, VolumeEntry, label_names
from metgan_dist.recipe.labels import TISSUE
from metgan_dist.storage import Options, exists, join
from metgan_dist.volumes.axes import spatial_order
from metgan_dist.volumes.images import ImageFolders, check_in_step
from metgan_dist.volumes.laid_labels import LaidLabels, OpenedLabel, finite
from metgan_dist.volumes.layers import Layer, layers_of
from metgan_dist.volumes.made_tissue import MadeTissue, made_values
from metgan_dist.volumes.ome_zarr import OmeZarr
from metgan_dist.volumes.open import open_volume, same_grid
from metgan_dist.volumes.volume import Region, Volume

Role = Literal["anatomy", "tumour", "label"]


@dataclass(frozen=True)
class VolumeRef:
    """One volume of a data set, small and picklable: a worker on any machine opens it.

    base: URI that the paths of `entry` are relative to (absolute on disk); anatomy, tumour: channel names, none where
    the volume has no such image, "" for its only channel; label: what `data.label` says, one or several; classes:
    number of classes; domain: "" where the data set has none; labels, unmapped, orientation, tissue_map: as the data
    set, or the domain, has them.
    """

    id: str
    organ: str | None
    patient: str | None
    split: str
    entry: VolumeEntry
    base: str
    anatomy: tuple[str, ...]
    tumour: tuple[str, ...]
    label: str | list[str] | None
    classes: int
    options: Options = field(default_factory=dict, repr=False)  # may hold a secret
    missing_chunks: str = "error"
    domain: str = ""
    labels: Labels | None = None
    unmapped: str | None = None
    orientation: str | None = None
    tissue_map: str | None = None

    def open(self) -> LabelledVolume:
        """Open the volume and its label; reads metadata only. Errors as for `LabelledVolume`."""
        return LabelledVolume(self)

    @property
    def paths(self) -> tuple[str, ...]:
        """URIs of the volume: one, or one for each channel."""
        return tuple(join(self.base, part) for part in self.entry.paths)

    @property
    def makes_tissue(self) -> bool:
        """Whether its map of tissues, which is wanted and nowhere, is made of its image."""
        own = self.entry.label
        if (
            self.tissue_map is None
            or TISSUE not in label_names(self.label)
            or (isinstance(own, dict) and TISSUE in own)
        ):
            return False
        return self.label_place(TISSUE, None) is None

    @property
    def wanted_labels(self) -> dict[str, str | None]:
        """By its name what the entry says of each label, the later laid over the earlier: a path or group, or nothing.

        Without those that the entry says are empty, and without a map of tissues that is made; "" is the name of one
        that nobody names. Raises UserError for a volume that lacks one of them.
        """
        names, own = label_names(self.label), self.entry.label
        if self.makes_tissue:
            names = tuple(name for name in names if name != TISSUE)
            if not names:
                return {}
        if isinstance(own, str) and len(names) < 2:
            return {"".join(names): own}
        if own and not names:
            raise UserError(f"data.label: volume '{self.id}' has several label files ({', '.join(own)}); say which")
        if own is None:
            return dict.fromkeys(names)
        files: dict[str, str | list[str]] = own if isinstance(own, dict) else {"": own}
        lacking = next((name for name in names if name not in files), None)
        if lacking is not None and not self.entry.healthy:
            there = ", ".join(f"{name}: {path}" for name, path in files.items())
            raise UserError(
                f"data.volumes: '{self.id}' names no file of the label '{lacking}', label: {{{there}}}; name it there, "
                f"or say `{lacking}: []`, or `healthy: true`, where the volume has nothing of it"
            )
        found = {name: files.get(name) for name in names}
        return {name: path for name, path in found.items() if isinstance(path, str)}

    def label_places(self) -> dict[str, str | None]:
        """URI of each wanted label: a label group of an OME-Zarr, or the entry's own path; None where neither exists.

        A healthy volume's that is nowhere is left out.
        """
        places = {name: self.label_place(name, given) for name, given in self.wanted_labels.items()}
        return {name: path for name, path in places.items() if path or not self.entry.healthy}

    def label_place(self, name: str, given: str | None) -> str | None:
        """URI of one label that `wanted_labels` names, None where there is none."""
        candidates = [join(path, "labels", given or name) for path in self.paths]
        if given:
            candidates.append(join(self.base, given))
        return next((path for path in candidates if exists(path, self.options)), None)

    @property
    def label_paths(self) -> tuple[str, ...]:
        """URIs of the labels that are files or groups of their own."""
        return tuple(path for path in self.label_places().values() if path)

    @property
    def labelled(self) -> bool:
        """Whether the volume is to have a label, be it an empty one."""
        return bool(self.entry.label or self.label)


class LabelledVolume:
    """An opened volume by the role of its channels: anatomy, tumour, label, those that it has.

    shape, chunks (z, y, x), spacing: of the image, or of a mask without one; dtypes: of its layers, one for each
    channel of a role, in the order of roles and of channels (a label is always given as uint8); names, table: of
    separate images, else None (see `Volume`); ignored: how many voxels of the label have which value that `unmapped`
    makes background, counted by `check_label` where that costs little, else None.

    Raises UserError for a missing channel, an image stored through a palette, a label or channel of another shape
    (naming both), a label that may lie otherwise than its image, or unmatched image names.
    """

    def __init__(self, ref: VolumeRef) -> None:
        self.id, self.classes = ref.id, ref.classes
        self._volume = open_image(ref)
        self.shape, self.chunks, self.spacing = self._volume.shape, self._volume.chunks, self._volume.spacing
        self._sources: dict[str, tuple[Volume, str]] = {}
        for role, channels in (("anatomy", ref.anatomy), ("tumour", ref.tumour)):
            for layer, name in zip(layers_of(role, len(channels)), channels, strict=True):
                channel = name or _only_channel(self._volume)
                self._volume.channel_number(channel)
                self._sources[layer] = (self._volume, channel)
                if self._volume.palette_of(channel):
                    raise UserError(
                        f"{self._volume.uri_of(channel)}: its pixels are numbers of a palette's colours, which are no "
                        f"intensities; save channel '{channel}' as grey"
                    )
        self._label: LaidLabels | None = None
        if ref.labelled:
            self._label = LaidLabels(open_labels(ref, self._volume), ref.labels, ref.unmapped, ref.classes)
        self.dtypes = {layer: volume.dtype_of(channel) for layer, (volume, channel) in self._sources.items()}
        if self._label is not None:
            self.dtypes["label"] = np.dtype(np.uint8)

    @property
    def names(self) -> tuple[str, ...] | None:
        """File names of separate images in z order."""
        return self._volume.names

    @property
    def table(self) -> pd.DataFrame | None:
        """Columns file, organ, patient of separate images, one row for each in z order."""
        return self._volume.table

    @property
    def affine(self) -> np.ndarray | None:
        """4x4 from voxels (x, y, z) to millimetres, for NIfTI."""
        return self._volume.affine

    @property
    def lies(self) -> str | None:
        """Towards which sides x, y, z of the file run, for NIfTI."""
        return self._volume.lies

    @property
    def ignores(self) -> bool:
        """Whether label values that `labels` does not name become background."""
        return self._label is not None and self._label.ignores

    @property
    def ignored(self) -> dict[int, int] | None:
        """Voxels with values that `unmapped` makes background, as `check_label` counted them."""
        return None if self._label is None else self._label.ignored

    def check_same_grid(self, other: LabelledVolume) -> None:
        """UserError unless both have one shape and, where both have affines, lie within half a voxel."""
        same_grid(self._volume, other._volume)

    def has(self, role: Role) -> bool:
        """Whether the volume has this role."""
        return role in self.dtypes

    def described(self, layer: Layer) -> str:
        """A layer in messages: its role, with the channel's name where the role has several."""
        role = layer.partition("_")[0]
        return f"{role} ({self._sources[layer][1]})" if f"{role}_1" in self._sources else role

    def check_label(self) -> None:
        """UserError for a label value that is no class, as far as a look that costs little shows: see `overview`.

        Counts what `unmapped` lets pass, into `ignored`.
        """
        if self._label is not None:
            self._label.check()

    def read(self, layer: Layer, region: Region) -> np.ndarray:
        """Voxels (z, y, x) of a layer: an image with its own dtype and values, a label as uint8 in 0..classes-1,
        numbered as the data set's `labels` say.

        Raises UserError for a role that the volume has not, NaN or infinite voxels, and label values that are no class.
        """
        if layer not in self.dtypes:
            hint = (
                "give `label` in the data set or data.label" if layer == "label" else f"set data.{layer} to a channel"
            )
            raise UserError(f"{self._volume.uri}: volume '{self.id}' has no {layer}; {hint}")
        if layer == "label":
            assert self._label is not None
            return self._label.read(region)
        volume, channel = self._sources[layer]
        return finite(volume, channel, region)


def check_one_space(masks: Sequence[LabelledVolume], field: str) -> None:
    """UserError, beginning with `field`, where masks without images lie on several grids: what place a lesion has would
    say nothing."""
    for mask in masks:
        try:
            masks[0].check_same_grid(mask)
        except UserError as error:
            raise UserError(f"{field}: {error}; masks without images must lie in one space") from error


def open_looked_at(ref: VolumeRef) -> LabelledVolume:
    """The opened volume of a reference, after a look at its label where that costs little.

    A wrong class is so told before hours of work, and not in the middle of them. Errors as for `LabelledVolume`, and
    UserError for a value that is no class.
    """
    volume = ref.open()
    volume.check_label()
    return volume


def open_image(ref: VolumeRef) -> Volume:
    """The image of a reference, without its label; of a mask alone the mask."""
    entry = ref.entry
    path = dict(zip(entry.path, ref.paths, strict=True)) if isinstance(entry.path, dict) else ref.paths[0]
    return open_volume(
        path,
        level=entry.level,
        axes=entry.axes,
        channels=entry.channels,
        spacing=entry.spacing,
        unit=entry.unit,
        options=ref.options,
        missing_chunks=ref.missing_chunks,
        table=join(ref.base, entry.table) if entry.table else None,
        orientation=ref.orientation,
    )


def open_labels(ref: VolumeRef, image: Volume) -> dict[str, OpenedLabel]:
    """Volume and channel of each label, by its name: a label group, else a path, else a channel, or a made map."""
    opened = {name: _open_label(ref, image, name, given) for name, given in ref.wanted_labels.items()}
    found = {name: label for name, label in opened.items() if label is not None}
    if not ref.makes_tissue:
        return found
    if not ref.tumour:
        raise UserError(
            f"data.tissue_map: volume '{ref.id}' has no image to tell tissue apart in; name it in data.tumour"
        )
    channel = ref.tumour[0] or _only_channel(image)
    made = MadeTissue(image, channel, made_values(ref.labels), [*found.values(), *_unwanted(ref, image)])
    by_name = {**found, TISSUE: (made, TISSUE)}
    return {name: by_name[name] for name in label_names(ref.label) if name in by_name}


def _unwanted(ref: VolumeRef, image: Volume) -> list[OpenedLabel]:
    """Labels that the entry names and the data set does not ask for."""
    own, asked = ref.entry.label, label_names(ref.label)
    named = own.items() if isinstance(own, dict) else ()
    opened = [
        _open_label(ref, image, name, path) for name, path in named if name not in asked and isinstance(path, str)
    ]
    return [label for label in opened if label is not None]


def _open_label(ref: VolumeRef, image: Volume, wanted: str, given: str | None) -> OpenedLabel | None:
    """None where it is not there, of a healthy volume."""
    if ref.entry.path is None:
        return _only_label(image, image.uri)
    name = given or wanted
    path = ref.label_place(wanted, given)
    if path is None:
        if name in image.channels:
            return image, name
        if ref.entry.healthy and given is None:
            return None
        groups = ", ".join(image.labels) if isinstance(image, OmeZarr) else ""
        where = f"{join(ref.base, name)}: not found" if given else f"{image.uri}: no label '{name}'"
        # Often it was not the user who named it, but the preset.
        mend = "" if given else '; name it in data.label, or say --data.label "" where there is none'
        raise UserError(
            f"{where}; neither a label group ({groups or 'there is none'}) nor a channel ({', '.join(image.channels)}) "
            f"of volume '{ref.id}' has that name{mend}"
        )
    in_image = path in [join(part, "labels", name) for part in ref.paths]
    label = open_volume(
        path,
        level=ref.entry.level if in_image else None,
        axes=image.source_axes if image.names else ref.entry.label_axes,
        options=ref.options,
        missing_chunks="fill",
        orientation=ref.orientation,
    )
    _only_label(label, path)
    if ref.entry.axes and ref.entry.label_axes is None:
        _check_turned_alike(image, label)
    same_grid(image, label)
    if image.names and label.names:
        _check_names(image, label)
    elif isinstance(image, ImageFolders) and isinstance(label, ImageFolders):
        check_in_step(image.uri, image.stems, label.uri, label.stems)
    return label, label.channels[0]


def _only_label(label: Volume, uri: str) -> tuple[Volume, str]:
    """A label and its one channel; UserError where it has several."""
    if len(label.channels) > 1:
        raise UserError(f"{uri}: a label has one channel, not {len(label.channels)} ({', '.join(label.channels)})")
    return label, label.channels[0]


def _check_turned_alike(image: Volume, label: Volume) -> None:
    """UserError where stated axes turn the image, and its label, whose shape may fit either way, is read as before."""
    turned, own = (spatial_order(volume.source_axes) for volume in (image, label))
    # One of a single plane may have no z.
    if [axis for axis in turned if axis in own] != [axis for axis in own if axis in turned]:
        raise UserError(
            f"{label.uri}: read as {own}, but `axes` has its image {image.uri} read as {turned}; say in `label_axes` "
            "how the label lies"
        )


def _check_names(image: Volume, label: Volume) -> None:
    """UserError unless each separate image has the label of its own name."""
    for own, other in zip(image.names or (), label.names or (), strict=True):
        if own.rpartition(".")[0] != other.rpartition(".")[0]:
            raise UserError(
                f"{label.uri}: no label for image '{own}' of {image.uri}; every image needs one of its name"
            )


def _only_channel(volume: Volume) -> str:
    """The name of a volume's single channel; UserError where it has several."""
    if len(volume.channels) > 1:
        raise UserError(
            f"{volume.uri}: its channels are {', '.join(volume.channels)}; name those of the image in data.anatomy or "
            "data.tumour, or in the `channels` of its domain"
        )
    return volume.channels[0]
