"""Findings over trials that nothing has trained."""

import pytest
from tuning_records import TOTAL

from metgan_dist.recipe import Recipe
from metgan_dist.tuning.findings import Findings
from metgan_dist.tuning.space import search_space
from metgan_dist.tuning.trial import Objective

MAE = Objective("mae", "min")


@pytest.fixture
def findings():
    """Findings over given trials, with the space of MetGAN's weights."""

    def over(*records, objectives=(MAE,), **tuning):
        recipe = Recipe.model_validate({"tuning": {"trials": max(2, len(records)), **tuning}})
        return Findings(recipe, search_space(recipe), objectives, records, TOTAL)

    return over
