"""Phantoms of a chest with a heart, in contrast CT, in MR or in both: the five regions of Zhang et al., CVPR 2018."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from metgan_dist.volumes.phantoms.field import Floats, random_generator, soft_step
from metgan_dist.volumes.phantoms.procedural import BLOCK, Block, ProceduralVolume, Truth

FIELD_OF_VIEW = (180.0, 240.0, 240.0)  # millimetres z, y, x: 1.5 mm at 120 x 160 x 160 voxels
LV, RV, LA, RA, MYOCARDIUM = 1, 2, 3, 4, 5


class Contrast(NamedTuple):
    """What a tissue measures: Hounsfield units in CT, arbitrary units in MR."""

    ct: float
    mr: float


# Left heart and aorta are full of contrast agent, the right heart less so; blood is bright in MR, lungs are empty.
_TISSUE = {
    "air": Contrast(-990, 4),
    "lung": Contrast(-830, 35),
    "muscle": Contrast(55, 190),
    "fat": Contrast(-95, 560),
    "bone": Contrast(420, 75),
    "liver": Contrast(95, 250),
    "left blood": Contrast(360, 470),
    "right blood": Contrast(205, 440),
    "myocardium": Contrast(105, 215),
}


class Habitus(NamedTuple):
    """What the hearts of a group of patients have in common.

    Ranges of their size (over that of the layout below) and of the left ventricle's wall (millimetres before scaling),
    and the mean direction of its long axis, base to apex, in z, y, x.
    """

    size: tuple[float, float] = (0.9, 1.1)
    wall: tuple[float, float] = (8.5, 12)
    axis: tuple[float, float, float] = (-0.45, -0.62, 0.64)  # left, forwards, down


@dataclass(frozen=True)
class _Part:
    """A structure: half its width over millimetres (positive inside), its tissue, its label (0: none)."""

    depth: Floats
    tissue: str
    label: int = 0


class HeartPhantom(ProceduralVolume):
    """Channels `ct` and `mr` (int16) of one chest that fills any shape: the voxels shrink as they multiply.

    z runs from foot to head, y from front to back, x from the patient's right to left. The heart lies left of
    and in front of the middle, differently by seed. Classes of the label `regions`: 0 background, 1 left ventricle,
    2 right ventricle, 3 left atrium, 4 right atrium (the cavities), 5 myocardium of the left ventricle. The aorta has
    no label and the contrast of the left heart; bone (`Truth.lure`) is as bright in CT and dark in MR.
    """

    channels: ClassVar[tuple[str, ...]] = ("ct", "mr")
    windows: ClassVar[tuple[tuple[int, int], ...]] = ((-200, 500), (0, 650))
    dtype = np.dtype(np.int16)
    label_name = "regions"
    label_classes = (
        "background",
        "left ventricle",
        "right ventricle",
        "left atrium",
        "right atrium",
        "left ventricular myocardium",
    )
    unit = "millimeter"
    anatomy = "ct"
    tumour = "mr"
    organs = ("heart",)
    habitus: ClassVar[Habitus] = Habitus()

    def __init__(self, shape: tuple[int, int, int], seed: int, organ: str = "heart") -> None:
        spacing = tuple(extent / length for extent, length in zip(FIELD_OF_VIEW, shape, strict=True))
        super().__init__(shape, (spacing[0], spacing[1], spacing[2]), seed)
        random = random_generator(seed, 1)
        self.heart = np.asarray(FIELD_OF_VIEW) / 2 + (2, -20, 16) + random.uniform(-6, 6, 3)
        self.size = random.uniform(*self.habitus.size)
        self.wall = random.uniform(*self.habitus.wall)
        self.axes = _long_axis(random, self.habitus.axis)

    def _compose(self, block: Block) -> Truth:
        warp = block.noise(self.seed * 16, 28)
        rough = block.noise(self.seed * 16 + 1, 7)
        clean = np.empty((len(self.channels), *BLOCK), np.float32)
        seen = list(zip(self.channels, clean, strict=True))
        for scanner, channel in seen:
            channel[...] = getattr(_TISSUE["air"], scanner)
        label = np.zeros(BLOCK, np.uint8)
        lure = np.zeros(BLOCK, np.bool_)
        # In the order of the lists, each over what is there already, as a painter works.
        for part in (*self._chest(block, warp, rough), *self._heart(block, warp, rough)):
            # Voxels at a border mix both tissues over about a millimetre; the label stays sharp.
            cover = soft_step(part.depth.copy(), 1.0)
            for scanner, channel in seen:
                channel += cover * (np.float32(getattr(_TISSUE[part.tissue], scanner)) - channel)
            inside = part.depth > 0
            label[inside] = part.label
            lure[inside] = part.tissue == "bone"
        for scanner, channel in seen:
            if scanner == "ct":
                channel += 9 * rough  # texture of tissue
            else:
                channel *= 1 + 0.06 * rough
                channel *= 1 + 0.16 * block.noise(self.seed * 16 + 2, 160)  # sensitivity of the receive coils
        return Truth(clean, label, lure)

    def _expose(self, clean: Floats, block: Block) -> Floats:
        """CT: normal noise of 22 HU; MR: Rician noise of 16 units."""
        for scanner, channel in zip(self.channels, clean, strict=True):
            if scanner == "ct":
                channel += 22 * self._voxel_noise(block, 0)
            else:
                channel += 16 * self._voxel_noise(block, 1)
                np.hypot(channel, 16 * self._voxel_noise(block, 2), out=channel)
        return clean

    def _chest(self, block: Block, warp: Floats, rough: Floats) -> list[_Part]:
        """Chest wall, lungs, mediastinum, liver, spine, ribs, sternum and descending aorta, outer parts first."""
        z, y, x = (a - np.float32(m / 2) for a, m in zip(block.mesh(), FIELD_OF_VIEW, strict=True))
        # A half-axis of 1e4 mm makes a tube through the whole field of view.
        body = 78 * (1 - _radius((z, y, x), (0, 4, 0), (1e4, 80, 108))) + warp
        cage = 66 * (1 - _radius((z, y, x), (0, 4, 0), (400, 68, 94)))
        lungs = np.minimum(cage - 6 + 0.7 * warp, np.abs(x + 4) - 20 + 0.18 * y)
        dome = -z - 48 - 0.0035 * ((x + 30) ** 2 + y**2) + 2.5 * warp
        # Ribs slope downwards to the front: bars of a wave along z, in a thin shell around the lungs.
        slope = np.cos((z - 0.35 * y) * np.float32(2 * np.pi / 26))
        ribs = np.minimum(3.5 - np.abs(cage + 2), 5 * slope - 2)
        spine = 16 * (1 - _radius((z, y, x), (0, 54, 0), (1e4, 15, 17))) - 2 * np.cos(z * np.float32(2 * np.pi / 24))
        sternum = 5 * (1 - _radius((z, y, x), (20, -68, 0), (70, 5, 16)))
        aorta = 11 * (1 - _radius((z, y, x), (0, 32, 16), (1e4, 11, 11))) + 0.4 * warp
        return [
            _Part(body, "fat"),
            _Part(body - 9 - 2 * warp, "muscle"),
            _Part(lungs, "lung"),
            _Part(np.minimum(lungs - 2, 1.5 * rough - 2.6 + 0.4 * warp), "right blood"),  # vessels of the lungs
            _Part(np.minimum(dome, cage - 4), "liver"),
            _Part(np.minimum(spine, body), "bone"),
            _Part(ribs, "bone"),
            _Part(sternum, "bone"),
            _Part(aorta, "left blood"),
        ]

    def _heart(self, block: Block, warp: Floats, rough: Floats) -> list[_Part]:
        """Pericardial fat, the two ventricles, the two atria, ascending aorta; the left ventricle is drawn last."""
        offset = [(a - np.float32(m)) / np.float32(self.size) for a, m in zip(block.mesh(), self.heart, strict=True)]
        # u: from base to apex, v: from the left ventricle towards the right one, w: across both.
        u, v, w = (
            sum((c * np.float32(e) for c, e in zip(offset, axis, strict=True)), np.float32(0)) for axis in self.axes
        )
        at = (np.asarray(u), np.asarray(v), np.asarray(w))
        bend = np.float32(1.2) * warp
        wall = np.float32(self.wall)
        cavity = 21 * (1 - _radius(at, (2, 0, 0), (42, 21, 21)))
        base = at[0] + 14  # the plane of the valves: ventricles below, atria above
        outer = np.minimum(cavity + wall + bend, base + 2)
        inner = np.minimum(cavity + bend - 0.8 * rough, base - 1)  # trabeculae roughen the inside
        right = np.minimum(20 * (1 - _radius(at, (4, 23, 2), (42, 31, 33))) + bend - 0.9 * rough, base - 2)
        # The right ventricle lies around the wall of the left one, not in it.
        right = np.minimum(right, -outer - 0.5)
        left_atrium = np.minimum(20 * (1 - _radius(at, (-34, -4, -2), (21, 25, 27))) + bend, -base - 2)
        right_atrium = np.minimum(20 * (1 - _radius(at, (-31, 44, 8), (24, 20, 26))) + bend, -base + 6)
        right_atrium = np.minimum(np.minimum(right_atrium, -left_atrium - 3), -right - 2)
        sack = 50 * (1 - _radius(at, (-6, 15, 0), (62, 60, 48))) + 2 * bend
        root = 12 * (1 - _radius((offset[0], offset[1], offset[2]), (50, -2, -26), (48, 12, 12))) + 0.5 * bend
        thin = [np.float32(2.5) + part for part in (right, left_atrium, right_atrium)]  # walls without a label
        return [
            _Part(sack, "fat"),
            *(_Part(part, "myocardium") for part in thin),
            _Part(root, "left blood"),
            _Part(right_atrium, "right blood", RA),
            _Part(left_atrium, "left blood", LA),
            _Part(right, "right blood", RV),
            _Part(outer, "myocardium", MYOCARDIUM),
            _Part(inner, "left blood", LV),
        ]


class CtHeartPhantom(HeartPhantom):
    """A chest seen by CT alone, of a patient with a small, upright heart and a thick wall."""

    channels = ("ct",)
    windows = ((-200, 500),)
    habitus = Habitus((0.80, 0.88), (11, 14), (-0.60, -0.52, 0.60))
    domain = "ct"
    rules = "cardiac-ct"


class MrHeartPhantom(HeartPhantom):
    """A chest seen by MR alone, of a patient with a large, lying heart and a thin wall."""

    channels = ("mr",)
    windows = ((0, 650),)
    habitus = Habitus((0.98, 1.08), (6, 8.5), (-0.25, -0.70, 0.67))
    domain = "mr"
    rules = "cardiac-mr"


def _radius(at: tuple[Floats, ...], centre: tuple[float, ...], radii: tuple[float, ...]) -> Floats:
    """Normalised radius of an ellipsoid: 1 on its surface."""
    squares = (((a - np.float32(c)) / np.float32(r)) ** 2 for a, c, r in zip(at, centre, radii, strict=True))
    return np.sqrt(np.asarray(sum(squares, np.float32(0)), dtype=np.float32))


def _long_axis(random: np.random.Generator, mean: tuple[float, float, float]) -> np.ndarray:
    """Rows u (base to apex, about `mean`), v (to the right and forwards), w of a heart, in z, y, x."""
    u = np.array(mean) + random.normal(0, 0.07, 3)
    u /= np.linalg.norm(u)
    v = np.array([0.0, -0.70, -0.71]) + random.normal(0, 0.05, 3)
    # Gram-Schmidt: drawn at random, v is at right angles to u only when its part along u is taken away.
    v -= u * (u @ v)
    v /= np.linalg.norm(v)
    return np.stack([u, v, np.cross(u, v)])
