"""One tumour put into one volume: cut out, laid, pasted or harmonised slice by slice, written, and scored."""

from __future__ import annotations

import math
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from metgan_dist.errors import UserError
from metgan_dist.recipe import Insertion, Tiles
from metgan_dist.scores.insertion import background_difference, border_scores, contrast
from metgan_dist.storage import Options
from metgan_dist.synthesis.filling import RSS_UNIT
from metgan_dist.synthesis.pasting import Corner, Range, Tumour, blended, blending, tissue_of
from metgan_dist.synthesis.replica import Replica
from metgan_dist.synthesis.volume_files import Made, voxels_digest, write_made
from metgan_dist.volumes.labelled import LabelledVolume, VolumeRef
from metgan_dist.volumes.layers import layers_of
from metgan_dist.volumes.volume import whole

LEVELS = 256  # evenly spaced quantiles that stand for the intensities of a tumour
CONTEXT = 16  # voxels about what is blended that a pyramid of volumes sees besides
Harmonise = Callable[[np.ndarray, list[int]], np.ndarray]
"""An image (C, [D,] H, W) in [-1, 1] made anew from a scale on, by a seed."""


@dataclass(frozen=True)
class Source:
    """A volume that gets a tumour or gives one.

    tumour: the class of its labels that is the tumour, 0 for none; constant: it is a mask without an image, or one
    whose image is not asked for; rules: by which its intensities become levels; origin: id of the volume that it was
    made from, of a synthetic set, else its own.
    """

    ref: VolumeRef
    tumour: int
    rules: Tiles
    origin: str
    constant: bool = False

    @property
    def role(self) -> str:
        """The role of its image."""
        return "tumour" if self.ref.tumour else "anatomy"

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of its image's channels; none where it has no image that counts."""
        return () if self.constant else self.ref.tumour or self.ref.anatomy


@dataclass(frozen=True)
class Case:
    """A volume that is to be made, small enough to travel: number and name in the set, who gets the tumour of whom."""

    number: int
    name: str
    target: Source
    donor: Source


@dataclass(frozen=True)
class Inserting:
    """What all volumes share.

    model: checkpoint, None where tumours are pasted as they are; axis: along which slices follow each other; learned:
    shape of the volume that a pyramid of volumes has learned, None for slices; classes: names of the classes that are
    written, background first; tumour: the one that is the tumour's; kept: whether a volume's other labels are written,
    too; form: as `write_made` has it; folder: of the data set.
    """

    model: str | None
    settings: Insertion
    axis: int
    learned: tuple[int, ...] | None
    classes: tuple[str, ...]
    tumour: int
    kept: bool
    form: str
    folder: str
    precision: str
    device: str
    options: Options = field(repr=False)  # may hold a secret


@dataclass(frozen=True)
class Scene:
    """A volume and the tumour that is laid into it, slices first: image (C, slices, H, W), labels (slices, H, W).

    range: of the image; mask: bool, not empty; tumour: levels (C, slices, H, W), 0 around it; corner: voxel z, y, x of
    the volume at which the tumour's box begins; digests: of the voxels that all this was read from; contrast: of the
    tumour in the image that it was cut out of, None where there is none.
    """

    image: np.ndarray
    label: np.ndarray | None
    range: Range
    mask: np.ndarray
    tumour: np.ndarray
    corner: Corner
    digests: dict[str, str]
    contrast: float | None


def opened_scene(case: Case, job: Inserting) -> Scene:
    """A case as it is before anything is pasted; UserError for one without a tumour, or whose tumour lies outside."""
    target = case.target.ref.open()
    image = _image(target, case.target)
    moved = np.moveaxis(image, 1 + job.axis, 1)
    own = Range.of(moved, case.target.rules)
    tumour, digests, own_contrast = _tumour(case, job, image.shape)
    corner = _corner(tumour, np.moveaxis(own.levels(moved), 1, 1 + job.axis), case, job)
    mask, levels = tumour.laid(corner, image.shape[1:])
    label = target.read("label", whole(target)) if target.has("label") else None
    return Scene(
        image=moved,
        label=None if label is None else np.moveaxis(label, job.axis, 0),
        range=own,
        mask=np.moveaxis(mask, job.axis, 0),
        tumour=np.moveaxis(levels, 1 + job.axis, 1),
        corner=corner,
        digests={"source_sha256": voxels_digest([image]), **digests},
        contrast=own_contrast,
    )


def _corner(tumour: Tumour, levels: np.ndarray, case: Case, job: Inserting) -> Corner:
    """Where a tumour goes in a volume of these levels (C, z, y, x); UserError where that is not within it."""
    settings, shape, name = job.settings, levels.shape[1:], case.target.ref.id
    if settings.centre is None and settings.place == "tissue":
        tissue = tissue_of(np.moveaxis(levels, 1 + job.axis, 1), settings.tissue)
        random = np.random.default_rng([settings.seed, case.number])
        return tumour.drawn_corner(
            np.moveaxis(tissue, 0, job.axis), random, name=name, inside=settings.inside, tries=settings.tries
        )
    corner = tumour.corner if settings.centre is None else tumour.about(settings.centre)
    if not tumour.fits(corner, shape):
        extent, whole_of = (" x ".join(map(str, edges)) for edges in (tumour.mask.shape, shape))
        raise UserError(
            f"insertion.{'masks' if settings.centre is None else 'centre'}: the tumour of {case.donor.ref.id!r}, "
            f"{extent} voxels from z, y, x {corner} on, reaches outside of volume {name!r}, which has {whole_of}"
        )
    return corner


def composed(scene: Scene, case: Case, job: Inserting, harmonise: Harmonise | None) -> tuple[np.ndarray, np.ndarray]:
    """(image with the tumour (C, slices, H, W), where it may differ from the scene's, bool (slices, H, W)).

    Without `harmonise` the tumour is pasted within its mask. With it each slice that has tumour, or of a pyramid of
    volumes the box about the tumour, is made anew and blended with what was there. The background is that of the slice
    at hand. Raises UserError for a slice that is constant, which no tumour belongs into.
    """
    made, touched = scene.image.copy(), np.zeros(scene.mask.shape, bool)
    for part in _parts(scene, job):
        source, mask, own = scene.image[:, *part], scene.mask[part], scene.range.part(part[0])
        _check_varied(source, part[0].start, case)
        levels = np.where(mask, np.clip(scene.tumour[:, *part] * job.settings.contrast, 0, 1), own.levels(source))
        weight = mask.astype(np.float64)
        if harmonise is not None:
            flat = job.learned is None
            fed = np.ascontiguousarray(2 * (levels[:, 0] if flat else levels) - 1, np.float32)
            seed = [job.settings.seed, case.number, part[0].start]
            again = (harmonise(fed, seed) + 1) / 2
            levels = again[:, None] if flat else again
            soft = blending(mask[0] if flat else mask, job.settings.dilate, job.settings.blur)
            weight = soft[None] if flat else soft
        made[:, *part] = blended(source, own.intensities(levels), weight)
        touched[part] = weight > 0
    return made, touched


def _parts(scene: Scene, job: Inserting) -> Iterator[tuple[slice, slice, slice]]:
    """Slices with tumour one by one; or a box about all of it, with what is around, no smaller than the learned one."""
    mask, settings = scene.mask, job.settings
    planes = np.flatnonzero(mask.any(axis=(1, 2)))
    if job.learned is None:
        yield from ((slice(int(plane), int(plane) + 1), slice(None), slice(None)) for plane in planes)
        return
    reach = settings.dilate + math.ceil(4 * settings.blur) + CONTEXT
    box = []
    for axis, (length, least) in enumerate(zip(mask.shape, job.learned, strict=True)):
        filled = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        low, high = int(filled[0]) - reach, int(filled[-1]) + 1 + reach
        size = min(length, max(high - low, least))
        first = min(max(0, low - max(0, size - (high - low)) // 2), length - size)
        box.append(slice(first, first + size))
    yield box[0], box[1], box[2]


def _check_varied(source: np.ndarray, plane: int, case: Case) -> None:
    if any(channel.min() == channel.max() for channel in source):
        raise UserError(
            f"insertion.volumes: slice {plane} of volume {case.target.ref.id!r}, into which the tumour of "
            f"{case.donor.ref.id!r} goes, is constant; put it elsewhere (insertion.centre), or leave the volume out"
        )


def moved_image(source: Source, axis: int) -> np.ndarray:
    """All channels of a volume's image, (C, slices, H, W), slices following each other along an axis z, y, x."""
    return np.moveaxis(_image(source.ref.open(), source), 1 + axis, 1)


def moved_label(source: Source, axis: int) -> np.ndarray:
    """Where a volume has a tumour of its own, bool (slices, H, W)."""
    volume = source.ref.open()
    return np.moveaxis(volume.read("label", whole(volume)) == source.tumour, axis, 0)


def _image(volume: LabelledVolume, source: Source) -> np.ndarray:
    """All channels of a volume's image, (C, z, y, x)."""
    layers = layers_of(source.role, len(source.channels))
    return np.stack([volume.read(layer, whole(volume)) for layer in layers])


def _tumour(case: Case, job: Inserting, shape: tuple[int, ...]) -> tuple[Tumour, dict[str, str], float | None]:
    """The tumour that a case gets, digests of what it was cut out of, and its contrast there, None without an image;
    shape: (C, z, y, x) of the target's image."""
    donor, settings = case.donor, job.settings
    volume = donor.ref.open()
    label = volume.read("label", whole(volume))
    mask = label == donor.tumour
    if not mask.any():
        raise UserError(
            f"insertion.masks: {donor.ref.id!r} has no voxel of {job.classes[job.tumour]!r}, so that there is no "
            f"tumour to put into volume {case.target.ref.id!r}; leave it out (insertion.volumes)"
        )
    digests = {"mask_sha256": voxels_digest([label])}
    if settings.intensity is not None:
        return Tumour.cut(mask, np.full((shape[0], *mask.shape), settings.intensity, np.float32)), digests, None
    image = _image(volume, donor)
    moved = np.moveaxis(image, 1 + job.axis, 1)
    levels = Range.of(moved, donor.rules).levels(moved)
    own_contrast = contrast(levels.mean(axis=0), np.moveaxis(mask, job.axis, 0))
    cut = Tumour.cut(mask, np.moveaxis(levels, 1, 1 + job.axis))
    return cut, {**digests, "tumour_sha256": voxels_digest([image])}, own_contrast


class Inserter:
    """Makes volumes, each held in memory, with one replica of the pyramid or what stands for it."""

    def __init__(self, job: Inserting, harmonise: Harmonise | None = None) -> None:
        self._job, self._harmonise = job, harmonise
        if harmonise is None and job.model is not None:
            self._harmonise = _harmoniser(job)

    def insert(self, case: Case) -> dict[str, Any]:
        """Write a volume; its entry in the dataset.yaml, digests, scores, and quantiles of its tumour's levels."""
        job = self._job
        scene = opened_scene(case, job)
        image, touched = composed(scene, case, job, self._harmonise)
        label = self._label(scene, case)
        entry = self._written(case, scene, image, label)
        shown = scene.range.levels(image).mean(axis=0)
        naive = image if self._harmonise is None else composed(scene, case, job, None)[0]
        scores = {
            **border_scores(shown, scene.mask),
            **{f"naive_{name}": value for name, value in _ratios(scene, naive).items()},
            **_contrasts(scene, shown, scene.range.levels(naive).mean(axis=0)),
            "background_difference": background_difference(image, scene.image, touched),
        }
        planes = np.flatnonzero(scene.mask.any(axis=(1, 2)))
        return {
            "id": case.name,
            "number": case.number,
            "entry": entry,
            "voxels_sha256": voxels_digest([image, label]),
            **scene.digests,
            "corner": list(scene.corner),
            "voxels": int(scene.mask.sum()),
            "slices": [int(planes[0]), int(planes[-1]) + 1],
            "largest": int(scene.mask.sum(axis=(1, 2)).argmax()),
            "scores": {
                name: value if value is not None and math.isfinite(value) else None for name, value in scores.items()
            },
            "levels": quantiles(shown[scene.mask]),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT,
        }

    def _label(self, scene: Scene, case: Case) -> np.ndarray:
        """The label that is written, slices first: the volume's own as far as it is kept, and the tumour over it."""
        label = np.zeros(scene.mask.shape, np.uint8)
        if scene.label is not None:
            label = scene.label.copy() if self._job.kept else label
            if case.target.tumour:
                label[scene.label == case.target.tumour] = self._job.tumour
        label[scene.mask] = self._job.tumour
        return label

    def _written(self, case: Case, scene: Scene, image: np.ndarray, label: np.ndarray) -> dict[str, Any]:
        job, volume = self._job, case.target.ref.open()
        windows = [
            (float(low.min()), float(high.max())) for low, high in zip(scene.range.low, scene.range.high, strict=True)
        ]
        made = Made(
            case.name,
            case.target.channels,
            np.moveaxis(image, 1, 1 + job.axis),
            np.moveaxis(label, 0, job.axis),
            {number: name for number, name in enumerate(job.classes) if number},
            volume.spacing,
            volume.affine,
            volume.lies,
            None,
            None,
            windows,
        )
        return write_made(made, job.form, job.folder, job.options)


def inserter(job: Inserting) -> Callable[[Case], dict[str, Any]]:
    """`Inserter.insert` with a pyramid that is loaded once."""
    return Inserter(job).insert


def measured(axis: int, source: Source) -> dict[str, Any] | None:
    """Of a volume's own tumour the quantiles of its `levels` and its `contrast`; None where it has none."""
    mask = moved_label(source, axis)
    if not mask.any():
        return None
    image = moved_image(source, axis)
    levels = Range.of(image, source.rules).levels(image).mean(axis=0)
    return {"levels": quantiles(levels[mask]), "contrast": contrast(levels, mask)}


def quantiles(levels: np.ndarray) -> list[float]:
    """`LEVELS` evenly spaced quantiles of levels, rounded to what 16 bits tell apart."""
    return [round(float(level), 5) for level in np.quantile(levels, np.linspace(0, 1, LEVELS))]


def _ratios(scene: Scene, image: np.ndarray) -> dict[str, float]:
    found = border_scores(scene.range.levels(image).mean(axis=0), scene.mask)
    return {name: found[name] for name in ("border_ratio", "seam_ratio")}


def _contrasts(scene: Scene, made: np.ndarray, naive: np.ndarray) -> dict[str, float | None]:
    """How far the tumour stands out: made, pasted, before anything was, and where it was cut out of."""
    before = scene.range.levels(scene.image).mean(axis=0)
    return {
        "contrast": contrast(made, scene.mask),
        "naive_contrast": contrast(naive, scene.mask),
        "contrast_before": contrast(before, scene.mask),
        "contrast_of_donor": scene.contrast,
    }


def _harmoniser(job: Inserting) -> Harmonise:
    assert job.model is not None
    assert job.settings.start_scale is not None
    replica = Replica.of_volumes(
        job.model, device=job.device, precision=job.precision, threads=job.settings.threads, options=job.options
    )
    start = job.settings.start_scale
    return lambda image, seed: replica.harmonise(image, start, seed)
