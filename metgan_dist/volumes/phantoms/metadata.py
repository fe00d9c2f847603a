"""OME-Zarr 0.5 metadata of a phantom volume."""

from __future__ import annotations

from typing import Any

from metgan_dist.volumes.phantoms.procedural import ProceduralVolume


def image_metadata(volume: ProceduralVolume) -> dict[str, Any]:
    """The `ome` attribute of the image: axes c, z, y, x, one level `s0`, voxel size, channel names and windows."""
    colours = ("00FF00", "FF00FF") if len(volume.channels) > 1 else ("FFFFFF",)
    channels = [
        {
            "label": name,
            "color": colour,
            "active": True,
            "window": {"start": low, "end": high, "min": min(0, low), "max": high},
        }
        for name, colour, (low, high) in zip(volume.channels, colours, volume.windows, strict=True)
    ]
    multiscale = _multiscale(volume, "phantom", channel_axis=True)
    return {"version": "0.5", "multiscales": [multiscale], "omero": {"channels": channels}}


def label_metadata(volume: ProceduralVolume) -> dict[str, Any]:
    """The `ome` attribute of the label group: axes z, y, x and the names of the classes."""
    properties = [{"label-value": value, "class": name} for value, name in enumerate(volume.label_classes) if value]
    return {
        "version": "0.5",
        "multiscales": [_multiscale(volume, volume.label_name, channel_axis=False)],
        "image-label": {"version": "0.5", "properties": properties, "source": {"image": "../../"}},
    }


def _multiscale(volume: ProceduralVolume, name: str, *, channel_axis: bool) -> dict[str, Any]:
    axes = [{"name": axis, "type": "space", "unit": volume.unit} for axis in "zyx"]
    scale = [float(step) for step in volume.spacing]
    if channel_axis:
        axes, scale = [{"name": "c", "type": "channel"}, *axes], [1.0, *scale]
    level = {"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
    return {"name": name, "axes": axes, "datasets": [level]}
