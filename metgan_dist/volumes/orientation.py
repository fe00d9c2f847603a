"""Volumes whose axes run towards chosen sides of the body, whatever way their files lie; read by region as before.

A scanner's file says by its affine towards which sides of the patient its axes run. Turning and flipping whole axes
brings every file to one orientation without touching a voxel's value; what is tilted by less than 45 degrees stays so.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from nibabel.orientations import (
    aff2axcodes,
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)

from metgan_dist.errors import UserError
from metgan_dist.recipe import STORED
from metgan_dist.volumes.volume import Range, Region, Spacing, Volume


def sides(affine: np.ndarray) -> str:
    """The sides towards which x, y and z run, as nibabel names them: RAS, LPS and so on."""
    return "".join(str(code) for code in aff2axcodes(affine))


def several_ways(volumes: Iterable[tuple[str, str | None]]) -> str | None:
    """Which volumes lie how, in words, of (id, sides) each; None where all that say so lie in one way."""
    lie: dict[str, list[str]] = {}
    for name, ways in volumes:
        if ways is not None:
            lie.setdefault(ways, []).append(name)
    if len(lie) < 2:
        return None
    each = ", ".join(f"{len(names)} as {ways} (first {names[0]!r})" for ways, names in lie.items())
    return f"volumes lie in {len(lie)} orientations: {each}"


def oriented(volume: Volume, orientation: str | None, *, axes: str | None = None) -> Volume:
    """The volume with x, y, z towards the sides of `orientation`: itself where they run so, or none is asked for.

    `axes`: what the user states of the file's axes. Raises UserError for a file without an affine, and for one whose
    axes are stated: these say the order, the affine that of the file.
    """
    if orientation in (None, STORED):
        return volume
    if volume.affine is None:
        raise UserError(
            f"{volume.uri}: nothing in it says towards which sides its axes run, as the affine of NIfTI does; leave "
            f"out `orientation: {orientation}`, or convert it to NIfTI"
        )
    if axes is not None:
        raise UserError(
            f"{volume.uri}: `axes: {axes}` and `orientation: {orientation}` both say how its axes are turned; leave "
            "one out"
        )
    return volume if sides(volume.affine) == orientation else Oriented(volume, str(orientation))


class Oriented(Volume):
    """A volume with its axes turned and flipped, so that x, y, z run towards the sides of three letters such as RAS.

    A region is read from where it lies in the file. `affine`, `shape`, `chunks` and `spacing` are those of the turned
    volume; `lies` still says how the file lies.
    """

    def __init__(self, stored: Volume, orientation: str) -> None:
        assert stored.affine is not None
        self._stored = stored
        # For each of x, y, z of the file: which new axis it becomes, and 1 or -1.
        self._turn = ornt_transform(io_orientation(stored.affine), axcodes2ornt(tuple(orientation)))
        # For each new axis x, y, z: which of the file's it was.
        self._origin = [int(axis) for axis in np.argsort(self._turn[:, 0])]
        self.uri, self.source_axes, self.lies = stored.uri, stored.source_axes, stored.lies
        self.channels, self.dtype, self.cheap_bytes = stored.channels, stored.dtype, stored.cheap_bytes
        self.shape, self.chunks = self._turned(stored.shape), self._turned(stored.chunks)
        self.affine = stored.affine @ inv_ornt_aff(self._turn, stored.shape[::-1])
        at = stored.spacing
        self.spacing = None if at is None else Spacing(*self._turned((at.z, at.y, at.x)), unit=at.unit)

    def _turned(self, zyx: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        """What belongs to z, y, x of the file in the order of the new z, y, x."""
        x, y, z = (zyx[::-1][axis] for axis in self._origin)
        return z, y, x

    def _read(self, channel: int, region: Region) -> np.ndarray:
        wanted = dict(zip(self._origin, region[::-1], strict=True))
        spans: list[Range] = []
        for axis, length in enumerate(self._stored.shape[::-1]):
            first, last = wanted[axis]
            spans.append((first, last) if self._turn[axis, 1] > 0 else (length - last, length - first))
        x, y, z = spans
        voxels = self._stored.read(self._stored.channels[channel], (z, y, x))
        return np.asarray(apply_orientation(voxels.T, self._turn)).T
