"""One volume labelled by a trained segmentor: read, brought to the network's voxels, found, brought back, written."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy
import torch

from metgan_dist.recipe import Tiles
from metgan_dist.scores.labels import mean_dice, tile_counts
from metgan_dist.scores.lesions import components
from metgan_dist.scores.surface import surface_distances
from metgan_dist.storage import Options
from metgan_dist.synthesis.filling import RSS_UNIT
from metgan_dist.synthesis.replica import Replica
from metgan_dist.synthesis.translating import TILE_PIXELS, as_values, batches, network_edges, normalised
from metgan_dist.synthesis.volume_files import Made, voxels_digest, write_made
from metgan_dist.synthesis.voxel_grid import VoxelGrid
from metgan_dist.tasks.joined import MILLIMETRES
from metgan_dist.tasks.seen_through import Translator
from metgan_dist.tiles.cut import resample
from metgan_dist.tiles.intensity import Histogram
from metgan_dist.tiles.ranges import range_of
from metgan_dist.volumes.labelled import LabelledVolume, VolumeRef
from metgan_dist.volumes.layers import layers_of
from metgan_dist.volumes.volume import whole

ENDING = "found"  # of the names of what is written


@dataclass(frozen=True)
class Labelling:
    """What all volumes share, small enough to travel.

    segmentor: checkpoint; tiles: the section that its tiles were cut with; threshold: probability above which a voxel
    is no background; translator: checkpoint of what brings images into its domain first, None for nothing, with the
    edges of its tiles in `window`, `back` from its target to its source; label_values: what is written of each class,
    background first; classes: names of the written values; truth: whether labels of the volumes have the same classes;
    form, folder: as `write_made` has them; at_once: tiles in one forward pass.
    """

    segmentor: str
    tiles: Tiles
    threshold: float
    translator: str | None
    window: tuple[int, ...]
    back: bool
    label_values: tuple[int, ...]
    classes: dict[int, str]
    truth: bool
    form: str
    folder: str
    overlap: float
    at_once: int
    precision: str
    threads: int
    device: str
    options: Options = field(repr=False)  # may hold a secret


class Labeller:
    """Labels whole volumes, each held in memory, with one replica of the segmentor, and of the translator if any."""

    def __init__(self, job: Labelling) -> None:
        self._job = job
        self._segmentor = self._loaded(job.segmentor)
        self._translator = None
        if job.translator is not None:
            self._translator = Translator(self._loaded(job.translator).method, job.window, job.back)

    def _loaded(self, model: str) -> Replica:
        job = self._job
        replica = Replica(
            model, None, device=job.device, precision=job.precision, threads=job.threads, options=job.options
        )
        replica.keep(tuple(replica.method.networks))
        return replica

    def label(self, ref: VolumeRef) -> dict[str, Any]:
        """Write the label of one volume; its files, its SHA-256, what was found, and scores where it has a true one."""
        job, volume = self._job, ref.open()
        image = self._image(ref, volume)
        label = most_likely(self._chances(as_network_sees(image, volume, job.tiles)), volume.shape, job.threshold)
        written = as_values(label, job.label_values)
        return {
            "name": ref.id,
            "entry": self._write(ref, volume, image, written),
            "sha256": voxels_digest([written]),
            "shape": list(volume.shape),
            "voxels": np.bincount(label.ravel(), minlength=len(job.label_values)).tolist(),
            "plane": int((label > 0).sum(axis=(1, 2)).argmax()),
            "objects": objects(label, image[0], _edges(volume), separate=volume.names is not None),
            "scores": self._scores(label, volume),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT,
        }

    def _write(self, ref: VolumeRef, volume: LabelledVolume, image: np.ndarray, label: np.ndarray) -> dict[str, Any]:
        """Write what was found; `label` of the volume's entry in a data set, and `path` where the image went along.

        An OME-Zarr has its labels within itself, so the image is written beside them; other labels are files alone.
        """
        job, alone = self._job, self._job.form != "ome-zarr"
        made = Made(
            f"{ref.id}-{ENDING}",
            ("",) if alone else ref.tumour,
            label[None] if alone else image,
            None if alone else label,
            job.classes,
            volume.spacing,
            volume.affine,
            volume.lies,
            volume.names,
            None,
            [(float(channel.min()), float(channel.max())) for channel in (label[None] if alone else image)],
        )
        entry = write_made(made, job.form, job.folder, job.options)
        return {"label": entry["path"]} if alone else {name: entry[name] for name in ("path", "label")}

    def _image(self, ref: VolumeRef, volume: LabelledVolume) -> np.ndarray:
        """(C, z, y, x) as the file has it."""
        return np.stack([volume.read(layer, whole(volume)) for layer in layers_of("tumour", len(ref.tumour))])

    def _chances(self, image: np.ndarray) -> np.ndarray:
        """Probabilities (classes - 1, z, y, x) of an image (C, z, y, x) in [-1, 1] on the network's voxels."""
        if self._job.tiles.dimensions == 3:
            return self._found(image[None])[0]
        planes = [self._found(image[:, some].swapaxes(0, 1)) for some in batches(image.shape[1], self._job.at_once)]
        return np.concatenate(planes).swapaxes(0, 1)

    def _found(self, images: np.ndarray) -> np.ndarray:
        """Of images (N, C, [D,] H, W), resized as a whole where the tiles were."""
        job, edges = self._job, images.shape[2:]
        if self._translator is not None:
            given = torch.from_numpy(np.ascontiguousarray(images, np.float32)).to(job.device)
            images = self._translator(given).float().clamp(-1, 1).cpu().numpy()
        inner = network_edges(job.tiles, edges)
        if inner != edges:
            images = np.stack([[resample(one, inner, is_label=False) for one in own] for own in images])
        found = self._segmentor.chances(
            np.ascontiguousarray(images, np.float32),
            job.tiles.shape,
            overlap=job.overlap,
            at_once=max(1, job.at_once * TILE_PIXELS // int(np.prod(job.tiles.shape))),
        )
        if inner != edges:
            found = np.stack([[resample(one, edges, is_label=False) for one in own] for own in found])
        return found

    def _scores(self, label: np.ndarray, volume: LabelledVolume) -> dict[str, float | None]:
        """`dice_k`, `assd_k`, `hd95_k` of each class k, None where there is none; nothing without a true label."""
        if not self._job.truth or not volume.has("label"):
            return {}
        classes = len(self._job.label_values)
        maps = [torch.from_numpy(one.astype(np.uint8))[None] for one in (label, volume.read("label", whole(volume)))]
        counts = tile_counts(maps[0], maps[1], classes)
        scores = {
            f"dice_{k}": float(mean_dice(np.array([[counts[f"overlap_{k}"][0], counts[f"size_{k}"][0]]])))
            for k in range(1, classes)
        }
        if volume.names is None:  # between separate images there is no distance
            distances = surface_distances(maps[0], maps[1], classes, _edges(volume))
            scores |= {name: float(values[0]) for name, values in distances.items()}
        return {name: None if np.isnan(value) else value for name, value in scores.items()}


def labeller(job: Labelling) -> Callable[[VolumeRef], dict[str, Any]]:
    """`Labeller.label` with models that are loaded once."""
    return Labeller(job).label


def as_network_sees(image: np.ndarray, volume: LabelledVolume, tiles: Tiles) -> np.ndarray:
    """An image (C, z, y, x) of a whole volume as tiles cut by `tiles` have it: their voxels, in [-1, 1].

    Ranges are the volume's own, of each plane where tiles had one for each; tiles with a range each get the volume's.
    """
    grid, seen = VoxelGrid.over(tiles, volume), []
    for channel in image:
        ends = range_of(Histogram.of(channel), tiles) if tiles.normalise_over == "volume" else None
        seen.append(normalised(grid.brought(channel, is_label=False), tiles, ends))
    return np.stack(seen)


def most_likely(chances: np.ndarray, shape: tuple[int, ...], threshold: float) -> np.ndarray:
    """Classes (z, y, x), uint8, on a grid of `shape`: the likeliest of (classes - 1, ...), if above the threshold.

    Probabilities are brought to the grid and not labels, whose edges would be as rough as the network's voxels.
    """
    best, label = np.full(shape, threshold, np.float32), np.zeros(shape, np.uint8)
    for number, own in enumerate(chances, start=1):  # one after another: all classes at once would fill the memory
        brought = own if own.shape == tuple(shape) else resample(own, tuple(shape), is_label=False)
        higher = brought > best
        label[higher], best[higher] = number, brought[higher]
    return label


def objects(
    label: np.ndarray, image: np.ndarray, edges: tuple[float, ...] | None, *, separate: bool = False
) -> list[dict[str, float | int | None]]:
    """What is connected, a row each: class, number, voxel z, y, x of its middle, voxels, mm3 if known, mean intensity.

    label: (z, y, x); image: the same, as the file has it; edges: of a voxel in mm; separate: planes are images apart.
    """
    rows: list[dict[str, float | int | None]] = []
    for k in np.unique(label[label > 0]).tolist():
        parts, count = _connected(label == k, separate)
        numbers = np.arange(1, count + 1)
        middles = scipy.ndimage.center_of_mass(parts > 0, parts, numbers)
        sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
        means = scipy.ndimage.mean(image, parts, numbers)
        for number, middle, size, mean in zip(numbers, middles, sizes, means, strict=True):
            z, y, x = (float(at) for at in middle)
            row = {"class": k, "object": int(number), "z": z, "y": y, "x": x, "voxels": int(size)}
            mm3 = None if edges is None else float(size * np.prod(edges))
            rows.append({**row, "mm3": mm3, "mean_intensity": float(mean)})
    return rows


def _connected(mask: np.ndarray, separate: bool) -> tuple[np.ndarray, int]:
    """As `components`, of separate images in each plane for itself."""
    if not separate:
        return components(mask)
    numbered, count = np.zeros(mask.shape, np.int32), 0
    for plane, own in zip(numbered, mask, strict=True):
        parts, more = components(own)
        plane[own] = parts[own] + count
        count += more
    return numbered, count


def _edges(volume: LabelledVolume) -> tuple[float, float, float] | None:
    """Of a voxel, z, y, x in mm; None where they are not known."""
    at = volume.spacing
    if at is None or at.unit not in MILLIMETRES:
        return None
    z, y, x = (edge * MILLIMETRES[at.unit] for edge in (at.z, at.y, at.x))
    return z, y, x
