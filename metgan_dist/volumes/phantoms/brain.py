"""Phantom of diffusion-weighted MR of a head with an acute stroke: one channel, tissue classes and the lesion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metgan_dist.volumes.phantoms.brain_shape import BrainShape, InBrain, cerebellum, ellipsoid, stem
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
        z, y, x = np.asarray(FIELD_OF_VIEW) / 2 + random.uniform(-6, 6, 3)
        scale, ventricles = random.uniform(0.94, 1.04), random.uniform(0.85, 1.35)
        self.brain = BrainShape((z, y, x), scale, ventricles, seed)
        self.infarcts = _draw_infarcts(random)

    def anatomy_at(self, axes: Axes) -> Anatomy:
        """What lies where on a grid, without any signal."""
        head = self.brain.at(Block((0, 0, 0), axes))
        z, y, x = head.at
        csf, grey, inside = self._tissues(head)
        wet = csf & (head.chambers < 0)
        parts = (
            (~inside, "background"),
            (wet, "ventricles"),
            (csf, "CSF"),
            (cerebellum(z, y, x) > 0, "cerebellum"),
            (stem(z, y, x) > 0, "brain-stem"),
            (head.nuclei < 0, "deep grey matter"),
            (grey, "grey matter"),
        )
        tissue = np.select([where for where, _ in parts], [NUMBER[name] for _, name in parts], NUMBER["white matter"])
        return Anatomy(tissue.astype(np.uint8), self._lesion(head)[1])

    def _tissues(self, head: InBrain) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where there is fluid, grey matter, and brain at all."""
        inside = head.depth > 0
        csf = (np.minimum(head.sulci - 0.9, head.chambers) < 0) & inside
        grey = ((head.sulci < _CORTEX + 0.5 * head.rough) | (head.nuclei < 0)) & inside & ~csf
        return csf, grey, inside

    def _compose(self, block: Block) -> Truth:
        head = self.brain.at(block)
        csf, grey, inside = self._tissues(head)
        gain, lesion = self._lesion(head)
        lesion &= inside & ~csf
        label = np.where(csf, CSF, np.where(grey, GREY, WHITE)).astype(np.uint8)
        label[lesion] = LESION
        label[~inside] = 0
        dwi, lure = self._signal(head, block)
        dwi *= 1 + gain * (inside & ~csf)
        return Truth(dwi[None], label, lure & inside & ~lesion)

    def _signal(self, head: InBrain, block: Block) -> tuple[Floats, np.ndarray]:
        """Signal of the healthy head with partial volume at every border, and the voxels of the bright base rims."""
        z, y, x = head.at
        grey = np.maximum(soft_step(_CORTEX - head.sulci, 1.2), soft_step(-head.nuclei, 1.5))
        signal = _SIGNAL[WHITE] + (_SIGNAL[GREY] - _SIGNAL[WHITE]) * grey
        wet = soft_step(0.9 - np.minimum(head.sulci, head.chambers + 0.9), 0.7)
        signal += (_SIGNAL[CSF] - signal) * wet
        signal *= 1 + 0.035 * head.rough
        # Susceptibility: brain above the air of the sinuses and ears is squeezed into bright bands.
        air: Floats = np.minimum(
            ellipsoid(z, y, x, (-30, -62, 0), (12, 16, 14)),
            ellipsoid(z, y, np.abs(x), (-36, 2, 52), (10, 14, 10)),
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

    def _lesion(self, head: InBrain) -> tuple[Floats, np.ndarray]:
        """Signal gain of the lesions (0 where none), and the voxels inside (bool), CSF not yet taken out."""
        rough = head.rough + 1.3 * head.warp
        gain = np.zeros(rough.shape, np.float32)
        inside = np.zeros(rough.shape, np.bool_)
        for infarct in self.infarcts:
            depth = -ellipsoid(*head.at, infarct.centre, infarct.radii)
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
