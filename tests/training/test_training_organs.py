"""RedGAN is told of the tiles' organs: from the index through the batches to its images, or refused in one line."""

import numpy as np
import pytest
import torch
from tile_sets import write_set

from metgan_dist.errors import UserError
from metgan_dist.methods import build_method
from metgan_dist.recipe import Recipe
from metgan_dist.tasks import task_of
from metgan_dist.tiles.stream import tile_batches
from metgan_dist.training.organs import never_trained, with_organs
from metgan_dist.training.step import Stepper
from metgan_dist.training.validation import Validator

ORGANS = ("lung", "heart", "liver")


def recipe(name="redgan", **method):
    method = {"name": name, "width": 1 / 32, "segmentor_width": 1 / 16, **method}
    return Recipe.model_validate({"method": method, "tiles": {"size": [64]}})


def test_the_organs_of_the_tiles_become_the_global_classes(tmp_path):
    tiles = write_set(tmp_path, organs=ORGANS, volumes=3)
    known = with_organs(recipe(), tiles)
    assert known.method.organs == ("heart", "liver", "lung")
    assert build_method(known).global_classes == 3
    assert with_organs(known, tiles) == known
    spare = with_organs(recipe(global_classes=5), tiles)
    assert (build_method(spare).global_classes, build_method(spare).organs) == (5, ("heart", "liver", "lung"))
    own = with_organs(recipe(organs="lung,liver,heart,brain"), tiles)
    assert build_method(own).organs == ("lung", "liver", "heart", "brain")
    assert never_trained(own, tiles) == "method.organs: no training tile is of brain: images of it are guesses"
    assert never_trained(known, tiles) == ""


def test_without_organs_or_need_of_them_nothing_changes(tmp_path):
    named, nameless = write_set(tmp_path / "a", organs=ORGANS), write_set(tmp_path / "b")
    for given, tiles in ((recipe(), nameless), (recipe(global_classes=1), named), (recipe("spade"), named)):
        assert with_organs(given, tiles) == given
    assert build_method(recipe()).global_classes == 1


@pytest.mark.parametrize(
    ("method", "organs", "culprit"),
    [
        ({"global_classes": 4}, ("",), "4 classes, but .* names no organ; give its volumes an `organ`"),
        ({"global_classes": 2}, ORGANS, r"2 classes, but there are 3 organs \(heart, liver, lung\) in .*; set it to 3"),
        ({}, ("lung", ""), "18 of 36 tiles of .* are of no organ, not of lung"),
        ({"organs": "liver,heart"}, ORGANS, "12 of 36 tiles of .* are of lung, not of liver, heart"),
    ],
)
def test_tiles_that_do_not_fit_are_one_line(tmp_path, method, organs, culprit):
    tiles = write_set(tmp_path, organs=organs, volumes=12, train=27)
    with pytest.raises(UserError, match=f"^method.global_classes: {culprit}") as caught:
        with_organs(recipe(**method), tiles)
    assert "\n" not in str(caught.value)


def lively(method):
    for module in method.networks["generator"].modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and not hasattr(module, "parametrizations"):
            torch.nn.init.xavier_normal_(module.weight)
    return method


def test_images_are_of_the_tiles_organ_also_where_another_set_counts_organs_otherwise(tmp_path):
    """The generator knows three organs, the set that is translated one of them and a fourth."""
    method = lively(build_method(with_organs(recipe(), write_set(tmp_path / "a", organs=ORGANS, volumes=3)))).eval()
    other = write_set(tmp_path / "b", organs=("lung", "brain"), volumes=2)
    (batch,) = tile_batches(other, [0, 2], 2, method.organs)
    assert batch["organ"].tolist() == [2, 2]
    expected = method.networks["generator"](batch["label"], torch.tensor([2, 2]))
    torch.testing.assert_close(method.translate(batch), expected)
    assert not torch.allclose(expected, method.networks["generator"](batch["label"], torch.tensor([0, 0])), atol=1e-3)
    (batch,) = tile_batches(other, [1], 1, method.organs)
    with pytest.raises(UserError, match="-1 is an organ that the method was not trained on, or none"):
        method.translate(batch)


def test_validation_tells_the_generator_of_each_tiles_organ(tmp_path, monkeypatch):
    tiles = write_set(tmp_path, organs=ORGANS, volumes=3, val=6)
    method, rows, seen = build_method(with_organs(recipe(), tiles)), tiles.positions("val"), []
    translate = type(method).translate
    monkeypatch.setattr(
        type(method), "translate", lambda self, batch: seen.append(batch["organ"]) or translate(self, batch)
    )
    Validator(task_of(method, tiles), torch.device("cpu"))(Stepper(method, torch.device("cpu")))
    names = np.array(method.organs)[torch.cat(seen)[: len(rows)].numpy()]
    assert names.tolist() == tiles.index["organ"].iloc[rows].tolist()
