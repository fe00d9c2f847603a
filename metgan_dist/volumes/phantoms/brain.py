"""Phantom of diffusion-weighted MR of a head with an acute stroke: one channel, tissue classes and the lesion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metgan_dist.volumes.phantoms.dwi_signal import NUMBER
from metgan_dist.volumes.phantoms.field import Axes, Floats, random_generator, soft_step
from metgan_dist.volumes.phantoms.procedural import Block, ProceduralVolume, Truth

FIELD_OF_VIEW = (160.0, 230.0, 230.0)  # millimetres z, y, x: 5 x 1.2 x 1.2 mm at 32 x 192 x 192 voxels
CSF, GREY, WHITE, LESION = 1, 2, 3, 4
# Diffusion weighting leaves free water dark, and grey matter a little brighter than white.
_SIGNAL = {CSF: 60.0, GREY: 265.0, WHITE: 215.0}
_CORTEX = 5.0  # millimetres from the fluid to white matter


@dataclass(frozen=True)
class Infarct:
    """A lesion: centre and half-axes in millimetres (z, y, x) and its signal over that of the tissue."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    ratio: float


@dataclass(frozen=True)
class Anatomy:
    """tissue: numbers of `TISSUES` (z, y, x); lesion: where one is, also outside of the tissue that can have one."""

    tissue: NDArray[np.uint8]
    lesion: NDArray[np.bool_]


@dataclass(frozen=True)
class _Head:
    """Position (z, y, x from the middle, to broadcast) and, per voxel, about how many millimetres it lies below the
    surface of the brain (`depth`), from the fluid of sulci and surface (`sulci`), outside the ventricles (`chambers`)
    and outside the grey nuclei (`nuclei`); `rough` and `warp`: fine and coarse unit-variance noise."""

    at: tuple[Floats, Floats, Floats]
    depth: Floats
    sulci: Floats
    chambers: Floats
    nuclei: Floats
    rough: Floats
    warp: Floats


class BrainPhantom(ProceduralVolume):
    """An int16 `dwi` channel (about 0 to 800) of one head that fills any shape: the voxels shrink as they multiply.

    z runs from foot to head, y from front to back. Classes of the label `tissue`: 0 background, 1 CSF, 2 grey matter,
    3 white matter, 4 lesion (bright, in one hemisphere, never in CSF). Bright rims where the base of the
    brain meets air (`Truth.lure`) are no lesion.
    """

    channels = ("dwi",)
    windows = ((0, 600),)
    dtype = np.dtype(np.int16)
    label_name = "tissue"
    label_classes = ("background", "CSF", "grey matter", "white matter", "lesion")
    unit = "millimeter"
    anatomy = "dwi"
    tumour = "dwi"
    organs = ("brain",)

    def __init__(self, shape: tuple[int, int, int], seed: int, organ: str = "brain") -> None:
        spacing = tuple(extent / length for extent, length in zip(FIELD_OF_VIEW, shape, strict=True))
        super().__init__(shape, (spacing[0], spacing[1], spacing[2]), seed)
        random = random_generator(seed, 1)
        self.centre = np.asarray(FIELD_OF_VIEW) / 2 + random.uniform(-6, 6, 3)
        self.scale = random.uniform(0.94, 1.04)
        self.ventricles = random.uniform(0.85, 1.35)
        self.infarcts = _draw_infarcts(random)

    def anatomy_at(self, axes: Axes) -> Anatomy:
        """What lies where on a grid, without any signal."""
        head = self._head(Block((0, 0, 0), axes))
        z, y, x = head.at
        csf, grey, inside = self._tissues(head)
        wet = csf & (head.chambers < 0)
        parts = (
            (~inside, "background"),
            (wet, "ventricles"),
            (csf, "CSF"),
            (_cerebellum(z, y, x) > 0, "cerebellum"),
            (_stem(z, y, x) > 0, "brain-stem"),
            (head.nuclei < 0, "deep grey matter"),
            (grey, "grey matter"),
        )
        tissue = np.select([where for where, _ in parts], [NUMBER[name] for _, name in parts], NUMBER["white matter"])
        return Anatomy(tissue.astype(np.uint8), self._lesion(head)[1])

    def _tissues(self, head: _Head) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where there is fluid, grey matter, and brain at all."""
        inside = head.depth > 0
        csf = (np.minimum(head.sulci - 0.9, head.chambers) < 0) & inside
        grey = ((head.sulci < _CORTEX + 0.5 * head.rough) | (head.nuclei < 0)) & inside & ~csf
        return csf, grey, inside

    def _compose(self, block: Block) -> Truth:
        head = self._head(block)
        csf, grey, inside = self._tissues(head)
        gain, lesion = self._lesion(head)
        lesion &= inside & ~csf
        label = np.where(csf, CSF, np.where(grey, GREY, WHITE)).astype(np.uint8)
        label[lesion] = LESION
        label[~inside] = 0
        dwi, lure = self._signal(head, block)
        dwi *= 1 + gain * (inside & ~csf)
        return Truth(dwi[None], label, lure & inside & ~lesion)

    def _head(self, block: Block) -> _Head:
        """Where every voxel of the block lies in the head."""
        z, y, x = (
            (axis - np.float32(middle)) / np.float32(self.scale)
            for axis, middle in zip(block.mesh(), self.centre, strict=True)
        )
        # Sixteen fields of noise to a seed, so that volumes of successive seeds have none in common.
        seed = self.seed * 16
        warp = block.noise(seed, 40)
        depth = _outline(z, y, x) + 2.0 * warp
        folds = np.abs(block.noise(seed + 1, (24, 17, 17))) * np.float32(7)  # about millimetres to the nearest sulcus
        bent = np.abs(x + 0.8 * warp)
        # The gap between the hemispheres is open in front, behind and above, closed by the corpus callosum.
        gap = bent + np.maximum(-8 - z, 0) + 0.25 * np.maximum(30 - np.abs(y), 0)
        # Sulci end about 14 mm below the surface: farther in, the distance to the nearest grows with the depth.
        sulci = np.minimum(np.minimum(depth, folds + np.maximum(depth - 14, 0)), 1.2 * gap)
        return _Head(
            (z, y, x),
            depth,
            sulci,
            self._ventricle_distance(z, y, bent) + 0.8 * warp,
            _deep_grey(z, y, np.abs(x)),
            block.noise(seed + 3, 9),
            warp,
        )

    def _signal(self, head: _Head, block: Block) -> tuple[Floats, np.ndarray]:
        """Signal of the healthy head with partial volume at every border, and the voxels of the bright base rims."""
        z, y, x = head.at
        grey = np.maximum(soft_step(_CORTEX - head.sulci, 1.2), soft_step(-head.nuclei, 1.5))
        signal = _SIGNAL[WHITE] + (_SIGNAL[GREY] - _SIGNAL[WHITE]) * grey
        wet = soft_step(0.9 - np.minimum(head.sulci, head.chambers + 0.9), 0.7)
        signal += (_SIGNAL[CSF] - signal) * wet
        signal *= 1 + 0.035 * head.rough
        # Susceptibility: brain above the air of the sinuses and ears is squeezed into bright bands.
        air: Floats = np.minimum(
            _ellipsoid(z, y, x, (-30, -62, 0), (12, 16, 14)),
            _ellipsoid(z, y, np.abs(x), (-36, 2, 52), (10, 14, 10)),
        )
        band = soft_step(np.float32(0.25) - air, 0.2)
        signal *= 1 + 0.9 * band
        # A copy, since soft_step works in place and the depth is still needed.
        signal *= soft_step(head.depth.copy(), 1.0)
        # The scalp: a faint shell about 11 mm outside the brain.
        scalp = np.exp(-(((head.depth + 11) / 2.5) ** 2))
        signal += 38 * scalp * (1 + 0.5 * head.rough).clip(0)
        signal *= 1 + 0.10 * block.noise(self.seed * 16 + 4, 150)  # coil sensitivity
        return np.maximum(signal, 0).astype(np.float32), band > 0.5

    def _ventricle_distance(self, z: Floats, y: Floats, x: Floats) -> Floats:
        """About millimetres outside the lateral and third ventricles (negative inside); x is unsigned."""
        size = np.float32(self.ventricles)
        middle = 7 + 0.012 * y * y / (1 + 0.01 * np.abs(y)) * np.where(y > 0, 1.6, 0.8)
        across = (x - middle) / (4.2 * size)
        height = (z - 12 + 0.12 * np.maximum(y, 0)) / (7.5 * size)
        along = np.maximum(np.abs(y - 2) - 30, 0) / 7
        lateral = np.sqrt(across**2 + height**2 + along**2)
        third = np.sqrt((x / 2.2) ** 2 + ((y - 4) / 13) ** 2 + ((z + 3) / 9) ** 2)
        fourth = np.sqrt((x / 6) ** 2 + ((y - 30) / 5) ** 2 + ((z + 38) / 9) ** 2)
        return np.minimum(np.minimum((lateral - 1) * 4, (third - 1) * 2.5), (fourth - 1) * 4).astype(np.float32)

    def _lesion(self, head: _Head) -> tuple[Floats, np.ndarray]:
        """Signal gain of the lesions (0 where none), and the voxels inside (bool), CSF not yet taken out."""
        rough = head.rough + 1.3 * head.warp
        gain = np.zeros(rough.shape, np.float32)
        inside = np.zeros(rough.shape, np.bool_)
        for infarct in self.infarcts:
            depth = -_ellipsoid(*head.at, infarct.centre, infarct.radii)
            depth -= 0.13 * rough
            inside |= depth > 0
            patchy = infarct.ratio * (1 + 0.15 * rough).clip(0.6, 1.4)
            np.maximum(gain, patchy * soft_step(depth, 0.08), out=gain)
        return gain, inside

    def _expose(self, clean: Floats, block: Block) -> Floats:
        """Rician noise: the magnitude of a complex signal with independent noise in both parts."""
        for stream, channel in enumerate(clean):
            channel += 11 * self._voxel_noise(block, 2 * stream)
            # In the other part the signal is 0; MR keeps the magnitude of both, so its background is a floor of noise.
            imaginary = 11 * self._voxel_noise(block, 2 * stream + 1)
            np.hypot(channel, imaginary, out=channel)
        return clean


def _ellipsoid(z: Floats, y: Floats, x: Floats, centre: tuple[float, ...], radii: tuple[float, ...]) -> Floats:
    """Normalised radius minus 1: negative inside, 0 on the surface."""
    (cz, cy, cx), (rz, ry, rx) = centre, radii
    return np.sqrt(((z - cz) / rz) ** 2 + ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2).astype(np.float32) - np.float32(
        1
    )


def _outline(z: Floats, y: Floats, x: Floats) -> Floats:
    """About millimetres below the surface of cerebrum, cerebellum and brain stem (negative outside)."""
    cerebrum = -62 * _ellipsoid(z, y, x * (1 - 0.0012 * y), (8, 0, 0), (60, 84, 67))
    cerebrum = np.minimum(cerebrum, z + 34 - 0.10 * y + 0.15 * np.abs(x))  # flat base, temporal lobes hang lower
    return np.maximum(np.maximum(cerebrum, _cerebellum(z, y, x)), _stem(z, y, x))


def _cerebellum(z: Floats, y: Floats, x: Floats) -> Floats:
    """About millimetres below the surface of the cerebellum (negative outside)."""
    return -30 * _ellipsoid(z, y, x, (-38, 42, 0), (26, 34, 50))


def _stem(z: Floats, y: Floats, x: Floats) -> Floats:
    """About millimetres below the surface of the brain-stem (negative outside)."""
    return -12 * _ellipsoid(z, y, x, (-40, 14, 0), (40, 13, 15))


def _deep_grey(z: Floats, y: Floats, x: Floats) -> Floats:
    """About millimetres outside thalamus, lentiform and caudate nuclei (negative inside); x is unsigned."""
    thalamus = 9 * _ellipsoid(z, y, x, (2, 12, 11), (9, 14, 8))
    lentiform = 9 * _ellipsoid(z, y, x - 0.12 * y, (2, -6, 25), (10, 17, 6.5))
    caudate = 6 * _ellipsoid(z, y, x, (9, -24, 13), (10, 9, 5))
    return np.minimum(np.minimum(thalamus, lentiform), caudate)


def _draw_infarcts(random: np.random.Generator) -> list[Infarct]:
    """One main lesion in the territory of an artery of one side, and up to three small ones near it."""
    side = random.choice([-1.0, 1.0])
    # Sizes of lesions are skewed: most are small, a few are very large.
    radius = float(np.clip(random.lognormal(np.log(15), 0.4), 7, 30))
    centre = (random.uniform(-12, 30), random.uniform(-30, 45), side * random.uniform(26, 44))
    stretch = random.uniform(0.8, 1.3, 3)
    ratio = random.uniform(1.1, 2.0)
    infarcts = [Infarct(centre, (radius * stretch[0], radius * stretch[1], radius * stretch[2]), ratio)]
    for _ in range(random.integers(0, 4)):
        z, y, x = np.asarray(centre) + random.normal(0, 1.2 * radius, 3)
        small = random.uniform(3.5, 7)
        infarcts.append(
            # Not across the midline: an artery supplies one hemisphere.
            Infarct((z, y, side * max(side * x, 8)), (small, small, small), ratio * random.uniform(0.5, 0.9))
        )
    return infarcts
