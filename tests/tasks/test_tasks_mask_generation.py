"""Mask generation: as many masks as are held out, the same ones each time, and copies told from others."""

import io

import numpy as np
import pytest
import torch
from mask_sets import cut_masks
from PIL import Image

from metgan_dist.methods import build_method
from metgan_dist.methods.lesion_wgan import LesionWGAN
from metgan_dist.recipe import Recipe
from metgan_dist.tasks import GENERATED, REAL, task_of
from metgan_dist.tasks.held_out import score_held_out
from metgan_dist.tasks.mask_generation import projections

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    return cut_masks(tmp_path_factory.mktemp("set"), 20, tiles={"val": 0.25, "test": 0.25})


class Copies(LesionWGAN):
    """Draws training masks: the first, and of `shifted` ones every second a voxel further."""

    def __init__(self, tiles, shifted=False):
        super().__init__(edges=tiles.shape, width=1 / 32, latent=4)
        self.known = [torch.from_numpy(tiles.load(row)["label"]).long() for row in tiles.positions("train")]
        self.shifted = shifted

    def translate(self, batch):
        masks = [self.known[tile % len(self.known)] for tile in batch["tile"].tolist()]
        return torch.stack([mask.roll(3, 1) if self.shifted else mask for mask in masks])


def narrow(tiles):
    fields = {"name": "lesion_wgan", "width": 1 / 16, "latent": 4}
    return build_method(Recipe.model_validate({"method": fields, "tiles": {"kind": "crop", "size": list(tiles.shape)}}))


def test_held_out_masks_and_as_many_drawn_ones_are_scored(tiles):
    task, lines = task_of(Copies(tiles), tiles), []
    scores = score_held_out(task, Copies(tiles), CPU, lines.append)["test"]
    assert scores["tiles"] == 5
    assert scores[REAL]["units"] == 5
    made = scores[GENERATED]
    names = (
        "mask_distance",
        "volume_distance",
        "components_p",
        "sphericity_p",
        "place_distance",
        "precision",
        "recall",
    )
    assert {*names, "density", "coverage", "empty", "nearest", "nearest_real", "nearest_p", "copies"} <= set(made)
    assert (made["nearest"], made["copies"], made["empty"]) == (1.0, 1.0, 0.0)
    assert made["nearest_p"] < 0.01
    assert made["nearest_real"] == scores[REAL]["nearest"] < 1
    assert all(np.isfinite(value) for value in made.values())
    assert len(lines) == 1
    assert lines[0].startswith("test: 5 drawn; real ones of 5 units; distance ")
    assert "nearest training mask at a Dice of 1.000" in lines[0]
    assert "100% nearer than 95 % of the real ones" in lines[0]
    assert len(scores["per_volume"]) == 5  # each with what one mask can say
    assert set(next(iter(scores["per_volume"].values()))[GENERATED]) == {"empty", "nearest", "nearest_real"}


def test_masks_that_are_shifted_copies_lie_less_near(tiles):
    task = task_of(Copies(tiles), tiles)
    exact, shifted = (
        score_held_out(task, Copies(tiles, move), CPU, print)["test"][GENERATED] for move in (False, True)
    )
    assert shifted["nearest"] < 0.8 < exact["nearest"]


def test_untrained_masks_are_the_same_each_time_and_far_from_real_ones(tiles):
    method = narrow(tiles).eval()
    task = task_of(method, tiles)
    first, again = (score_held_out(task, method, CPU, lambda _line: None)["test"] for _ in range(2))
    assert first == again
    assert first[GENERATED]["mask_distance"] > 1


def test_empty_masks_are_doubted(tiles):
    class Nothing(Copies):
        def translate(self, batch):
            return torch.zeros(len(batch["label"]), *tiles.shape, dtype=torch.int64)

    lines = []
    made = score_held_out(task_of(Nothing(tiles), tiles), Nothing(tiles), CPU, lines.append)["test"][GENERATED]
    assert (made["empty"], made["nearest"]) == (1, 0)
    assert lines[1] == "test: 100% of the masks that were drawn are empty"


def test_validation_criterion_is_among_the_scores_and_needs_are_labels(tiles):
    task, settings = task_of(LesionWGAN, tiles), Recipe.model_validate({"method": {"name": "lesion_wgan"}})
    assert LesionWGAN.criterion(settings)[0] in {column.name for column in task.columns}
    assert task.needs(settings, False) == [("label",)]
    assert task.judged_by == ()
    assert task.drawn(settings).rows.tolist() == tiles.positions("train").tolist()
    assert len(task.training_masks) == len(tiles.positions("train"))
    (note,) = task.notes("test")
    assert "5 patients" in note


def test_projections_by_hand_and_their_picture(tiles):
    mask = np.zeros((3, 4, 5), np.uint8)
    mask[0:2, 1, 2] = 1
    mask[1, 1, 3] = 2
    found = projections(mask)
    assert [view.shape for view in found.values()] == [(4, 5), (3, 5), (3, 4)]
    assert found[" along z"][1].tolist() == [-1, -1, 1, 0, -1]  # two voxels of the line, one, none
    assert found[" along x"].max() == 1
    assert projections(mask[1])[""].tolist() == (np.where(mask[1] > 0, 1.0, -1.0)).tolist()
    task = task_of(LesionWGAN, tiles)
    picture = Image.open(io.BytesIO(task.grid(narrow(tiles), tiles.positions("test")[:2], CPU)))
    assert picture.width > 2.5 * picture.height  # six columns, two rows
    assert set(task.given(tiles.positions("test")[:2])) == {"real"}
