"""The two trivial predictions that every method must beat: the anatomy itself, and its best affine intensity map.

A network that only learned to rescale the anatomy scores like the affine map. Least squares is the best affine map
for MSD, least absolute deviation (LAD) for MAE; on dim, sparse tumours they differ much, and comparing the MAE of a
network with a least-squares fit would flatter the network. Both are fitted; `Reference.affine` is the one with the
smaller MAE on the training tiles.

Each channel of the tumour image has a map of its own. From several channels of anatomy it is a sum of them all, fitted
by least squares alone. The anatomy itself predicts a tumour image only where both have equally many channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import scipy  # loads a part of itself when that is first used
import torch
from torch import Tensor

TRIVIAL = ("identity", "affine")


@dataclass(frozen=True)
class AffineMap:
    """One channel of the tumour image = sum of slope * channel of the anatomy + intercept, clipped to [-1, 1].

    Clipping never hurts: the real image lies in [-1, 1], so it only moves predictions towards it.
    """

    slopes: tuple[float, ...]
    intercept: float

    def __call__(self, anatomy: Tensor) -> Tensor:
        """Map images (N, C, [D,] H, W) in [-1, 1], of a channel for each slope, to predictions (N, 1, [D,] H, W)."""
        weighted = [slope * anatomy[:, [k]] for k, slope in enumerate(self.slopes)]
        return (torch.stack(weighted).sum(dim=0) + self.intercept).clamp(-1, 1)


@dataclass(frozen=True)
class Reference:
    """Of one tumour channel, the maps fitted on the training tiles; MAEs are those of their pixels, after clipping."""

    least_squares: AffineMap
    least_squares_mae: float
    least_absolute: AffineMap | None  # of one anatomy channel
    least_absolute_mae: float

    @property
    def affine(self) -> AffineMap:
        """The affine map with the smaller MAE on the training tiles."""
        if self.least_absolute is not None and self.least_absolute_mae <= self.least_squares_mae:
            return self.least_absolute
        return self.least_squares


@dataclass(frozen=True)
class References:
    """Trivial predictions: one `Reference` for each channel of the tumour image."""

    channels: tuple[Reference, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the predictions that there are: ``identity``, where both images have equally many channels, ``affine``."""
        alike = len(self.channels) == len(self.channels[0].affine.slopes)
        return TRIVIAL if alike else TRIVIAL[1:]

    def predictions(self, anatomy: Tensor) -> dict[str, Tensor]:
        """What each of `names` predicts for anatomy images (N, C, [D,] H, W) in [-1, 1]."""
        mapped = torch.cat([reference.affine(anatomy) for reference in self.channels], dim=1)
        return {name: anatomy if name == "identity" else mapped for name in self.names}


class _PixelSample:
    """A uniform sample of the pixels of a stream of tiles, bounded in memory.

    Every pixel draws a random key and the `size` smallest keys stay, so each pixel of the stream is equally likely to
    be kept however many tiles there are.
    """

    def __init__(self, size: int, seed: int, channels: int) -> None:
        self.size = size
        self.random = np.random.default_rng(seed)
        self.keys = np.empty(0)
        self.pixels = np.empty((channels, 0))

    def add(self, pixels: np.ndarray) -> None:
        """Offer the pixels (channels, n) of tiles."""
        keys = self.random.random(len(pixels[0]))
        if len(self.keys) == self.size:
            may_stay = keys < self.keys.max()
            keys, pixels = keys[may_stay], pixels[:, may_stay]
        self.keys = np.concatenate([self.keys, keys])
        self.pixels = np.concatenate([self.pixels, pixels], axis=1)
        if len(self.keys) > self.size:
            kept = np.argpartition(self.keys, self.size)[: self.size]
            self.keys, self.pixels = self.keys[kept], self.pixels[:, kept]


class _Moments:
    """Number, mean and centred products of the pixels of a stream of tiles."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean: np.ndarray = np.zeros(channels)
        self.products: np.ndarray = np.zeros((channels, channels))

    def add(self, pixels: np.ndarray) -> None:
        """Count the pixels (channels, n) of tiles."""
        # Chan et al.'s update keeps means and centred sums, which do not cancel as raw sums of squares would.
        number = pixels.shape[1]
        mean = pixels.mean(axis=1)
        centred, step = pixels - mean[:, None], mean - self.mean
        joint = self.count + number
        self.products += centred @ centred.T + self.count * number / joint * np.outer(step, step)
        self.mean += step * number / joint
        self.count = joint

    def least_squares(self, inputs: int, output: int) -> AffineMap:
        """The best map for MSD of the first `inputs` channels to channel `output`; constant inputs have slope 0."""
        among = self.products[:inputs, :inputs]
        slopes = np.linalg.pinv(among, hermitian=True) @ self.products[:inputs, output]
        return AffineMap(tuple(slopes.tolist()), float(self.mean[output] - slopes @ self.mean[:inputs]))


def fit_references(pairs: Iterable[tuple[Tensor, Tensor]], *, sample_size: int = 2**18, seed: int = 0) -> References:
    """Fit the affine maps on a stream of training tiles in one pass and bounded memory.

    Args:
        pairs: (anatomy, tumour) images (N, C, [D,] H, W), each with its own number of channels, values in [-1, 1]; read
            once, never held together.
        sample_size: pixels kept for the LAD fit and for the training MAE. Least squares uses every pixel.
        seed: of the sample; the same tiles in the same order give the same maps.

    Raises:
        ValueError: the stream is empty.
    """
    inputs, moments, sample = 0, None, None
    for anatomy, tumour in pairs:
        pixels = np.concatenate([_pixels(anatomy), _pixels(tumour)])
        if moments is None or sample is None:
            inputs = anatomy.shape[1]
            moments, sample = _Moments(len(pixels)), _PixelSample(sample_size, seed, len(pixels))
        moments.add(pixels)
        sample.add(pixels)
    if moments is None or sample is None:
        raise ValueError("references need at least one training tile")
    x = sample.pixels[:inputs]
    references = []
    for output, y in enumerate(sample.pixels[inputs:], start=inputs):
        squares = moments.least_squares(inputs, output)
        absolute = fit_least_absolute(x[0], y) if inputs == 1 else None
        maes = (np.inf if fit is None else _training_mae(fit, x, y) for fit in (squares, absolute))
        references.append(Reference(squares, next(maes), absolute, next(maes)))
    return References(tuple(references))


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
    return AffineMap((slope,), float(np.median(y - slope * x)))


def _pixels(images: Tensor) -> np.ndarray:
    """(channels, all pixels) of images (N, C, ...)."""
    return images.detach().double().cpu().numpy().swapaxes(0, 1).reshape(images.shape[1], -1)


def _training_mae(prediction: AffineMap, x: np.ndarray, y: np.ndarray) -> float:
    clipped = np.clip(np.array(prediction.slopes) @ x + prediction.intercept, -1, 1)
    return float(np.abs(clipped - y).mean())
