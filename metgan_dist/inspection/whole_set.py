"""What shows only when all volumes of a data set are seen together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from metgan_dist.errors import UserError
from metgan_dist.inspection.finding import Finding
from metgan_dist.inspection.volume import Inspected, lies_as_stored, names_of, spacing_text
from metgan_dist.recipe import BACKGROUND
from metgan_dist.tiles.splits import fixed_sides
from metgan_dist.tiles.survey import patients_of
from metgan_dist.volumes.orientation import several_ways

# Voxel sizes of one kind of scan differ by less.
UNLIKE = 3
# Scanners differ tenfold in what they write for one tissue; what differs more is in another unit.
OTHER_UNIT = 100


def of_the_set(volumes: Sequence[Inspected]) -> Iterator[Finding]:
    """Findings on volumes that do not go together."""
    opened = [volume for volume in volumes if volume.image is not None]
    yield from _roles(opened)
    yield from _orientations(opened)
    yield from _sizes(opened)
    yield from _intensities(opened)
    yield from _patients(opened)
    yield from _twins(opened)
    yield from _absent_classes(opened)
    yield from _made_tissue(opened)


def _roles(volumes: Sequence[Inspected]) -> Iterator[Finding]:
    """Within a domain all volumes have a label, or none."""
    for domain in dict.fromkeys(volume.ref.entry.domain for volume in volumes):
        own = [volume for volume in volumes if volume.ref.entry.domain == domain]
        # One whose label is there but broken is told of already.
        has = [volume for volume in own if volume.ref.labelled]
        for lacks in own if has else ():
            if lacks not in has:
                yield Finding("error", lacks.ref.id, f"has no label, '{has[0].ref.id}' has one; all must have the same")


def _made_tissue(volumes: Sequence[Inspected]) -> Iterator[Finding]:
    """Maps of tissues that nobody has drawn, told of the first, of which there is then a picture."""
    made = [volume.ref.id for volume in volumes if volume.ref.makes_tissue]
    if made:
        more = f" and those of {len(made) - 1} more were" if len(made) > 1 else " was"
        what = f"its map of tissues{more} drawn by nobody, but made of the image by k-means (data.tissue_map)"
        yield Finding("warning", made[0], f"{what}; look at it before you rely on it")


def _orientations(volumes: Sequence[Inspected]) -> Iterator[Finding]:
    if each := several_ways((volume.ref.id, lies_as_stored(volume)) for volume in volumes):
        yield Finding("warning", "", f"{each}; set `orientation: RAS`")


def _sizes(volumes: Sequence[Inspected]) -> Iterator[Finding]:
    """Voxel sizes in several units, or far from those of the other volumes."""
    known = [(volume, volume.image.spacing) for volume in volumes if volume.image and volume.image.spacing]
    units = {at.unit: volume.ref.id for volume, at in known}
    if len(units) > 1:
        each = ", ".join(f"'{name}' in {unit}" for unit, name in units.items())
        yield Finding("warning", "", f"voxel sizes have several units: {each}; state `unit` where it is wrong")
        return
    usual = np.median([(at.z, at.y, at.x) for _, at in known], axis=0) if known else np.ones(3)
    for volume, at in known:
        ratio = np.array((at.z, at.y, at.x)) / usual
        if (ratio > UNLIKE).any() or (ratio < 1 / UNLIKE).any():
            what = f"voxels of {spacing_text(at)} (z, y, x), unlike the others' {' x '.join(f'{s:.4g}' for s in usual)}"
            yield Finding("warning", volume.ref.id, what)


def _intensities(volumes: Sequence[Inspected]) -> Iterator[Finding]:
    """Channels whose intensities are far from those of the other volumes."""
    spans: dict[str, list[tuple[str, float]]] = {}
    for volume in volumes:
        for (channel, plane), measured in volume.measured.items():
            if plane is None and measured.maximum > measured.minimum:
                spans.setdefault(channel, []).append((volume.ref.id, measured.maximum - measured.minimum))
    for channel, own in spans.items():
        usual = float(np.median([span for _, span in own]))
        for name, span in own:
            if not usual / OTHER_UNIT <= span <= usual * OTHER_UNIT:
                what = f"channel '{channel}': its values span {span:.3g}, the others' {usual:.3g}; in another unit?"
                yield Finding("warning", name, what)


def _patients(volumes: Sequence[Inspected]) -> Iterator[Finding]:
    rows = [row for one in volumes for row in patients_of(one.ref, one.image.table if one.image else None)]
    try:
        fixed_sides(pd.DataFrame(rows, columns=["volume", "patient", "fixed"]))
    except UserError as error:
        yield Finding("error", "", str(error))


def _twins(volumes: Sequence[Inspected]) -> Iterator[Finding]:
    """Images with the same voxels: one could be trained on, and the other held out.

    Two channels of one image, or volumes of one patient, who stays on one side, are no danger to the scores.
    """
    seen: dict[tuple[int, int, float], tuple[Inspected, str, int | None]] = {}
    for volume in volumes:
        for (channel, plane), measured in volume.measured.items():
            if measured.constant:
                continue  # told of already
            key = measured.digest, measured.voxels, measured.maximum
            if key not in seen:
                seen[key] = volume, channel, plane
                continue
            first, its_channel, its_plane = seen[key]
            own, other = _called(volume, channel, plane), _called(first, its_channel, its_plane)
            one_patient = volume.ref.patient is not None and volume.ref.patient == first.ref.patient
            harmless = one_patient or (first is volume and its_plane == plane)
            what = f"{own} has the same voxels as {other} of '{first.ref.id}'"
            yield Finding("warning" if harmless else "error", volume.ref.id, what, plane)


def _called(volume: Inspected, channel: str, plane: int | None) -> str:
    return " of ".join(part for part in (f"channel '{channel}'", volume.name(plane)) if part)


def _absent_classes(volumes: Sequence[Inspected]) -> Iterator[Finding]:
    """Classes that no label has, though there are labels."""
    read = [volume for volume in volumes if volume.read]
    for name in dict.fromkeys(name for volume in read for name in names_of(volume.ref)):
        if name != BACKGROUND and not any(volume.classes.get(name) for volume in read):
            yield Finding("warning", "", f"no label has a voxel of '{name}'")
