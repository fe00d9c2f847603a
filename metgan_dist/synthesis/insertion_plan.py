"""Whether tumours, volumes and SinGAN go together: told in a line before any work, from headers alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from metgan_dist.errors import UserError
from metgan_dist.recipe import Insertion
from metgan_dist.recipe.methods.singan import SinGANRecipe
from metgan_dist.synthesis.inserting import Case, Source
from metgan_dist.synthesis.insertion_sources import Sources
from metgan_dist.synthesis.learned_image import Learned
from metgan_dist.volumes.labelled import LabelledVolume
from metgan_dist.volumes.volume import Spacing

ALIKE = 0.01  # of a voxel's size: what two grids may differ by
APART = 0.1  # of a voxel's size: from here on a line says that the pyramid has learned others


def check_image(learned: Learned, sets: Mapping[str, Sources]) -> None:
    """UserError where the volume that a SinGAN has learned, or its patient, is held out in one of the data sets."""
    image = learned.image
    for field, found in sets.items():
        for entry in found.held_out:
            if entry.id == image["volume"] or (entry.patient and entry.patient == image["patient"]):
                raise UserError(
                    f"insertion.model: {learned.model.uri} has learned a slice of volume {image['volume']!r}, which is "
                    f"held out ({entry.split}) in {field} {found.data.path}; learn one that is trained on"
                )


def check_grids(settings: Insertion, cases: Sequence[Case], learned: Learned | None) -> Iterator[str]:
    """UserError where a tumour does not fit its volume by grid, voxel size or channels, or a slice the pyramid.

    Yields lines on what fits badly. Of the volumes headers alone are read.
    """
    opened: dict[tuple[str, str], LabelledVolume] = {}

    def volume_of(source: Source) -> LabelledVolume:
        return opened.setdefault((source.ref.base, source.ref.id), source.ref.open())

    lines = {}
    for case in cases:
        target, donor = volume_of(case.target), volume_of(case.donor)
        _check_channels(case, learned)
        if settings.place == "same" and settings.centre is None:
            try:
                target.check_same_grid(donor)
            except UserError as error:
                raise UserError(f"insertion.masks: {error}, or set insertion.place") from error
        _check_spacing(case, target.spacing, donor.spacing)
        if learned is not None:
            _check_edges(case.target.ref.id, target.shape, learned)
            if line := _unlike(target.spacing, learned):
                lines[line] = case.target.ref.id
    yield from (f"volume {name!r}: {line}" for line, name in lines.items())


def _check_channels(case: Case, learned: Learned | None) -> None:
    wanted = len(case.target.channels)
    if not case.donor.constant and len(case.donor.channels) != wanted:
        raise UserError(
            f"insertion.channel: the tumour of {case.donor.ref.id!r} has {len(case.donor.channels)} channel(s) "
            f"({', '.join(case.donor.channels)}), volume {case.target.ref.id!r} has {wanted}; name as many, or give "
            "insertion.intensity"
        )
    if learned is not None and learned.model.recipe.data.channel_numbers[1] != wanted:
        raise UserError(
            f"data.tumour: volume {case.target.ref.id!r} has {wanted} channel(s), and {learned.model.uri} has learned "
            f"an image of {learned.model.recipe.data.channel_numbers[1]}; name as many"
        )


def _check_spacing(case: Case, one: Spacing | None, other: Spacing | None) -> None:
    if one is None or other is None:
        return
    own, theirs = (np.array([at.z, at.y, at.x]) for at in (one, other))
    if one.unit != other.unit or (np.abs(theirs - own) > ALIKE * own).any():
        raise UserError(
            f"insertion.masks: voxels of {case.donor.ref.id!r} are {_size(other)} (z, y, x), those of volume "
            f"{case.target.ref.id!r} {_size(one)}; resample one of them"
        )


def _size(at: Spacing) -> str:
    return f"{at.z:g} x {at.y:g} x {at.x:g}" + ("" if at.unit == "unknown" else f" {at.unit}")


def _check_edges(name: str, shape: tuple[int, ...], learned: Learned) -> None:
    least = SinGANRecipe.of(learned.model.recipe.method).coarsest
    edges = shape if learned.shape is not None else tuple(np.delete(shape, learned.axis))
    if min(edges) < least:
        what = "volume" if learned.shape is not None else "slices"
        raise UserError(
            f"data.path: volume {name!r} has {what} of {' x '.join(map(str, edges))} pixels, and the coarsest scale of "
            f"the pyramid alone has {least}; leave it out (insertion.volumes)"
        )


def _unlike(spacing: Spacing | None, learned: Learned) -> str | None:
    """A line where pixels are of another size than those that were learned."""
    if spacing is None:
        return None
    for axis, size in learned.spacing.items():
        own = getattr(spacing, axis)
        if size > 0 and abs(own - size) > APART * size:
            return f"its pixels are {own:g} along {axis}, those that the pyramid has learned {size:g}: textures differ"
    return None
