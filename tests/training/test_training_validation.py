"""Scores of several ranks are those of one; of two domains the judge also sees the target's own images."""

import pytest
import torch
from networkless import Plain
from tile_sets import write_domains, write_set

from metgan_dist.tasks import task_of
from metgan_dist.training import validation
from metgan_dist.training.step import Stepper
from metgan_dist.training.validation import Validator

CPU = torch.device("cpu")


@pytest.fixture
def tiles(tmp_path):
    return write_set(tmp_path, val=5, test=7, unseen=5, edge=16)


def validate(tiles, world, monkeypatch, labels=False):
    """What each rank of `world` says of the validation tiles."""
    sent, rows = [], tiles.positions("val")

    def ask(rank, gather):
        monkeypatch.setattr(validation.dist, "all_gather_object", gather)
        method = Plain(labels)
        judge = None if labels else Plain(labels=True)
        scores, picture = Validator(task_of(method, tiles, {"judge": judge}), CPU, rank, world)(Stepper(method, CPU))
        return scores, picture, [row for row in method.seen if row in rows]

    def first(parts, own):
        sent.append(own)
        parts[:] = [own] * world

    def second(parts, own):
        parts[:] = sent

    for rank in range(world):
        ask(rank, first)
    return [ask(rank, second) for rank in range(world)]


@pytest.mark.parametrize("labels", [False, True])
def test_ranks_together_say_what_one_says(tiles, monkeypatch, labels):
    ((alone, picture, seen),) = validate(tiles, 1, monkeypatch, labels)
    assert sorted(seen) == tiles.positions("val").tolist()
    assert picture is not None
    image_scores = {"mae", "msd", "ssim", "psnr", "correlation", "cycle_mae"}
    of_judge = {"label_fidelity", "label_fidelity_of_real"}
    assert alone.keys() == (
        {"dice"} if labels else {*image_scores, *(f"{name}_std" for name in image_scores), *of_judge}
    )
    for world in (2, 7):  # more ranks than tiles, too
        for rank, (scores, picture, seen) in enumerate(validate(tiles, world, monkeypatch, labels)):
            assert scores == alone
            assert (picture is not None) == (rank == 0)
            assert seen == tiles.positions("val")[rank::world].tolist()


def test_label_fidelity_is_also_told_as_share_of_what_real_images_reach(tiles):
    class Copy(Plain):
        def translate(self, batch):
            return batch["tumour"]

    validator = Validator(task_of(Plain(), tiles, {"judge": Plain(labels=True)}), CPU)
    halved, _ = validator(Stepper(Plain(), CPU))
    real, _ = validator(Stepper(Copy(), CPU))
    assert real["label_fidelity"] > 0
    assert real["label_fidelity_of_real"] == 1
    assert halved["label_fidelity_of_real"] == halved["label_fidelity"] / real["label_fidelity"] != 1


def test_without_validation_tiles_there_is_nothing_to_say(tmp_path):
    tiles = write_set(tmp_path, val=0, edge=16)
    assert Validator(task_of(Plain(), tiles), CPU)(Stepper(Plain(), CPU)) == ({}, None)


def test_validation_of_two_domains_holds_the_judge_against_real_images_of_the_target(tmp_path):
    tiles = write_domains(tmp_path, source=("train", "val", "val"), target=("train", "val", "val", "val"), edge=16)
    source, target = tiles.positions("val", "anatomy"), tiles.positions("val", "tumour", "label")
    judge = Plain(labels=True)
    scores, picture = Validator(task_of(Plain(), tiles, {"judge": judge}), CPU)(Stepper(Plain(), CPU))
    assert scores.keys() == {
        *("cycle_mae", "cycle_mae_std", "label_fidelity", "label_fidelity_of_real", "s_score_target"),
    }
    assert judge.seen == [*source, *target]
    assert picture is not None
    dice, _ = Validator(task_of(judge, tiles), CPU)(Stepper(Plain(labels=True), CPU))
    assert dice.keys() == {"dice"}
    real = scores["label_fidelity"] / scores["label_fidelity_of_real"]
    assert dice["dice"] == pytest.approx(real)  # the same network on the same tiles
