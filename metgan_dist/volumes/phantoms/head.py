"""Phantoms of MR heads with a vestibular schwannoma: T1 after contrast agent of one patient, T2 of another.

They stand for crossMoDA (Dorent et al. 2023), on which Sallé et al. (2021) insert tumours: a slab around the base of
the skull, with a tumour at the internal auditory canal of one side. Small, in a few of many slices, bright in T1 and
dark grey in the bright fluid of T2, it is what a translation without pairs tends to lose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from metgan_dist.volumes.phantoms.brain_shape import BrainShape, InBrain, cerebellum, ellipsoid, stem
from metgan_dist.volumes.phantoms.field import Floats, random_generator, soft_step
from metgan_dist.volumes.phantoms.procedural import BLOCK, Block, ProceduralVolume, Truth

FIELD_OF_VIEW = (120.0, 205.0, 205.0)  # millimetres z, y, x: 1.5 x 0.4 x 0.4 mm at 80 x 512 x 512 voxels
SCHWANNOMA, COCHLEA = 1, 2
NOISE = 14.0
_CORTEX = 4.5  # millimetres from the fluid to white matter
_ABOVE = 22.0  # millimetres from the middle of the slab up to that of the brain
Point = tuple[float, float, float]
# Of the internal auditory canal, millimetres of the brain, of either side: where it opens, and where it ends.
_PORUS: Point = (-43, 9, 23)
_FUNDUS: Point = (-42.5, 7, 36)


class Contrast(NamedTuple):
    """Signal of a tissue, in arbitrary units."""

    t1: float
    t2: float


# Contrast agent is in vessels, mucosa and tumour; T2 is weighted so heavily that fluid outshines all else.
_TISSUE = {
    "air": Contrast(6, 6),
    "fat": Contrast(640, 330),
    "muscle": Contrast(290, 150),
    "cortical bone": Contrast(45, 35),
    "marrow": Contrast(330, 190),
    "mucosa": Contrast(610, 480),
    "vessel": Contrast(700, 110),
    "vitreous": Contrast(120, 860),
    "lens": Contrast(260, 200),
    "fluid": Contrast(105, 820),
    "labyrinth": Contrast(150, 760),
    "grey matter": Contrast(270, 340),
    "white matter": Contrast(375, 245),
    "schwannoma": Contrast(600, 380),
}
# What contrast agent makes as bright in T1 as a tumour.
_LURES = ("vessel", "mucosa")


@dataclass(frozen=True)
class Tumour:
    """A schwannoma, in millimetres of the brain: the middle of its body, half the body's axes, the side (-1 or 1 of x),
    and `reach`, how far it fills the canal; its signal over that of others; `core`, how much darker or brighter its
    inside is."""

    centre: Point
    radii: Point
    side: float
    reach: float
    signal: float
    core: float


@dataclass(frozen=True)
class _Part:
    """A structure: millimetres below its surface (negative outside), its tissue, its label (0: none)."""

    depth: np.ndarray
    tissue: str
    label: int = 0


class HeadPhantom(ProceduralVolume):
    """One int16 channel (about 0 to 900) of one head that fills any shape: the voxels shrink as they multiply.

    z runs from foot to head, y from front to back. Classes of the label `structures`: 0 background, 1 vestibular
    schwannoma (one, of either side), 2 cochlea (both). Vessels and mucosa (`Truth.lure`) are as bright in T1.
    """

    dtype = np.dtype(np.int16)
    label_name = "structures"
    label_classes = ("background", "vestibular schwannoma", "cochlea")
    names_labels = True
    unit = "millimeter"
    anatomy = "t1"
    tumour = "t2"
    organs = ("head",)
    windows: ClassVar[tuple[tuple[int, int], ...]] = ((0, 900),)

    def __init__(self, shape: tuple[int, int, int], seed: int, organ: str = "head") -> None:
        spacing = tuple(extent / length for extent, length in zip(FIELD_OF_VIEW, shape, strict=True))
        super().__init__(shape, (spacing[0], spacing[1], spacing[2]), seed)
        random = random_generator(seed, 1)
        z, y, x = np.asarray(FIELD_OF_VIEW) / 2 + (_ABOVE, 1, 0) + random.uniform(-3, 3, 3)
        self.brain = BrainShape((z, y, x), random.uniform(0.90, 0.97), random.uniform(0.85, 1.35), seed)
        self.skull = random.uniform(5.5, 8)  # millimetres
        self.scalp = random.uniform(3.5, 6)
        self.coil = random.uniform(0.12, 0.22)
        self.tumour_drawn = draw_tumour(random)

    def _compose(self, block: Block) -> Truth:
        at = self.brain.at(block)
        clean = np.full((1, *BLOCK), self._signal_of("air"), np.float32)
        label, lure = np.zeros(BLOCK, np.uint8), np.zeros(BLOCK, np.bool_)
        fine = block.noise(self.seed * 16 + 5, 3.5)
        # In the order of the lists, each over what is there already, as a painter works.
        for part in (*self._outside(at, fine), *_brain(at), *_base(at), *self._ears(at)):
            inside = part.depth > 0
            # Voxels at a border mix both tissues over most of a millimetre; the label stays sharp.
            clean[0] += soft_step(part.depth, 0.8) * (np.float32(self._signal_of(part.tissue)) - clean[0])
            label[inside] = part.label
            lure[inside] = part.tissue in _LURES
        clean *= self._within_tumour(at, label)
        clean *= 1 + 0.045 * at.rough + 0.03 * fine
        # The leaves of the cerebellum, and the fluid between them, which is too thin to be drawn.
        deep = cerebellum(*at.at)
        leaves = np.cos((deep + 2 * at.warp + 0.8 * at.rough) * np.float32(2 * np.pi / 5))
        clean *= 1 + 0.09 * leaves * ((deep > 1) & (at.chambers > 0) & (label == 0))
        clean *= 1 + self.coil * block.noise(self.seed * 16 + 4, 150)
        return Truth(clean, label, lure & (label == 0))

    def _signal_of(self, tissue: str) -> float:
        return float(getattr(_TISSUE[tissue], self.channels[0]))

    def _within_tumour(self, at: InBrain, label: np.ndarray) -> Floats:
        """Factor of the signal: the tumour's own, another one in its core, patchy."""
        tumour = self.tumour_drawn
        core = soft_step(-ellipsoid(*at.at, tumour.centre, tuple(0.55 * radius for radius in tumour.radii)), 0.3)
        inside = tumour.signal * (1 + (tumour.core - 1) * core) * (1 + 0.10 * at.rough).clip(0.7, 1.3)
        return np.where(label == SCHWANNOMA, inside, 1).astype(np.float32)

    def _expose(self, clean: Floats, block: Block) -> Floats:
        """Rician noise, which leaves a floor where there is no signal."""
        clean += NOISE * self._voxel_noise(block, 0)
        return np.hypot(clean, NOISE * self._voxel_noise(block, 1), out=clean)

    def _outside(self, at: InBrain, fine: Floats) -> list[_Part]:
        """Fat below the skin, muscle, skull with its marrow, face with its air, the meninges' space: from outside."""
        z, y, x = at.at
        side, skull = np.abs(x), np.float32(self.skull)
        vault = -80 * ellipsoid(z, y, x, (6, 0, 0), (64 + self.skull, 87 + self.skull, 70 + self.skull)) + at.warp
        face = -72 * ellipsoid(z, y, x, (-42, -4, 0), (84, 91, 68)) + 1.5 * at.warp
        head = np.maximum(vault, face)
        cavity = np.maximum(at.depth + 3.2 + 0.8 * at.warp, _cisterns(z, y, x))
        bone = np.minimum(cavity + skull, head)
        nose = -14 * ellipsoid(z, y, x, (-56, -66, 0), (24, 30, 14))
        sinus = -16 * ellipsoid(z, y, side, (-62, -58, 33), (18, 19, 15)) + 0.8 * at.warp
        return [
            _Part(head + self.scalp, "fat"),
            _Part(np.minimum(face, -14 - z) - 5 - 2 * at.warp - 2.5 * at.rough.clip(-1.5, 1.5), "muscle"),
            _Part(-16 * ellipsoid(z, y, side, (-33, -70, 30), (18, 26, 19)), "fat"),
            _Part(bone, "cortical bone"),
            _Part(np.minimum(bone - 1.8, skull - 1.8 - bone) + 0.6 * at.rough, "marrow"),
            _Part(nose, "mucosa"),
            _Part(np.minimum(nose - 2.5, 2.6 * fine + 1), "air"),
            _Part(sinus, "mucosa"),
            _Part(sinus - 1.6, "air"),
            _Part(-12 * ellipsoid(z, y, side, (-32, -82, 31), (12, 12.5, 12)), "vitreous"),
            _Part(-3 * ellipsoid(z, y, side, (-32, -91, 31), (5, 2.4, 5)), "lens"),
            _Part(cavity, "fluid"),
        ]

    def _ears(self, at: InBrain) -> list[_Part]:
        """On either side the internal auditory canal with its nerve, and the labyrinth; on one side the tumour."""
        z, y, x = at.at
        side, tumour = np.abs(x), self.tumour_drawn
        vestibule = -2.2 * ellipsoid(z, y, side, (-41, 10, 42), (2.2, 2.8, 2))
        ring = np.hypot(np.hypot(y - 13, side - 44) - np.float32(3.2), z + 40)  # the lateral semicircular canal
        body = -min(tumour.radii) * ellipsoid(z, y, x, tumour.centre, tumour.radii) + 0.5 * at.rough
        body = np.minimum(body, _PORUS[2] + 2 - side)  # the body ends at the bone, and the rest is in the canal
        end = tuple(a + tumour.reach * (b - a) for a, b in zip(_PORUS, _FUNDUS, strict=True))
        stalk = _rod((z, y, side), _PORUS, (end[0], end[1], end[2]), 2.9)
        mass = np.where(x * np.float32(tumour.side) > 0, np.maximum(body, stalk), np.float32(-9))
        return [
            _Part(_rod((z, y, side), _PORUS, _FUNDUS, 2.6), "fluid"),
            _Part(_rod((z, y, side), (-43, 11, 13), _FUNDUS, 0.6), "white matter"),
            _Part(np.maximum(vestibule, 0.9 - ring), "labyrinth"),
            _Part(-2.8 * ellipsoid(z, y, side, (-42, 3.5, 41), (2.8, 3.2, 3.2)), "labyrinth", COCHLEA),
            _Part(mass, "schwannoma", SCHWANNOMA),
        ]


class T1HeadPhantom(HeadPhantom):
    """A head in T1 after contrast agent."""

    channels = ("t1",)
    domain = "t1"


class T2HeadPhantom(HeadPhantom):
    """A head in T2 of high resolution."""

    channels = ("t2",)
    domain = "t2"


def draw_tumour(random: np.random.Generator) -> Tumour:
    """Most are small, and fill the canal more than the angle between cerebellum and pons; a few press on the pons."""
    side = float(random.choice([-1.0, 1.0]))
    radius = float(np.clip(random.lognormal(np.log(6), 0.4), 2.8, 13))
    z, y, x = radius * random.uniform(0.85, 1.2, 3)
    centre = (_PORUS[0] + random.normal(0, 1), _PORUS[1] + random.uniform(-2, 1.5), side * (_PORUS[2] + 2 - 0.8 * x))
    reach, signal, core = random.uniform(0.2, 1), random.uniform(0.85, 1.15), random.uniform(0.65, 1.1)
    return Tumour(centre, (z, y, x), side, reach, signal, core)


def _brain(at: InBrain) -> list[_Part]:
    """White matter, cortex and nuclei, fluid of the sulci, cerebellum with its white core, brain-stem, ventricles."""
    leaves, pons = cerebellum(*at.at), stem(*at.at)
    grey = np.maximum(_CORTEX + 0.5 * at.rough - at.sulci, -at.nuclei)
    return [
        _Part(at.depth.copy(), "white matter"),
        _Part(np.minimum(at.depth, grey), "grey matter"),
        _Part(np.minimum(at.depth, 0.9 - at.sulci), "fluid"),
        _Part(leaves, "grey matter"),
        _Part(leaves - 10 + 2.5 * at.warp + 1.5 * at.rough, "white matter"),
        _Part(pons, "white matter"),
        _Part(np.minimum(at.depth, -at.chambers), "fluid"),
    ]


def _base(at: InBrain) -> list[_Part]:
    """The skull's base beside the brain: clivus, petrous bones with air in the mastoids, arteries, venous sinuses."""
    z, y, x = at.at
    side, outside = np.abs(x), -at.depth - 1
    sagittal = np.minimum(3.4 - side, 3 - np.abs(at.depth + 1)) + np.minimum(y + 40, 0)
    transverse = np.maximum(
        _rod((z, y, side), (-28, 74, 5), (-33, 46, 50), 3.0), _rod((z, y, side), (-33, 46, 50), (-54, 23, 50), 3.6)
    )
    return [
        _Part(np.minimum(-9 * ellipsoid(z, y, x, (-46, -14, 0), (22, 9, 14)), outside - 3), "marrow"),
        _Part(np.minimum(_rod((z, y, side), (-42, 6, 32), (-40, 22, 66), 9), outside), "cortical bone"),
        _Part(np.minimum(-9 * ellipsoid(z, y, side, (-44, 28, 60), (15, 12, 9)), outside), "air"),
        _Part(_rod((z, y, x), (-64, 0, 0), (-22, -3.5, 1), 1.7), "vessel"),
        _Part(_rod((z, y, side), (-64, -8, 22), (-32, -17, 12), 2.4), "vessel"),
        _Part(np.maximum(sagittal, transverse), "vessel"),
    ]


def _cisterns(z: Floats, y: Floats, x: Floats) -> Floats:
    """About millimetres inside the wide spaces of fluid: before the pons and beside it, above the sella."""
    return np.maximum(
        -10 * ellipsoid(z, y, x, (-44, 6, 0), (24, 11, 27)), -8 * ellipsoid(z, y, x, (-27, -14, 0), (9, 11, 14))
    )


def _rod(at: tuple[Floats, Floats, Floats], start: Point, end: Point, radius: float) -> Floats:
    """Millimetres below the surface of a rod with round ends."""
    axis = np.subtract(end, start)
    offset = [a - np.float32(s) for a, s in zip(at, start, strict=True)]
    along = sum((o * np.float32(e) for o, e in zip(offset, axis, strict=True)), np.float32(0))
    share = np.clip(along / np.float32(axis @ axis), 0, 1)
    squares = sum(((o - share * np.float32(e)) ** 2 for o, e in zip(offset, axis, strict=True)), np.float32(0))
    return (np.float32(radius) - np.sqrt(squares)).astype(np.float32)
