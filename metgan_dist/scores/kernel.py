"""KID (Bińkowski et al. 2018): unbiased for sets of any size, hence FID's companion on small test sets.

It is the squared maximum mean discrepancy of two sets of features under the kernel k(x, y) = (x.y / d + 1)^3. Its
expectation is 0 for equal distributions, so single values may be negative. Only a bounded sample of the features is
kept (41 MB for 5000 tiles), and which tiles are in it does not depend on who scored them or when.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from metgan_dist.errors import UserError

# 100 subsets of 1000 tiles, as is usual for KID; the sample is a few times the subset, so that they differ.
SAMPLE = 5000
SUBSETS = 100
LARGEST_SUBSET = 1000


class FeatureSample:
    """Features of at most `size` tiles out of any number, a uniform choice that follows from the tiles' names alone.

    Every tile has a rank, a hash of its name and the seed, and the tiles of lowest rank stay. So the sample is the same
    however the tiles are ordered, batched or divided among workers. Join parts by ``+``. A tile that comes twice
    counts once: several images of one tile need names of their own, such as ``"17/2"``.

    Args:
        features: their number d per tile.
        size: tiles kept at most.
        seed: of the choice.
    """

    def __init__(self, features: int, size: int = SAMPLE, seed: int = 0) -> None:
        self.size = size
        self.seed = seed
        self.ranks = np.empty(0, dtype=np.uint64)  # ascending
        self.features = np.empty((0, features), dtype=np.float32)

    def add(self, features: np.ndarray, tiles: Sequence[int | str]) -> None:
        """Offer a batch of features (N, d) of the N tiles of these names."""
        self._keep(np.array([self._rank(tile) for tile in tiles], dtype=np.uint64), features)

    def __add__(self, other: FeatureSample) -> FeatureSample:
        if (self.size, self.seed) != (other.size, other.seed):
            raise ValueError("cannot join samples of different size or seed")
        joint = FeatureSample(self.features.shape[1], self.size, self.seed)
        for part in (self, other):
            joint._keep(part.ranks, part.features)
        return joint

    def _keep(self, ranks: np.ndarray, features: np.ndarray) -> None:
        if len(ranks) != len(features):
            raise ValueError(f"{len(features)} rows of features for {len(ranks)} tiles")
        if len(self.ranks) == self.size:  # a full sample changes ever more rarely: spare it the copy
            enters = ranks < self.ranks[-1]
            ranks, features = ranks[enters], features[enters]
        if len(ranks) == 0:
            return
        # Sorts by rank, and drops the second of two with the same name.
        self.ranks, first = np.unique(np.concatenate([self.ranks, ranks]), return_index=True)
        self.ranks, first = self.ranks[: self.size], first[: self.size]
        self.features = np.concatenate([self.features, features.astype(np.float32)])[first]

    def _rank(self, tile: int | str) -> int:
        # Python's own hash of a string differs from process to process.
        return int.from_bytes(hashlib.blake2b(f"{self.seed} {tile}".encode(), digest_size=8).digest(), "big")


def kernel_distance(
    generated: FeatureSample,
    real: FeatureSample,
    *,
    subsets: int = SUBSETS,
    subset_size: int | None = None,
    seed: int = 0,
) -> tuple[float, float]:
    """Mean and standard deviation (population) of the squared discrepancy over random subsets of both samples.

    Args:
        subsets: how many pairs of subsets are drawn, each without replacement.
        subset_size: tiles in a subset; by default half of the smaller sample and at most 1000, so that subsets of
            small samples differ. The mean estimates the same value for every size, the deviation falls with the size.
        seed: of the subsets; the same samples give the same result.

    Raises:
        UserError: a sample has fewer than two tiles, or fewer than the subset size.
    """
    smaller = min(len(generated.features), len(real.features))
    size = subset_size or min(LARGEST_SUBSET, max(2, smaller // 2))
    if not 2 <= size <= smaller:
        raise UserError(f"KID: needs at least {max(size, 2)} tiles on each side, got {smaller}")
    random = np.random.default_rng(seed)
    values = [
        discrepancy(*(sample.features[random.permutation(len(sample.features))[:size]] for sample in (generated, real)))
        for _ in range(subsets)
    ]
    return float(np.mean(values)), float(np.std(values))


def discrepancy(one: np.ndarray, other: np.ndarray) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy of features (m, d) and (n, d), m and n at least 2.

    The mean of k over pairs of different rows within each set, minus twice the mean over pairs across; in float64.
    """
    one, other = one.astype(np.float64), other.astype(np.float64)
    return _within(one) + _within(other) - 2 * float(_kernel(one, other).mean())


def _within(features: np.ndarray) -> float:
    values = _kernel(features, features)
    # Without the pairs of a row with itself: they are what biases the plain estimate upwards.
    return float(values.sum() - np.trace(values)) / (len(features) * (len(features) - 1))


def _kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one @ other.T / one.shape[1] + 1) ** 3
