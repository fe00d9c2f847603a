"""The method that CONTRIBUTING.md adds is one: entered as it says, it is built from a recipe, learns and translates."""

import re
from pathlib import Path

import pytest
import torch

from metgan_dist import methods
from metgan_dist.recipe import Recipe
from metgan_dist.recipe import methods as sections
from metgan_dist.training.step import Stepper

GUIDE = Path(__file__).parents[1] / "CONTRIBUTING.md"


@pytest.fixture
def entered(monkeypatch):
    """The two lines that the guide asks for."""
    there = {}
    for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.S):
        exec(compile(block, str(GUIDE), "exec"), there)
    monkeypatch.setattr(sections, "SECTIONS", {**sections.SECTIONS, "regression": there["RegressionRecipe"]})
    monkeypatch.setattr(methods, "METHODS", {**methods.METHODS, "regression": there["Regression"]})


def test_the_method_of_the_guide_learns(entered):
    tree = {
        "method": {"name": "regression", "width": 0.125},
        "tiles": {"size": [32]},
        "training": {"learning_rate": 2e-3},
    }
    method = methods.build_method(Recipe.model_validate(tree))
    drawn = torch.Generator().manual_seed(0)
    anatomy = torch.rand(4, 1, 32, 32, generator=drawn) * 2 - 1
    label = (torch.rand(4, 32, 32, generator=drawn) > 0.8).long()
    tumour = 0.5 * anatomy + 0.4 * label.unsqueeze(1) - 0.2
    batch = {"anatomy": anatomy, "tumour": tumour, "label": label}
    stepper = Stepper(method, torch.device("cpu"))
    losses = [float(stepper.step([batch])["generator/pair"]) for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]
    assert method.eval().translate(batch).shape == tumour.shape
    assert set(method.pictures(batch)) == {"anatomy", "generated", "real"}
