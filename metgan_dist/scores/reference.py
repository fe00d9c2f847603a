"""The two trivial predictions that every method must beat: the anatomy itself, and its best affine intensity map.

A network that only learned to rescale the anatomy scores like the affine map. Least squares is the best affine map
for MSD, least absolute deviation (LAD) for MAE; on dim, sparse tumours they differ much, and comparing the MAE of a
network with a least-squares fit would flatter the network. Both are fitted; `References.affine` is the one with the
smaller MAE on the training tiles.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import scipy  # loads a part of itself when that is first used
from torch import Tensor


@dataclass(frozen=True)
class AffineMap:
    """tumour = slope * anatomy + intercept, clipped to [-1, 1].

    Clipping never hurts: the real image lies in [-1, 1], so it only moves predictions towards it.
    """

    slope: float
    intercept: float

    def __call__(self, anatomy: Tensor) -> Tensor:
        """Map images of any shape in [-1, 1] to predictions of the same shape in [-1, 1]."""
        return (self.slope * anatomy + self.intercept).clamp(-1, 1)


@dataclass(frozen=True)
class References:
    """Trivial predictions fitted on the training tiles; MAEs are those of the training pixels, after clipping."""

    least_squares: AffineMap
    least_absolute: AffineMap
    least_squares_mae: float
    least_absolute_mae: float

    @property
    def affine(self) -> AffineMap:
        """The affine map with the smaller MAE on the training tiles."""
        return self.least_absolute if self.least_absolute_mae <= self.least_squares_mae else self.least_squares

    def predictions(self, anatomy: Tensor) -> dict[str, Tensor]:
        """What each reference predicts for anatomy images in [-1, 1]: ``identity`` and ``affine``."""
        return {"identity": anatomy, "affine": self.affine(anatomy)}


class _PixelSample:
    """A uniform sample of the pixel pairs of a stream, bounded in memory.

    Every pixel draws a random key and the `size` smallest keys stay, so each pixel of the stream is equally likely to
    be kept however many tiles there are.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.random = np.random.default_rng(seed)
        self.keys = np.empty(0)
        self.pairs = np.empty((2, 0))

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Offer the pixels of a tile, anatomy `x` and tumour `y` (n,) each."""
        keys = self.random.random(len(x))
        if len(self.keys) == self.size:
            may_stay = keys < self.keys.max()
            keys, x, y = keys[may_stay], x[may_stay], y[may_stay]
        self.keys = np.concatenate([self.keys, keys])
        self.pairs = np.concatenate([self.pairs, [x, y]], axis=1)
        if len(self.keys) > self.size:
            kept = np.argpartition(self.keys, self.size)[: self.size]
            self.keys, self.pairs = self.keys[kept], self.pairs[:, kept]


def fit_references(pairs: Iterable[tuple[Tensor, Tensor]], *, sample_size: int = 2**18, seed: int = 0) -> References:
    """Fit both affine maps on a stream of training tiles in one pass and bounded memory.

    Args:
        pairs: (anatomy, tumour) images of equal shape, values in [-1, 1]; read once, never held together.
        sample_size: pixels kept for the LAD fit and for the training MAE. Least squares uses every pixel.
        seed: of the sample; the same tiles in the same order give the same maps.

    Raises:
        ValueError: the stream is empty.
    """
    sample = _PixelSample(sample_size, seed)
    count, mean_x, mean_y, spread_x, covariance = 0, 0.0, 0.0, 0.0, 0.0
    for anatomy, tumour in pairs:
        x, y = _pixels(anatomy), _pixels(tumour)
        sample.add(x, y)
        # Chan et al.'s update keeps means and centred sums, which do not cancel as raw sums of squares would.
        joint = count + len(x)
        step_x, step_y = x.mean() - mean_x, y.mean() - mean_y
        weight = count * len(x) / joint
        spread_x += ((x - x.mean()) ** 2).sum() + weight * step_x**2
        covariance += ((x - x.mean()) * (y - y.mean())).sum() + weight * step_x * step_y
        mean_x, mean_y = mean_x + step_x * len(x) / joint, mean_y + step_y * len(x) / joint
        count = joint
    if count == 0:
        raise ValueError("references need at least one training tile")
    slope = covariance / spread_x if spread_x > 0 else 0.0
    least_squares = AffineMap(float(slope), float(mean_y - slope * mean_x))
    least_absolute = fit_least_absolute(*sample.pairs)
    return References(
        least_squares,
        least_absolute,
        _training_mae(least_squares, *sample.pairs),
        _training_mae(least_absolute, *sample.pairs),
    )


def fit_least_absolute(x: np.ndarray, y: np.ndarray) -> AffineMap:
    """The affine map with the least sum of |slope * x + intercept - y| (least absolute deviation).

    For a given slope the best intercept is the median of y - slope * x, which leaves a convex function of the slope
    alone. A constant x has slope 0.
    """

    def cost(slope: float) -> float:
        """Mean |y - slope * x - intercept| at the best intercept."""
        # The median, not the mean: it is what minimises absolute deviations.
        remainder = y - slope * x
        return float(np.abs(remainder - np.median(remainder)).mean())

    slope = 0.0
    if np.ptp(x) > 0:
        reach = 1.0
        while min(cost(-reach), cost(reach)) <= cost(0):  # convex: once both ends are above 0's, the minimum is inside
            reach *= 2
        slope = float(
            # The tolerance is an absolute one: relative to the reach, steep and flat maps are found equally well.
            scipy.optimize.minimize_scalar(
                cost, bounds=(-reach, reach), method="bounded", options={"xatol": 1e-9 * reach}
            ).x
        )
    return AffineMap(slope, float(np.median(y - slope * x)))


def _pixels(image: Tensor) -> np.ndarray:
    return image.detach().double().cpu().numpy().ravel()


def _training_mae(prediction: AffineMap, x: np.ndarray, y: np.ndarray) -> float:
    clipped = np.clip(prediction.slope * x + prediction.intercept, -1, 1)
    return float(np.abs(clipped - y).mean())
