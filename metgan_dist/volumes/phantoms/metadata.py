"""OME-Zarr 0.5 metadata of a phantom volume."""

from __future__ import annotations

from typing import Any

from metgan_dist.volumes import ome_zarr_writer as ome
from metgan_dist.volumes.phantoms.procedural import ProceduralVolume
from metgan_dist.volumes.volume import Spacing


def image_metadata(volume: ProceduralVolume) -> dict[str, Any]:
    """The `ome` attribute of the image: axes c, z, y, x, one level `s0`, voxel size, channel names and windows."""
    colours = ("00FF00", "FF00FF") if len(volume.channels) > 1 else ("FFFFFF",)
    channels = [
        ome.channel(name, colour, (low, high), (min(0, low), high))
        for name, colour, (low, high) in zip(volume.channels, colours, volume.windows, strict=True)
    ]
    return ome.image_metadata(_multiscales(volume, "phantom", channel_axis=True), channels)


def label_metadata(volume: ProceduralVolume) -> dict[str, Any]:
    """The `ome` attribute of the label group: axes z, y, x and the names of the classes."""
    classes = {value: name for value, name in enumerate(volume.label_classes) if value}
    return ome.label_metadata(_multiscales(volume, volume.label_name, channel_axis=False), classes)


def _multiscales(volume: ProceduralVolume, name: str, *, channel_axis: bool) -> dict[str, Any]:
    level = ome.Level("s0", volume.shape, (1, 1, 1))
    return ome.multiscales(name, [level], Spacing(*volume.spacing, unit=volume.unit), channel_axis=channel_axis)
