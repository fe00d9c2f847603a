"""Diffusion-weighted signal of a brain whose tissues are known: what a scanner would make of a map of tissues.

The numbers were measured in public diffusion-weighted images at b = 1000 s/mm2, each as a share of the white matter's:
three patients of ISLES'22 (2 mm, human lesion masks; tissue told apart by the diffusion coefficient), two patients of a
set with 5 mm slices (b = 0 and brain masks; lesions by a network), one healthy child (an average of weighted images, a
map of tissues by ANTs). Grey and white matter could be told apart in the last alone. Cerebellum and brain-stem were not
measured: they are set between grey and white matter, and to white matter.
"""

from __future__ import annotations

import numpy as np
import scipy  # loads a part of itself when that is first used
from numpy.typing import NDArray

from metgan_dist.volumes.phantoms.field import Axes, Floats, random_generator, smooth_noise

# Classes of a map of tissues by number, as FreeSurfer's numbers are grouped, too.
TISSUES = (
    "background",
    "white matter",
    "grey matter",
    "deep grey matter",
    "CSF",
    "ventricles",
    "cerebellum",
    "brain-stem",
)
NUMBER = {name: number for number, name in enumerate(TISSUES)}
# Tissue that can have a stroke.
PARENCHYMA = tuple(
    NUMBER[name] for name in ("white matter", "grey matter", "deep grey matter", "cerebellum", "brain-stem")
)

# White matter in a scanner's units: 103 to 318 in five patients.
WHITE_MATTER = (100.0, 320.0)
# (share of the white matter's signal, standard deviation of it between patients).
SHARES = {
    "white matter": (1.0, 0.0),
    "grey matter": (1.23, 0.06),  # 1.233, medians in one child
    "deep grey matter": (0.99, 0.05),  # 0.990
    "CSF": (0.42, 0.13),  # 0.30, 0.42, 0.62, 0.34 in ventricles and wide sulci of patients
    "ventricles": (0.42, 0.13),
    "cerebellum": (1.11, 0.05),
    "brain-stem": (1.0, 0.05),
    "background": (0.0, 0.0),
}
LESION = (1.65, 0.28)  # medians of lesions: 1.42, 1.99, 1.61 (human masks), 1.38 (a network's)
WITHIN_LESION = 0.18  # spread within one: 0.11, 0.20, 0.27
TEXTURE = 0.10  # of tissue over some millimetres; quartiles at 0.91 and 1.11, noise included
BIAS = 0.07  # of the coil, over some centimetres: 0.04, 0.07, 0.09
NOISE = (0.050, 0.083)  # of single voxels: 0.050 to 0.083
SCALP = (0.08, 0.165)  # around the brain
# Brain without a lesion reaches 1.4 to 1.7 at its 99th percentile, and 2.3 to 2.8 at the 99.9th.
BRIGHT_RIM, BRIGHT_SPOT = (0.3, 1.3), (0.15, 0.5)
MOST_SPOTS, SPOT = 5, (2.5, 7.0)  # how many, radius in millimetres
IN_PLANE = (1.8, 2.6)  # width of a point at half its height, millimetres
SLICE = (0.6, 1.0)  # thickness of a slice over the distance of slices


def draw_signal(tissue: NDArray[np.uint8], lesion: NDArray[np.bool_], axes: Axes, seed: int) -> NDArray[np.int16]:
    """A diffusion-weighted image (z, y, x) of a map of tissues with lesions, both on the grid of the axes (mm).

    z runs towards the head, y towards the face. Deterministic by seed. What else is bright is no lesion, and healthy
    cases have it as stroke cases do: rims above the air of the skull's base, and spots left of old damage.
    """
    random = random_generator(seed, 31)
    step = [float(axis[1] - axis[0]) if len(axis) > 1 else 1.0 for axis in axes]
    means = np.array([max(0.0, random.normal(*SHARES[name])) for name in TISSUES], np.float32)
    signal = means[tissue]
    fields = seed * 16 + 5
    signal *= 1 + TEXTURE * 0.7 * smooth_noise(fields, axes, 9)
    signal *= 1 + _bright(tissue, axes, random, fields + 1)
    ratio = float(np.clip(random.normal(*LESION), 1.15, 3.0))
    patchy = 1 + WITHIN_LESION * smooth_noise(fields + 3, axes, 12)
    signal = np.where(lesion, np.maximum(signal, means[NUMBER["white matter"]]) * ratio * patchy.clip(0.6, 1.5), signal)
    signal += _scalp(tissue > 0, step, random.uniform(*SCALP)) * (1 + 0.4 * smooth_noise(fields + 4, axes, 20)).clip(0)
    width = [random.uniform(*SLICE) * step[0], *(2 * [random.uniform(*IN_PLANE)])]
    # 2.355 standard deviations of a Gaussian are its width at half the height.
    blurred = scipy.ndimage.gaussian_filter(
        signal.astype(np.float32), [wide / 2.355 / size for wide, size in zip(width, step, strict=True)]
    )
    blurred *= 1 + BIAS * smooth_noise(fields + 5, axes, 150)
    noise, level = random.uniform(*NOISE), np.exp(random.uniform(*np.log(WHITE_MATTER)))
    # MR keeps the magnitude of a complex signal, so that its background is a floor of noise.
    parts = random.standard_normal((2, *blurred.shape), dtype=np.float32) * np.float32(noise)
    magnitude = np.hypot(blurred + parts[0], parts[1])
    return np.rint(magnitude * level).clip(0, 32767).astype(np.int16)


def _bright(tissue: NDArray[np.uint8], axes: Axes, random: np.random.Generator, seed: int) -> Floats:
    """Gain of the signal where it is bright without a lesion."""
    z, y, x = (axis.astype(np.float32) for axis in axes)
    low, high = extent(tissue > 0, axes)
    # The base of the frontal and temporal lobes lies above air: the lowest third, in front of the middle.
    height = ((z - low[0]) / max(high[0] - low[0], 1))[:, None, None]
    ahead = ((y - low[1]) / max(high[1] - low[1], 1))[None, :, None]
    rim = (tissue == NUMBER["grey matter"]) & (height < 0.4) & (ahead > 0.45)
    gain = random.uniform(*BRIGHT_RIM) * smooth_noise(seed, axes, (12, 14, 14)).clip(0) * rim
    places = np.argwhere(tissue == NUMBER["white matter"])
    for _ in range(int(random.integers(0, MOST_SPOTS + 1)) if len(places) else 0):
        at = places[random.integers(len(places))]
        apart = (z - z[at[0]])[:, None, None] ** 2 + (y - y[at[1]])[None, :, None] ** 2 + (x - x[at[2]]) ** 2
        np.maximum(gain, random.uniform(*BRIGHT_SPOT) * (apart < random.uniform(*SPOT) ** 2), out=gain)
    return gain.astype(np.float32)


def _scalp(brain: NDArray[np.bool_], step: list[float], level: float) -> Floats:
    """A faint shell some millimetres outside the brain."""
    distance = scipy.ndimage.distance_transform_edt(~brain, sampling=step).astype(np.float32)
    return np.float32(level) * np.exp(-(((distance - 11) / np.float32(3)) ** 2)) * ~brain


def extent(inside: NDArray[np.bool_], axes: Axes) -> tuple[list[float], list[float]]:
    """Lowest and highest coordinates (z, y, x) of what is inside; those of the grid where nothing is."""
    low, high = [], []
    for number, axis in enumerate(axes):
        there = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != number)))
        low.append(float(axis[there[0]] if len(there) else axis[0]))
        high.append(float(axis[there[-1]] if len(there) else axis[-1]))
    return low, high
