"""FID and KID of a set of generated tiles against a set of real ones, from one pass of the network over each.

Tiles of several channels are as many sets of grey images: each channel is compared with its own, and a score is the
mean over channels.

On a cluster each task fills a `FeatureSet` from its part of the tiles, and the parts are joined by ``+``:

    features = InceptionFeatures(device)
    real, generated = FeatureSet(features.weights), FeatureSet(features.weights)
    for batch in batches:
        real.add(features(batch["tumour"]), names)
        generated.add(features(method.translate(batch)), names)
    distribution_scores(generated, real)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metgan_dist.scores.frechet import FeatureStatistics, frechet_distance
from metgan_dist.scores.inception import FEATURES
from metgan_dist.scores.kernel import FeatureSample, kernel_distance
from metgan_dist.weights import score_name


class FeatureSet:
    """What is kept of the Inception features of a set of tiles: bounded in memory, mergeable, picklable.

    Args:
        weights: `InceptionFeatures.weights`, so that features of different weights never meet.
        channels: of the tiles.
    """

    def __init__(self, weights: str, channels: int = 1) -> None:
        self.weights = weights
        self.statistics = [FeatureStatistics(FEATURES) for _ in range(channels)]
        self.samples = [FeatureSample(FEATURES) for _ in range(channels)]

    def add(self, features: np.ndarray, tiles: Sequence[int | str]) -> None:
        """Count the features (N, channels, 2048) of a batch of tiles of these names, each tile once."""
        for number, (statistics, sample) in enumerate(zip(self.statistics, self.samples, strict=True)):
            statistics.add(features[:, number])
            sample.add(features[:, number], tiles)

    def __add__(self, other: FeatureSet) -> FeatureSet:
        self.check_fits(other)
        joint = FeatureSet(self.weights, len(self.samples))
        joint.statistics = [one + another for one, another in zip(self.statistics, other.statistics, strict=True)]
        joint.samples = [one + another for one, another in zip(self.samples, other.samples, strict=True)]
        return joint

    def check_fits(self, other: FeatureSet) -> None:
        """Raise ValueError if the features of `other` come from other weights, or from other numbers of channels."""
        if self.weights != other.weights:
            raise ValueError(f"features of different weights: {self.weights[:8]} and {other.weights[:8]}")
        if len(self.samples) != len(other.samples):
            raise ValueError(f"features of {len(self.samples)} and of {len(other.samples)} channels")


def distribution_scores(generated: FeatureSet, real: FeatureSet) -> dict[str, float]:
    """``fid`` (0 or more), and ``kid`` with ``kid_std`` over subsets (0 for equal distributions, may be negative).

    Lower is better; means over channels. With other weights than the published ones the names are ``fid_unverified``,
    ``kid_unverified`` and ``kid_unverified_std``.

    Raises:
        UserError: fewer than two tiles on a side.
        ValueError: the two sets come from different weights, or have different numbers of channels.
    """
    generated.check_fits(real)
    fid, kid = (score_name(score, "inception", real.weights) for score in ("fid", "kid"))
    frechet = [frechet_distance(*pair) for pair in zip(generated.statistics, real.statistics, strict=True)]
    kernel = [kernel_distance(*pair) for pair in zip(generated.samples, real.samples, strict=True)]
    mean, spread = np.mean(kernel, axis=0).tolist()
    return {fid: float(np.mean(frechet)), kid: mean, f"{kid}_std": spread}
