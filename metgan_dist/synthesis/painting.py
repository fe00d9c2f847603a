"""One synthetic stroke volume: lesions laid into a brain's tissue map, and an image made of it."""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, overload

import numpy as np

from metgan_dist.errors import UserError
from metgan_dist.storage import Options, join
from metgan_dist.synthesis.filling import RSS_UNIT
from metgan_dist.synthesis.injection import inject
from metgan_dist.synthesis.volume_files import voxels_digest
from metgan_dist.tiles.grid import WholeGrid
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.volumes.labelled import VolumeRef
from metgan_dist.volumes.nifti_writer import write_nifti
from metgan_dist.volumes.volume import Spacing, whole


@dataclass(frozen=True)
class Brain:
    """A volume that is to be made, small enough to travel.

    number, name: in the set; ref: the healthy brain; rows: of its slices in the tile set, in their order; ends: the
    intensities of that brain that are -1 and 1.
    """

    number: int
    name: str
    ref: VolumeRef
    rows: tuple[int, ...]
    ends: tuple[float, float]


@dataclass(frozen=True)
class Image:
    """voxels (D, H, W) on the tiles' grid, in intensities of the brain and the type of the set; facts: what is put on
    record of it."""

    voxels: np.ndarray
    facts: dict[str, Any] = field(default_factory=dict)


ImageMaker = Callable[[Brain, np.ndarray, np.random.Generator], Image]
"""The image of a brain whose lesions are laid: of its label map (D, H, W) in classes, and a generator of its own."""


class ImageSource(Protocol):
    """What images are made by, small enough to travel; opened once by each worker."""

    def opened(self, job: Painting, tiles: TileSet) -> ImageMaker:
        """Ready to work; `tiles` are those of the job."""


@dataclass(frozen=True)
class Painting:
    """What all volumes share.

    images: what makes them; tiles: that hold the tissue maps; masks: that lesions are taken from; grid: of the tiles;
    parenchyma, lesion: classes; files: names of the two label files, tissue and lesion; dtype: of the images.
    """

    images: ImageSource
    tiles: str
    masks: tuple[VolumeRef, ...]
    grid: WholeGrid
    parenchyma: tuple[int, ...]
    lesion: int
    files: tuple[str, str]
    dtype: str
    lesions: int
    mirror: bool
    least: int
    tries: int
    folder: str
    seed: int
    options: Options = field(repr=False)  # may hold a secret


class Masks(Sequence[np.ndarray]):
    """The masks of a data set on a grid, each opened when it is asked for: (D, H, W), non-zero in a lesion.

    One that has the shape of what is left of the grid lies on it; others are resampled as the tiles' volumes were.
    """

    def __init__(self, refs: Sequence[VolumeRef], grid: WholeGrid) -> None:
        self._refs, self._grid = refs, grid

    def __len__(self) -> int:
        return len(self._refs)

    @overload
    def __getitem__(self, number: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[np.ndarray]: ...
    def __getitem__(self, number: int | slice) -> np.ndarray | Sequence[np.ndarray]:
        if isinstance(number, slice):
            return Masks(self._refs[number], self._grid)
        volume = self._refs[number].open()
        mask = volume.read("label", whole(volume))
        return mask if mask.shape == self._grid.shape else self._grid.laid(mask, is_label=True)


class Painter:
    """Makes volumes, with what makes their images opened once."""

    def __init__(self, job: Painting) -> None:
        self._job, self._tiles = job, TileSet.open(job.tiles, job.options)
        self._masks = Masks(job.masks, job.grid)
        self._image = job.images.opened(job, self._tiles)

    def paint(self, brain: Brain) -> dict[str, Any]:
        """Write a volume and its labels; what is known of it: its lesions, and the SHA-256 of its voxels."""
        job = self._job
        tissue = np.stack([self._tiles.load(row)["label"] for row in brain.rows])
        if (tissue == job.lesion).any():
            raise UserError(
                f"{brain.ref.id}: its label map has a lesion of its own; name healthy brains in synthesis.anatomies, "
                "or keep tissue and lesions in two label files, by which healthy ones are known"
            )
        # By seed and number, so that the first volumes of a larger set are those of a smaller one.
        random = np.random.default_rng([job.seed, brain.number])
        injected = inject(
            tissue,
            self._masks,
            job.parenchyma,
            random,
            name=brain.ref.id,
            lesions=job.lesions,
            mirror=job.mirror,
            least=job.least,
            tries=job.tries,
        )
        label = np.where(injected.lesion, job.lesion, tissue).astype(np.uint8)
        image = self._image(brain, label, random)
        voxels = {
            "": image.voxels,
            job.files[0]: tissue.astype(np.uint8),
            job.files[1]: injected.lesion.astype(np.uint8),
        }
        self._write(brain, voxels)
        return {
            "id": brain.name,
            "number": brain.number,
            "laid": [
                {"mask": job.masks[one.mask].id, "mirrored": one.mirrored, "draws": one.draws, "voxels": one.voxels}
                for one in injected.laid
            ],
            "image": image.facts,
            "voxels_sha256": voxels_digest(voxels.values()),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT,
        }

    def _write(self, brain: Brain, voxels: dict[str, np.ndarray]) -> None:
        """Files on the whole grid, its margin empty: tiles cut from them by the same rules are what was made here."""
        job, source = self._job, brain.ref.open()
        grid = WholeGrid(job.grid.size)
        size = grid.placed(source.shape).factor
        at = source.spacing
        spacing = None if at is None else Spacing(at.z * size[0], at.y * size[1], at.x * size[2], at.unit)
        affine = grid.affine(np.eye(4) if source.affine is None else source.affine, source.shape)
        margins = [(margin, margin) for margin in job.grid.margin]
        for kind, own in voxels.items():
            lowest = brain.ends[0] if kind == "" else 0
            padded = np.pad(own, margins, constant_values=np.asarray(lowest).astype(own.dtype))
            file = join(job.folder, volume_file(brain.name, kind))
            write_nifti(file, padded, affine, source.lies or "RAS", spacing, job.options)


def painter(job: Painting) -> Callable[[Brain], dict[str, Any]]:
    """`Painter.paint` with what is opened once."""
    return Painter(job).paint


def volume_file(name: str, kind: str) -> str:
    """The file of a volume's image (kind "") or of one of its labels, relative to its data set."""
    return f"{name}-{kind}.nii.gz" if kind else f"{name}.nii.gz"
