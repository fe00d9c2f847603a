"""Scores of generated images: against the real image, against the imposed label, against trivial predictions.

What needs published networks is imported from its own file, as these take seconds to load: LPIPS from
`scores.perceptual`, Inception features from `scores.inception`, FID and KID of a test set from `scores.distribution`.
"""

from metgan_dist.scores.frechet import FeatureStatistics, frechet_distance
from metgan_dist.scores.image import image_scores, summarise
from metgan_dist.scores.kernel import FeatureSample, kernel_distance
from metgan_dist.scores.labels import dice, pooled_dice, tile_counts
from metgan_dist.scores.reference import AffineMap, References, fit_references
from metgan_dist.scores.significance import compare_methods, mean_interval

__all__ = [
    "AffineMap",
    "FeatureSample",
    "FeatureStatistics",
    "References",
    "compare_methods",
    "dice",
    "fit_references",
    "frechet_distance",
    "image_scores",
    "kernel_distance",
    "mean_interval",
    "pooled_dice",
    "summarise",
    "tile_counts",
]
