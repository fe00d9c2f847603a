"""FID and KID of a set of generated tiles against a set of real ones, from one pass of the network over each.

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
    """

    def __init__(self, weights: str) -> None:
        self.weights = weights
        self.statistics = FeatureStatistics(FEATURES)
        self.sample = FeatureSample(FEATURES)

    def add(self, features: np.ndarray, tiles: Sequence[int | str]) -> None:
        """Count the features (N, 2048) of a batch of tiles of these names, each tile once."""
        self.statistics.add(features)
        self.sample.add(features, tiles)

    def __add__(self, other: FeatureSet) -> FeatureSet:
        self.check_weights(other)
        joint = FeatureSet(self.weights)
        joint.statistics = self.statistics + other.statistics
        joint.sample = self.sample + other.sample
        return joint

    def check_weights(self, other: FeatureSet) -> None:
        """Raise ValueError if the features of `other` come from other weights."""
        if self.weights != other.weights:
            raise ValueError(f"features of different weights: {self.weights[:8]} and {other.weights[:8]}")


def distribution_scores(generated: FeatureSet, real: FeatureSet) -> dict[str, float]:
    """``fid`` (0 or more), and ``kid`` with ``kid_std`` over subsets (0 for equal distributions, may be negative).

    Lower is better. With other weights than the published ones the names are ``fid_unverified``, ``kid_unverified``
    and ``kid_unverified_std``.

    Raises:
        UserError: fewer than two tiles on a side.
        ValueError: the two sets come from different weights.
    """
    generated.check_weights(real)
    fid, kid = (score_name(score, "inception", real.weights) for score in ("fid", "kid"))
    mean, spread = kernel_distance(generated.sample, real.sample)
    return {fid: frechet_distance(generated.statistics, real.statistics), kid: mean, f"{kid}_std": spread}
