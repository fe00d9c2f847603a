"""The Fréchet distance of FID (Heusel et al. 2017) from statistics that are gathered as the tiles pass by.

FID compares the mean and the covariance of two sets of features. Both are kept as running sums of bounded size (33 MB
for 2048 features), so a set may have any number of tiles, and parts counted by several workers are joined by ``+``.
FID is biased upwards for small sets, most of all below some thousand tiles, where the covariance is far from full rank:
compare only sets of equal size, or look at KID.
"""

from __future__ import annotations

import numpy as np

from metgan_dist.errors import UserError


class FeatureStatistics:
    """Number, mean and centred second moments of features, in float64.

    Means and centred sums are updated as Chan et al. do; raw sums of squares would cancel.

    Args:
        features: their number d per tile.
    """

    def __init__(self, features: int) -> None:
        self.count = 0
        self.mean = np.zeros(features)
        self.scatter = np.zeros((features, features))  # sum of (x - mean) (x - mean)^T

    def add(self, features: np.ndarray) -> None:
        """Count a batch of features (N, d)."""
        if len(features) == 0:
            return
        features = np.asarray(features, dtype=np.float64)
        mean = features.mean(axis=0)
        centred = features - mean
        self._join(len(features), mean, centred.T @ centred)

    def __add__(self, other: FeatureStatistics) -> FeatureStatistics:
        joint = FeatureStatistics(len(self.mean))
        for part in (self, other):
            joint._join(part.count, part.mean, part.scatter)
        return joint

    def _join(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        if count == 0:
            return
        joint = self.count + count
        # Chan et al.: the joint scatter is that of both parts and that of their means about the joint mean.
        step = mean - self.mean
        self.scatter += scatter + np.outer(step, step) * (self.count * count / joint)
        self.mean = self.mean + step * (count / joint)
        self.count = joint

    def covariance(self) -> np.ndarray:
        """(d, d) float64, unbiased (divided by count - 1). Raises UserError for fewer than two tiles."""
        if self.count < 2:
            raise UserError(f"FID: needs at least two tiles on each side, got {self.count}")
        return self.scatter / (self.count - 1)


def frechet_distance(generated: FeatureStatistics, real: FeatureStatistics) -> float:
    """Squared Fréchet distance of two Gaussians, pytorch-fid's formula: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    The trace of the root is the sum of the roots of the eigenvalues of C1^(1/2) C2 C1^(1/2), a symmetric matrix whose
    eigenvalues are real and not negative. So nothing imaginary has to be dropped and nothing added to the diagonal
    where C1 C2 is singular, as it is for fewer tiles than features. 0 for equal sets, up to rounding.
    """
    one, other = generated.covariance(), real.covariance()
    values, vectors = np.linalg.eigh(one)
    # Rounding leaves some eigenvalues of a singular covariance a little below 0.
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ other @ root)
    step = generated.mean - real.mean
    return float(step @ step + np.trace(one) + np.trace(other) - 2 * np.sqrt(product.clip(min=0)).sum())
