"""Scores of a generated image against the real one, tile by tile.

Everything is computed on the [-1, 1] scale that the networks work in, so the data range is 2: an MAE of 0.02 is one per
cent of the range. Papers that score on [0, 1] report an MAE half as large and an MSD a quarter as large.

Channels are scored as they are, whatever their number: nothing is converted to grey or to colour, nothing rounded to
8 bits. A score of a tile is the mean over its channels, each scored alone; PSNR, as in image libraries, is that of the
MSD over all of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import skimage  # loads a part of itself when that is first used
from torch import Tensor

from metgan_dist.errors import UserError

DATA_RANGE = 2.0
SSIM_SIGMA = 1.5  # Wang et al. 2004; scikit-image cuts the Gaussian at 3.5 sigma, which gives the paper's 11 pixels
SSIM_WINDOW = 11


def image_scores(generated: Tensor, real: Tensor) -> dict[str, np.ndarray]:
    """Score each generated tile against its real tile.

    Args:
        generated, real: (N, C, H, W) or (N, C, D, H, W), any floating type and device, values in [-1, 1].

    Returns:
        One array (N,) of float64 per score:

        - ``mae``: mean absolute difference, 0 to 2.
        - ``msd``: mean squared difference, 0 to 4.
        - ``ssim``: structural similarity, Gaussian window of 11 pixels (sigma 1.5), data range 2.
        - ``psnr``: peak signal-to-noise ratio in dB for a peak of 2; infinite for identical tiles.
        - ``correlation``: normalised cross-correlation at no shift, that is Pearson's coefficient over the pixels of a
          channel, -1 to 1, whatever the scale of either (CCoeff in the supplement of Horvath et al.'s preprint, table
          3); 0 where either is constant.

    Raises:
        ValueError: the shapes differ or are not those of a batch of images.
        UserError: the tiles are smaller than the SSIM window.
    """
    if generated.shape != real.shape or generated.ndim not in (4, 5):
        raise ValueError(f"scores need two equal batches, got {tuple(generated.shape)} and {tuple(real.shape)}")
    if min(generated.shape[2:]) < SSIM_WINDOW:
        size = " x ".join(str(length) for length in generated.shape[2:])
        raise UserError(f"tiles.size: {size} is too small for SSIM; use at least {SSIM_WINDOW} pixels along every axis")
    pairs = zip(_as_arrays(generated), _as_arrays(real), strict=True)
    rows = [_tile_scores(one, other) for one, other in pairs]
    return {name: np.array([row[name] for row in rows]) for name in ("mae", "msd", "ssim", "psnr", "correlation")}


def summarise(per_tile: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Mean over the tiles under the score's own name, standard deviation (population) under ``<name>_std``.

    A score with no tiles is NaN; the spread of a score that is infinite somewhere is NaN too.
    """
    summary: dict[str, float] = {}
    for name, values in per_tile.items():
        summary[name] = float(np.mean(values)) if len(values) else float("nan")
        finite = len(values) > 0 and bool(np.isfinite(values).all())
        summary[f"{name}_std"] = float(np.std(values)) if finite else float("nan")
    return summary


def _as_arrays(images: Tensor) -> np.ndarray:
    return images.detach().double().cpu().numpy()


def _tile_scores(generated: np.ndarray, real: np.ndarray) -> dict[str, float]:
    difference = generated - real
    msd = float(np.mean(difference**2))
    # Gaussian weights and the population's covariance are Wang et al.'s; scikit-image's defaults are others.
    ssim = skimage.metrics.structural_similarity(
        generated,
        real,
        channel_axis=0,
        data_range=DATA_RANGE,
        gaussian_weights=True,
        sigma=SSIM_SIGMA,
        use_sample_covariance=False,
    )
    # Not scikit-image's, whose file loads all of scipy.stats: a second in each worker of a training.
    psnr = 10 * np.log10(DATA_RANGE**2 / msd) if msd > 0 else np.inf
    return {
        "mae": float(np.mean(np.abs(difference))),
        "msd": msd,
        "ssim": float(ssim),
        "psnr": float(psnr),
        # Channel by channel: two that differ in brightness would agree together, whatever they show.
        "correlation": float(np.mean([_correlation(*pair) for pair in zip(generated, real, strict=True)])),
    }


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Normalised cross-correlation at no shift: sum (a - mean a)(b - mean b) / (n std a std b).

    A constant image has no direction to agree with, so it scores 0, not NaN.
    """
    # Asked of the range, not of the variance, which rounding keeps a little above 0.
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])
