"""SIFA (Chen et al. 2020); the other weights of its losses are the release's and no fields (methods/sifa.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from metgan_dist.recipe.method import MethodRecipe
from metgan_dist.recipe.methods.terms import AdversarialForm, AdversarialWeight, CycleWeight, Pool


class SIFARecipe(MethodRecipe):
    """Both directions and a segmentation of its own."""

    paper_training: ClassVar[Mapping[str, Any]] = {"batch_size": 8}

    name: Literal["sifa"] = "sifa"
    alpha1: AdversarialWeight = 1.0
    alpha2: CycleWeight = 10.0
    adversarial: AdversarialForm = "least-squares"
    pool: Pool = 50
