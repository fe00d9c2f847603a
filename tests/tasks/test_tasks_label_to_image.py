"""Images from labels alone: tiles without an anatomy will do, and with one nothing is scored otherwise than pairs."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from networkless import Networkless
from tile_sets import write_set

from metgan_dist.evaluation.runs import check_enough
from metgan_dist.methods import method_class
from metgan_dist.recipe import Recipe
from metgan_dist.tasks import task_class, task_of
from metgan_dist.tasks.held_out import score_held_out

CPU = torch.device("cpu")
DRAWN = ["spade", "spade_vae", "sean", "sean_vae", "redgan", "pix2pix_stroke", "spade_stroke"]


class Flat(Networkless):
    """Draws background -1 and the label 1."""

    task = "label_to_image"

    def translate(self, batch):
        return batch["label"][:, None].float() * 2 - 1

    def pictures(self, batch):
        return {"label": batch["label"][:, None].float(), "generated": self.translate(batch), "real": batch["tumour"]}


class Finds(Networkless):
    """The label is where an image is bright."""

    task = "segmentation"

    def translate(self, batch):
        return (batch["tumour"][:, 0] > 0).long()

    def pictures(self, batch):
        return {}


@pytest.fixture
def tiles(tmp_path):
    return write_set(tmp_path / "tiles", anatomy="", test=5, edge=32)


@pytest.mark.parametrize("name", DRAWN)
def test_methods_that_draw_from_labels_ask_for_image_and_label_alone(name):
    recipe = Recipe.model_validate({"method": {"name": name}})
    for apart in (False, True):
        assert task_class(method_class(name), apart).needs(recipe, False) == [("tumour", "label")]


def test_tiles_without_an_anatomy_are_trained_on_scored_and_shown(tiles):
    task = task_of(Flat(), tiles, {"judge": Finds()})
    assert task.name == "label_to_image"
    assert task.drawn(Recipe()).rows.tolist() == tiles.positions("train").tolist()
    rows = tiles.positions("test")
    assert {name: own.tolist() for name, own in task.samples("test").items()} == {
        "generated": rows.tolist(),
        "real": rows.tolist(),
    }
    assert set(task.given(rows)) == {"label", "truth"}
    assert task.grid(Flat(), rows[:2], CPU)[:4] == b"\x89PNG"
    said = []
    scores = score_held_out(task, Flat(), CPU, said.append)["test"]
    assert said[0] == "identity and affine: left out, these tiles have no anatomy image to predict from"
    assert set(scores) - {"per_volume"} == {"tiles", "generated", "real"}
    errors = [np.abs(tiles.load(row)["label"] * 2.0 - 1 - tiles.load(row)["tumour"][0]).mean() for row in rows]
    assert scores["generated"]["mae"] == pytest.approx(np.mean(errors), rel=1e-6)
    assert scores["generated"]["label_fidelity"] == 1.0  # what is drawn is as bright as what the judge looks for
    assert scores["real"]["label_fidelity"] > 0
    check_enough(tiles, Recipe().scores, rows)


def test_tiles_with_an_anatomy_keep_its_column_and_its_trivial_predictions(tmp_path):
    tiles = write_set(tmp_path, edge=32)
    task, pairs = task_of(Flat(), tiles), task_of(SimpleNamespace(task="paired"), tiles)
    for split in ("val", "test", "unseen"):
        assert task.rows(split).tolist() == pairs.rows(split).tolist()
        assert {name: own.tolist() for name, own in task.compared(split).items()} == {
            name: own.tolist() for name, own in pairs.compared(split).items()
        }
    assert list(task.beside(print)) == ["identity", "affine"]
    assert list(task.given(tiles.positions("test"))) == ["anatomy", "label", "truth"]
    assert task.columns == pairs.columns
