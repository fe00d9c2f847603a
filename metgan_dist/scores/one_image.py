"""Samples of a generator that has learned one image, beside that image: their variety, intensities and patches.

Distances are in standard deviations of the real image, so that they can be compared between images. None needs
published weights; the single-image FID of SinGAN's authors does, of a network that knows photographs, and is left out.
"""

from __future__ import annotations

import numpy as np

PATCH = 7  # pixels, as in Karras et al. 2018
PATCHES, DIRECTIONS = 4096, 64


def rmse(image: np.ndarray, real: np.ndarray) -> float:
    """Root of the mean squared difference of two arrays of one shape."""
    return float(np.sqrt(np.mean((image.astype(np.float64) - real) ** 2)))


def sample_scores(samples: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Scores of samples (S, C, [D,] H, W), two or more, of an image (C, [D,] H, W) that is not constant.

    - ``diversity``: standard deviation of a pixel over the samples, mean over the pixels (Shaham et al. 2019, section
      3): 0 where all are alike.
    - ``intensity_distance``: Wasserstein's distance between the intensities of a sample and of the image, mean over
      samples and channels.
    - ``patch_distance``: sliced Wasserstein distance between their patches of 7 pixels, mean over samples.
    """
    samples, real = samples.astype(np.float64), real.astype(np.float64)
    unit = real.std()
    ordered = np.sort(real.reshape(len(real), -1))
    intensities = np.abs(np.sort(samples.reshape(*samples.shape[:2], -1)) - ordered).mean()
    return {
        "diversity": float(samples.std(axis=0, ddof=1).mean() / unit),
        "intensity_distance": float(intensities / unit),
        "patch_distance": float(np.mean([_patch_distance(sample, real) for sample in samples]) / unit),
    }


def _patch_distance(image: np.ndarray, real: np.ndarray) -> float:
    """Mean over random directions of the distance between the patches' projections; the same draws for any image."""
    ours, theirs = (_patches(own, np.random.default_rng(0)) for own in (image, real))
    directions = np.random.default_rng(1).standard_normal((ours.shape[1], DIRECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    one, other = (np.sort(patches @ directions, axis=0) for patches in (ours, theirs))
    return float(np.abs(one - other).mean())


def _patches(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Patches of an image (C, ...), a row each: PATCHES at random places."""
    axes = tuple(range(1, image.ndim))
    windows = np.lib.stride_tricks.sliding_window_view(image, [min(PATCH, edge) for edge in image.shape[1:]], axes)
    places = tuple(random.integers(0, edge, PATCHES) for edge in windows.shape[1 : image.ndim])
    return np.moveaxis(windows[(slice(None), *places)], 0, 1).reshape(PATCHES, -1)
