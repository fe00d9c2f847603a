"""One volume of a data set, read to its end: its facts, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TypeVar

from metgan_dist.errors import UserError
from metgan_dist.inspection.finding import Finding, Kind
from metgan_dist.inspection.header import of_headers
from metgan_dist.inspection.measure import Intensities, LabelValues, intensities, label_values
from metgan_dist.recipe import BACKGROUND, STORED, class_names, class_numbers
from metgan_dist.volumes.label_map import ROUNDING, counts_text
from metgan_dist.volumes.labelled import VolumeRef, open_image, open_labels
from metgan_dist.volumes.laid_labels import OpenedLabel, own_labels
from metgan_dist.volumes.volume import Region, Spacing, Volume, whole

T = TypeVar("T")

# Of a scan in good order a few voxels have the largest value.
CLIPPED = 0.005
# Slices of 10 mm in a scan of 1.4 mm are usual; more is a mistake of units, or hardly a volume.
UNEQUAL = 10

_CONSTANT = "constant, {measured.minimum:g} everywhere"
_CLIPPED = "{measured.clipped:.1%} of the voxels have the largest value, {measured.maximum:g}: clipped?"
# What an image may suffer from: how bad that is, how it is told, and how much of it there is.
_KINDS: tuple[tuple[Kind, str, Callable[[Intensities], float]], ...] = (
    ("error", "{measured.not_finite} NaN or infinite voxels; replace them", lambda one: one.not_finite),
    ("error", _CONSTANT, lambda one: one.constant),
    ("warning", _CLIPPED, lambda one: one.clipped if one.clipped > CLIPPED and not one.constant else 0),
)


@dataclass
class Inspected:
    """What one volume is found to be.

    image, labels: opened, None where they cannot be, the labels by name; measured: intensities by (channel, plane), the
    plane of separate images, None of a volume as a whole; values: of each label that could be read.
    """

    ref: VolumeRef
    image: Volume | None = None
    labels: dict[str, OpenedLabel] | None = None
    measured: dict[tuple[str, int | None], Intensities] = field(default_factory=dict)
    values: dict[str, LabelValues] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @cached_property
    def classes(self) -> dict[str, int]:
        """Voxels of each class by its name, without what is no class, as each label file has them, also where another
        lies over it; to be asked for once `values` are read."""
        counts = dict.fromkeys(names_of(self.ref), 0)
        for label, values in self.values.items():
            for value, count in values.counts.items():
                name = name_of(self.ref, label, value)
                if name is not None:
                    counts[name] += count
        return counts

    @property
    def read(self) -> bool:
        """Whether all the labels that the volume has were read, be they none."""
        return self.ref.labelled and self.labels is not None and self.labels.keys() == self.values.keys()

    def name(self, plane: int | None) -> str:
        """What messages call a separate image, or "" for the whole volume."""
        names = self.image.names if self.image is not None else None
        return "" if plane is None or names is None else f"image '{names[plane]}'"


def names_of(ref: VolumeRef) -> tuple[str, ...]:
    """Names of the classes by number: those of `labels`, else the numbers."""
    if ref.labels is not None:
        return class_names(ref.labels)
    return BACKGROUND, *(f"class {number}" for number in range(1, ref.classes))


def name_of(ref: VolumeRef, label: str, value: float) -> str | None:
    """The class that a value of a label file is, None where it is none."""
    nearest = round(value) if abs(value) < 2**53 else None  # NaN and infinity are none
    if nearest is None or abs(nearest - value) > ROUNDING:
        return None
    if ref.labels is None:
        return names_of(ref)[nearest] if 0 <= nearest < ref.classes else None
    number = class_numbers(own_labels(label, ref.labels), ref.labels).get(nearest)
    return None if number is None else names_of(ref)[number]


def inspect(ref: VolumeRef) -> Inspected:
    """Open and read all of a volume and its label; whatever is wrong becomes a finding and stops nothing else."""
    found = Inspected(ref)
    image = found.image = _tried(found, partial(open_image, ref))
    if image is None:
        return found
    _tried(found, ref.open)  # what a training would say of it
    found.labels = _tried(found, partial(open_labels, ref, image))
    _measure(found, image)
    found.findings += _tried(found, lambda: list(of_headers(ref))) or []
    found.findings += [*_of_grid(ref, image), *_of_intensities(found), *_of_label(found)]
    return found


def _tried(found: Inspected, work: Callable[[], T]) -> T | None:
    """What the work gives; None where it meets a mistake, which becomes a finding, once."""
    try:
        return work()
    except UserError as error:
        finding = Finding("error", found.ref.id, str(error))
        if finding not in found.findings:
            found.findings.append(finding)
        return None


def _measure(found: Inspected, image: Volume) -> None:
    labels = found.labels or {}
    for channel in image.channels:
        if (image, channel) in labels.values():
            continue
        for plane, region in _items(image):
            measured = _tried(found, partial(intensities, image, channel, region))
            if measured is not None:
                found.measured[channel, plane] = measured
    for name, (volume, channel) in labels.items():
        values = _tried(found, partial(label_values, volume, channel, whole(volume)))
        if values is not None:
            found.values[name] = values


def _items(image: Volume) -> Iterator[tuple[int | None, Region]]:
    """The whole volume, or each of separate images."""
    z, rows, columns = whole(image)
    if image.names is None:
        yield None, (z, rows, columns)
        return
    for plane in range(*z):
        yield plane, ((plane, plane + 1), rows, columns)


def _of_grid(ref: VolumeRef, image: Volume) -> Iterator[Finding]:
    at = image.spacing
    if at is None:
        if image.names is None:
            yield Finding("warning", ref.id, "its voxel size is not known; state `spacing` and `unit` if you know it")
        return
    sizes = (at.z, at.y, at.x)
    if max(sizes) > UNEQUAL * min(sizes):
        what = f"voxels of {spacing_text(at)} (z, y, x): more than {UNEQUAL} times as long along one axis as another"
        yield Finding("warning", ref.id, what)


def _of_intensities(found: Inspected) -> Iterator[Finding]:
    """A line for each kind of damage and channel; of separate images it names the worst and says how many are alike."""
    for channel in dict.fromkeys(channel for channel, _ in found.measured):
        own = {plane: measured for (name, plane), measured in found.measured.items() if name == channel}
        for kind, what, damage in _KINDS:
            hit = {plane: damage(measured) for plane, measured in own.items() if damage(measured)}
            if hit:
                plane = max(hit, key=hit.__getitem__)
                where = f", {found.name(plane)}" if plane is not None else ""
                more = f" (and {len(hit) - 1} more of {len(own)} images)" if len(hit) > 1 else ""
                # One empty image among many is usual; a volume without contrast has no range.
                severity: Kind = "warning" if plane is not None and what == _CONSTANT else kind
                text = what.format(measured=own[plane])
                yield Finding(severity, found.ref.id, f"channel '{channel}'{where}: {text}{more}", plane)


def _of_label(found: Inspected) -> Iterator[Finding]:
    """Values that are no class, no integers, or nothing but background."""
    for name, values in found.values.items():
        yield from _of_file(found, name, values)


def _of_file(found: Inspected, label: str, values: LabelValues) -> Iterator[Finding]:
    ref = found.ref
    assert found.labels is not None
    volume, channel = found.labels[label]
    uri = volume.uri_of(channel)
    named = {value: name_of(ref, label, value) for value in values.counts}
    strange = [value for value, name in named.items() if name is None]
    mixed = [value for value in strange if not abs(value - round(value, 0)) <= ROUNDING]  # NaN is mixed, too
    unknown = [value for value in strange if value not in mixed]
    if mixed:
        count, shown = sum(values.counts[value] for value in mixed), ", ".join(f"{value:g}" for value in mixed[:5])
        what = f"{uri}: {count} label voxels are no integers ({shown}), as if the label had been interpolated"
        yield Finding("error", ref.id, f"{what}; save it again with nearest neighbours", values.first[mixed[0]])
    if unknown:
        counts, plane = {round(value): values.counts[value] for value in unknown}, values.first[unknown[0]]
        yield _unknown(ref, f"{uri}: label value {counts_text(counts)}, first in plane {plane}", plane)
    if values.full:
        yield Finding("error", ref.id, f"{uri}: more values than any label has; is it an image?")
    elif not strange and not any(count for value, count in values.counts.items() if named[value] != BACKGROUND):
        yield Finding("warning", ref.id, f"{uri}: an empty label, nothing but background")


def _unknown(ref: VolumeRef, what: str, plane: int) -> Finding:
    """Values that are no class: a mistake, unless the set makes them background."""
    if ref.labels is None:
        return Finding("error", ref.id, f"{what}, but data.classes is {ref.classes} (0 to {ref.classes - 1})", plane)
    if ref.unmapped is None:
        return Finding("error", ref.id, f"{what}: not in `labels`; name it, or set `unmapped: background`", plane)
    return Finding("warning", ref.id, f"{what}: not in `labels`, becomes background", plane)


def lies_as_stored(found: Inspected) -> str | None:
    """Towards which sides the file's axes run, where it is read as it lies."""
    as_stored = found.ref.orientation in (None, STORED)
    return found.image.lies if found.image is not None and as_stored else None


def spacing_text(at: Spacing) -> str:
    """Voxel size (z, y, x) with its unit: `5 x 0.75 x 0.75 millimeter`."""
    return f"{at.z:.4g} x {at.y:.4g} x {at.x:.4g}" + ("" if at.unit == "unknown" else f" {at.unit}")
