"""Phantom of cleared mouse tissue in a light-sheet microscope: autofluorescence, tumour stain, metastases."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from metgan_dist.volumes.phantoms.field import Floats, random_generator, soft_step
from metgan_dist.volumes.phantoms.procedural import BLOCK, Block, ProceduralVolume, Truth

SPACING = (5.0, 2.0, 2.0)  # micrometres, z y x
_CELL = tuple(edge * step for edge, step in zip(BLOCK, SPACING, strict=True))  # objects are seeded per block
_METASTASES, _LURES = 1, 2  # random streams
_PER_CELL = {_METASTASES: 1.8, _LURES: 2.2}  # mean number of objects per block, so that density never depends on size


@dataclass(frozen=True)
class Blob:
    """An ellipsoid with a rough, soft surface: centre and half-axes in micrometres, in-plane angle in radians."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    angle: float
    brightness: float


@dataclass(frozen=True)
class Organ:
    """How the tissue of an organ differs: share of cavities, strength of septa, calibre of vessels."""

    cavities: float
    septa: float
    vessels: float


ORGANS = {
    "lung": Organ(cavities=1.35, septa=0.28, vessels=0.24),
    "liver": Organ(cavities=1.75, septa=0.5, vessels=0.20),
    "kidney": Organ(cavities=1.60, septa=0.38, vessels=0.17),
}


class LightSheetPhantom(ProceduralVolume):
    """Two uint16 channels that show the same tissue with different, non-linear gains (micrometres).

    Metastases (label 1) shine in `tumour` and are a faint shadow in `autofluorescence`; bright spots of the
    autofluorescence (`Truth.lure`) are no tumour and stay dim in `tumour`, so that copying the anatomy fails. The
    stain of a metastasis follows its size and the tissue around it, hence it can be learned from anatomy and label.
    Around the tissue (near the y and x faces) and in its cavities it is dark.
    """

    channels = ("autofluorescence", "tumour")
    windows = ((100, 2500), (100, 3000))
    dtype = np.dtype(np.uint16)
    label_name = "metastases"
    label_classes = ("background", "metastasis")
    unit = "micrometer"
    anatomy = "autofluorescence"
    tumour = "tumour"
    organs = tuple(ORGANS)

    def __init__(self, shape: tuple[int, int, int], seed: int, organ: str = "liver") -> None:
        super().__init__(shape, SPACING, seed)
        self.organ = ORGANS[organ]

    def blobs(self, stream: int, index: tuple[int, int, int]) -> list[Blob]:
        """Objects whose centre is in the block `index`: stream 1 metastases, 2 bright spots of the anatomy."""
        return _seed_blobs(self.seed, stream, index)

    def _compose(self, block: Block) -> Truth:
        rough = block.noise(self.seed * 16 + 5, 18)
        fine = block.noise(self.seed * 16 + 6, (10, 6, 6))
        inside = self._tissue(block)
        structure = self._structure(block, rough, fine)
        lesion, label = self._render(_METASTASES, block, rough, inside)
        lure, lure_mask = self._render(_LURES, block, rough, inside)
        lure *= 1 - lesion.clip(0, 1)  # a bright spot inside a metastasis would contradict both
        autofluorescence = structure * (1 - 0.15 * lesion.clip(0, 1)) + lure
        autofluorescence *= inside
        # Another power than the autofluorescence's: no linear map leads from one channel to the other.
        stain = structure**1.5 * np.float32(0.6) + 0.12 * lure
        stain += lesion * (1.2 + 0.5 * structure + 0.25 * fine).clip(0.4)
        stain *= inside
        clean = np.empty((2, *BLOCK), np.float32)
        np.multiply(autofluorescence, 900 / (1 + 0.12 * autofluorescence), out=clean[0])  # saturates
        np.multiply(stain, 850, out=clean[1])
        clean += np.float32(110)  # camera offset
        label &= inside > 0.5
        return Truth(clean, label.astype(np.uint8), lure_mask & ~label & (inside > 0.5))

    def _expose(self, clean: Floats, block: Block) -> Floats:
        """Shot noise (variance proportional to the signal) and read noise (7 counts)."""
        for channel in range(2):
            # 110: the camera's offset, which has no shot noise; 49: the variance of the read noise.
            deviation = np.sqrt((clean[channel] - 110) * np.float32(1.6) + 49)
            deviation *= self._voxel_noise(block, channel)
            clean[channel] += deviation
        return clean

    def _tissue(self, block: Block) -> Floats:
        """1 inside the tissue, 0 outside and in cavities, soft between."""
        cavity = block.noise(self.seed * 16, 130) + np.float32(self.organ.cavities)
        _, y, x = block.mesh()
        height, width = (length * step for length, step in zip(self.shape[1:], self.spacing[1:], strict=True))
        # Distance to the nearest y or x face in units of a margin that grows with the volume up to 60 micrometres.
        margin = min(60.0, 0.12 * height, 0.12 * width)
        rim = np.minimum(np.minimum(y, height - y), np.minimum(x, width - x)) / np.float32(margin)
        wavy = rim + 0.45 * block.noise(self.seed * 16 + 1, 70) - np.float32(0.7)
        return soft_step(np.minimum(cavity, wavy), 0.06)

    def _structure(self, block: Block, rough: Floats, fine: Floats) -> Floats:
        """Parenchyma with septa between lobes and with vessels: dark lumen, bright wall; mean about 1."""
        base = 0.22 * block.noise(self.seed * 16 + 2, 110)
        base += 0.10 * rough
        base += 0.09 * fine
        septum = block.noise(self.seed * 16 + 3, 75)
        base += np.float32(self.organ.septa) * _bell(septum, 0.28)
        # Two smooth fields vanish together along curves: tubes of any length without a list of them.
        calibre = block.noise(self.seed * 16 + 4, 95)
        calibre *= calibre
        calibre += block.noise(self.seed * 16 + 7, 95) ** 2
        np.sqrt(calibre, out=calibre)
        calibre -= np.float32(self.organ.vessels)
        base += 0.7 * _bell(calibre - np.float32(0.08), 0.14)
        base += 1
        base *= 1 - 0.8 * soft_step(-calibre, 0.08)
        return np.maximum(base, np.float32(0.05), out=base)

    def _render(self, stream: int, block: Block, rough: Floats, inside: Floats) -> tuple[Floats, np.ndarray]:
        """Brightness of the stream's objects in a block, and the voxels inside their surfaces (bool)."""
        bright = np.zeros(BLOCK, np.float32)
        mask = np.zeros(BLOCK, np.bool_)
        # No object reaches farther than into the next block, so 27 blocks know all that can be seen in this one.
        for offset in itertools.product((-1, 0, 1), repeat=3):
            index = tuple(i + o for i, o in zip(block.index, offset, strict=True))
            if min(index) < 0:
                continue
            for blob in self.blobs(stream, (index[0], index[1], index[2])):
                _draw_blob(blob, block, rough, bright, mask)
        return bright, mask


@lru_cache(maxsize=4096)
def _seed_blobs(seed: int, stream: int, index: tuple[int, int, int]) -> list[Blob]:
    random = random_generator(seed, stream, *index)
    blobs = []
    for _ in range(random.poisson(_PER_CELL[stream])):
        z, y, x = ((i + random.random()) * edge for i, edge in zip(index, _CELL, strict=True))
        if stream == _METASTASES:
            radius = float(np.clip(random.lognormal(np.log(8.5), 0.5), 4.5, 22))
            stretch, brightness = random.uniform(1, 1.6), (0.22 + 0.045 * radius) * random.uniform(0.75, 1.25)
        else:  # small round spots and long fibres
            radius = float(np.clip(random.lognormal(np.log(6.5), 0.45), 3.5, 18))
            stretch, brightness = random.choice([1.2, 3.0]), random.uniform(1.5, 4.0)
        radii = (radius * random.uniform(0.9, 1.4), radius * stretch, radius / stretch**0.5)
        blobs.append(Blob((z, y, x), radii, random.uniform(0, np.pi), min(brightness, 4.0)))
    return blobs


def _draw_blob(blob: Blob, block: Block, rough: Floats, bright: Floats, mask: np.ndarray) -> None:
    """Adds one object to `bright` (by maximum) and `mask` (by union), inside the part of the block it touches."""
    reach = 1.35 * max(blob.radii) + 6
    box = []
    for axis, centre in zip(block.axes, blob.centre, strict=True):
        start, stop = np.searchsorted(axis, [centre - reach, centre + reach])
        if start == stop:
            return
        box.append(slice(int(start), int(stop)))
    z, y, x = (
        (axis[part] - centre).astype(np.float32)
        for axis, part, centre in zip(block.axes, box, blob.centre, strict=True)
    )
    cosine, sine = np.float32(np.cos(blob.angle)), np.float32(np.sin(blob.angle))
    along, across = cosine * y[:, None] + sine * x, cosine * x - sine * y[:, None]
    plane = (along / np.float32(blob.radii[1])) ** 2 + (across / np.float32(blob.radii[2])) ** 2
    distance = np.sqrt(plane + ((z / np.float32(blob.radii[0])) ** 2)[:, None, None])
    where = (box[0], box[1], box[2])
    depth = 1 - distance - np.float32(0.14) * rough[where].clip(-2, 2)
    mask[where] |= depth > 0
    edge = 2.2 / min(blob.radii[1:])  # the microscope blurs every edge by about the same micrometres
    # By maximum: objects that overlap are no brighter than the brighter of them, and their order does not matter.
    np.maximum(bright[where], np.float32(blob.brightness) * soft_step(depth, max(edge * 0.5, 0.06)), out=bright[where])


def _bell(value: Floats, width: float) -> Floats:
    """exp(-(value / width)^2)."""
    scaled = value * np.float32(1 / width)
    scaled *= scaled
    return np.exp(-scaled, out=scaled)
