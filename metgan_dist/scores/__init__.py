"""Scores of generated images: against the real image, against the imposed label, against trivial predictions."""

from metgan_dist.scores.image import image_scores, summarise
from metgan_dist.scores.labels import PooledDice, dice, label_fidelity
from metgan_dist.scores.reference import AffineMap, References, fit_references

__all__ = [
    "AffineMap",
    "PooledDice",
    "References",
    "dice",
    "fit_references",
    "image_scores",
    "label_fidelity",
    "summarise",
]
