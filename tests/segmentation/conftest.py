"""A segmentor on disk, as a fold leaves one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tile_sets import HIGH, squares
from untrained import write_untrained

from metgan_dist.methods import build_method
from metgan_dist.recipe import Recipe


@pytest.fixture(scope="session")
def segmentor(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """segmentor(classes=, seed=) -> an untrained checkpoint with a threshold that a fifth of the pixels exceeds."""

    def write(classes: int = 2, seed: int = 0) -> str:
        tumour = torch.from_numpy(squares(4, 64, 99, classes)[0]["tumour"] / (HIGH / 2) - 1).float()[:, None]
        with torch.no_grad():
            logits = build_method(recipe_of(classes, seed, 0.5)).eval().networks["segmentor"](tumour)
        recipe = recipe_of(classes, seed, float(logits.max(dim=1)[0].quantile(0.8).sigmoid()))
        return write_untrained(tmp_path_factory.mktemp("segmentor"), recipe)

    return write


def recipe_of(classes: int, seed: int, threshold: float) -> Recipe:
    return Recipe.model_validate(
        {
            "method": {"name": "segmentor", "segmentor_width": 1 / 16, "segmentor_threshold": threshold},
            "data": {"classes": classes},
            "tiles": {"size": [64]},
            "training": {"seed": seed},
        }
    )
