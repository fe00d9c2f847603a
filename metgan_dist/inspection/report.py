"""What was found, for a person: a table of the volumes, a line for each finding, pictures of the worst."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from metgan_dist.errors import UserError
from metgan_dist.figures import image_grid
from metgan_dist.inspection.finding import Finding
from metgan_dist.inspection.volume import Inspected, name_of, names_of, spacing_text
from metgan_dist.recipe import BACKGROUND, STORED

PICTURES = 8
EDGE = 256  # pixels of a picture, about
_MOST_CLASSES = 4  # in the line of a volume
_TITLES = ("volume", "domain", "voxels (z, y, x)", "voxel size", "lies", "type", "intensities", "label")


def table(volumes: Sequence[Inspected]) -> list[str]:
    """Lines with a volume each, under a line of titles; columns in which nothing stands are left out."""
    return _aligned([_TITLES, *(_row(volume) for volume in volumes)])


def class_table(volumes: Sequence[Inspected]) -> list[str]:
    """Lines with a class each, under a line of titles: its voxels, and the volumes that have it; none, no labels."""
    counts: dict[str, list[int]] = {}
    for volume in volumes:
        for name, count in volume.classes.items() if volume.read else ():
            counts.setdefault(name, []).append(count)
    rows = [(name, str(sum(own)), str(sum(count > 0 for count in own))) for name, own in counts.items()]
    return _aligned([("class", "voxels", "in volumes"), *rows]) if rows else []


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    lines = zip(*columns, strict=True)
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _row(found: Inspected) -> tuple[str, ...]:
    ref, image = found.ref, found.image
    if image is None:
        return (ref.id, ref.entry.domain or "", *[""] * (len(_TITLES) - 3), "cannot be opened")
    turned = ref.orientation not in (None, STORED, image.lies)
    lies = (image.lies or "") + (f" -> {ref.orientation}" if turned and image.lies else "")
    types = dict.fromkeys(str(image.dtype_of(channel)) for channel in image.channels)
    shape = " x ".join(map(str, image.shape))
    at = spacing_text(image.spacing) if image.spacing else ""
    return (
        ref.id,
        ref.entry.domain or "",
        shape,
        at,
        lies,
        ", ".join(types),
        _ranges(found, image.channels),
        _label(found),
    )


def _ranges(found: Inspected, channels: Sequence[str]) -> str:
    """Smallest and largest value of each channel."""
    texts = []
    for channel in channels:
        own = [measured for (name, _), measured in found.measured.items() if name == channel]
        if own:
            low, high = min(one.minimum for one in own), max(one.maximum for one in own)
            texts.append(f"{channel} {low:.5g} to {high:.5g}")
    return ", ".join(texts)


def _label(found: Inspected) -> str:
    """Voxels of the first classes that the label has, background left out."""
    if not found.read:
        return "cannot be read" if found.ref.labelled else "none"
    there = [f"{name} {count}" for name, count in found.classes.items() if count and name != BACKGROUND]
    more = len(there) - _MOST_CLASSES
    return (", ".join(there[:_MOST_CLASSES]) or "empty") + (f" and {more} more" if more > 0 else "")


def lines_of(findings: Sequence[Finding]) -> list[str]:
    """The findings, errors first, a line each."""
    return [str(finding) for finding in sorted(findings, key=lambda finding: finding.kind)]


def worst(volumes: Sequence[Inspected], findings: Sequence[Finding]) -> bytes | None:
    """PNG with a plane of each of the volumes that have most to be said against them; None where there is none to show.

    The first channel between its 1st and 99th percentile, and the label over it; what is no class stands out as one
    more.
    """
    by_id = {volume.ref.id: volume for volume in volumes}
    ordered = sorted(findings, key=lambda finding: finding.kind)
    cases = dict.fromkeys((finding.volume, finding.plane) for finding in ordered if finding.volume in by_id)
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    rows: list[str] = []
    for name, plane in cases:
        if len(images) == PICTURES:
            break
        with suppress(UserError):  # told of already
            image, label, shown = _pictures(by_id[name], plane)
            images.append(image)
            labels.append(label)
            rows.append(f"{name}, plane {shown}")
    return image_grid({"image": images, "label": labels}, rows=rows) if images else None


def _pictures(found: Inspected, plane: int | None) -> tuple[np.ndarray, np.ndarray, int]:
    """Image in [-1, 1] and label (y, x) of a plane, thinned out to about EDGE pixels, and the plane's number."""
    volume = found.image
    if volume is None:
        raise UserError(f"{found.ref.id}: cannot be opened")
    z, y, x = volume.shape
    at = z // 2 if plane is None else plane
    thin = slice(None, None, max(1, max(y, x) // EDGE))
    region = (at, at + 1), (0, y), (0, x)
    voxels = volume.read(volume.channels[0], region)[0][thin, thin].astype(np.float32)
    finite = np.nan_to_num(voxels, posinf=0, neginf=0)
    low, high = np.percentile(finite, (1, 99))
    image = np.clip(2 * (finite - low) / max(high - low, 1e-6) - 1, -1, 1)
    label = np.zeros(image.shape, np.int64)
    numbers = {name: number for number, name in enumerate(names_of(found.ref))}
    for own, (labels, channel) in (found.labels or {}).items() if found.read else ():
        stored = labels.read(channel, region)[0][thin, thin]
        for value in np.unique(stored):
            name = name_of(found.ref, own, float(value))
            if name != BACKGROUND:
                label[stored == value] = len(numbers) if name is None else numbers[name]
    return image, label, at
