"""Trainings on two domains in this process: killed and continued to the last bit; on real CT and MR slices, too."""

from dataclasses import replace

import numpy as np
import pytest
from alone import Killed, assignment, killed_at, same, state
from owned import owned
from tile_sets import write_domains, write_set
from two_domains import SLICES, SLICES_CLASSES, cut_slices
from untrained import write_untrained

from metgan_dist.methods import method_class
from metgan_dist.recipe import Recipe
from metgan_dist.tasks import task_of
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.training.launch import run_training

needs_slices = pytest.mark.skipif(
    not (SLICES / "ct-slices").is_dir(), reason="the real slices are not beside the repository"
)


def recipe(name, classes=2, **training):
    """Narrow, five steps of two images, a checkpoint after two and after four."""
    return Recipe.model_validate(
        {
            "data": {"classes": classes},
            "tiles": {"size": [64]},
            "method": owned(name, width=0.05, segmentor_width=0.05, pool=4),
            "training": {
                **{"batch_size": 2, "epochs": 100, "max_steps": 5, "checkpoint_every": 4, "validate_every": 8},
                **{"validate_tiles": 2, "ema_half_life": 8, **training},
            },
            "scaling": {"workers": 0},
        }
    )


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """judge(classes) -> an untrained segmentor."""
    made = {}

    def of(classes):
        if classes not in made:
            folder = tmp_path_factory.mktemp("segmentor")
            made[classes] = write_untrained(folder, recipe("segmentor", classes))
        return made[classes]

    return of


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """The real slices as tiles of 64 pixels, by patient."""
    return cut_slices(tmp_path_factory.mktemp("slices"))


def test_a_segmentor_of_one_domain_learns_from_its_images_as_from_tumour_images(tmp_path):
    tiles = write_domains(tmp_path / "tiles", labelled=("ct",))  # nothing to learn from in the other
    own = recipe("segmentor", max_steps=2)
    trained = run_training(assignment(tmp_path, "one", own, tiles.uri, domain="ct"), print)
    assert 0 <= trained.score <= 1


def killed_and_continued(folder, name, tiles, judge, monkeypatch, capsys):
    """(the training undisturbed, the same one killed before its last checkpoint and continued)."""
    classes = int(tiles.manifest["data"]["classes"])
    needed = {"segmentor": judge(classes)} if name == "cyclegan_seg" else {}
    common = {"judge": judge(classes), **needed}
    whole = run_training(assignment(folder, "whole", recipe(name, classes), tiles.uri, **common), print)
    broken = assignment(folder, "broken", recipe(name, classes), tiles.uri, **common)
    with monkeypatch.context() as patch:
        killed_at(patch, 8)
        with pytest.raises(Killed):
            run_training(broken, print)
    capsys.readouterr()
    continued = run_training(broken, print)
    assert f"{name}: continuing from 4 of 10 images" in capsys.readouterr().out
    return whole, continued


@pytest.mark.parametrize("name", ["cyclegan", "cyclegan_seg", "sifa"])
def test_killed_and_continued_it_ends_with_the_weights_of_one_never_disturbed(
    tmp_path, name, judge, monkeypatch, capsys
):
    tiles = write_domains(tmp_path / "tiles")
    whole, continued = killed_and_continued(tmp_path, name, tiles, judge, monkeypatch, capsys)
    assert whole.images == continued.images == 10
    assert same(state(whole), state(continued))
    assert {"validation/cycle_mae", "validation/label_fidelity"} <= whole.last_scores.keys()
    assert "validation/mae" not in whole.last_scores


@needs_slices
def test_real_slices_of_two_modalities_are_split_each_by_patient(slices):
    index = slices.index
    assert index["domain"].value_counts().to_dict() == {"ct": 24, "mr": 31}
    assert (index.groupby("patient")["split"].nunique() == 1).all()
    for name, patients in (("ct", 5), ("mr", 4)):
        own = index[index["domain"] == name]
        assert own["patient"].nunique() == patients
        assert set(own["split"]) >= {"train", "test"}
    row = slices.positions("train", "tumour")[0]
    loaded = slices.load(row)
    assert (loaded["tumour"].shape, loaded["label"].max() < SLICES_CLASSES) == ((1, 64, 64), True)
    assert set(np.unique(loaded["label"])) > {0}


@needs_slices
def test_real_slices_train_and_go_on_to_the_last_bit(tmp_path, slices, judge, monkeypatch, capsys):
    """With the method that takes most of them: two domains, labels of both, several classes."""
    whole, continued = killed_and_continued(tmp_path, "cyclegan_seg", slices, judge, monkeypatch, capsys)
    assert same(state(whole), state(continued))
    assert whole.last_scores["images"] == 10


def test_pairs_taken_as_none_train_on_other_images_than_pairs(tmp_path, judge):
    tiles = write_set(tmp_path / "tiles")
    plain = recipe("cyclegan", max_steps=2)
    apart = plain.model_copy(update={"data": plain.data.model_copy(update={"unpaired": True})})
    trained = [
        run_training(assignment(tmp_path, name, one, tiles.uri, judge=judge(2)), print)
        for name, one in (("paired", plain), ("apart", apart), ("again", apart))
    ]
    assert not same(state(trained[0]), state(trained[1]))
    assert same(state(trained[1]), state(trained[2]))
    assert "validation/mae" in trained[1].last_scores  # the held-out tiles are pairs all the same


def test_a_segmentor_trains_on_the_labelled_target_of_two_domains(tmp_path):
    tiles = write_domains(tmp_path / "tiles", labelled=["mr"])
    one = recipe("segmentor", max_steps=3)
    assert task_of(method_class(one.method.name), TileSet.open(tiles.uri)).drawn(one).epoch == 12
    trained = run_training(assignment(tmp_path, "run", one, tiles.uri), print)
    assert trained.images == 6
    assert "validation/dice" in trained.last_scores


def test_an_epoch_is_a_pass_over_the_larger_domain(tmp_path, judge):
    tiles = write_domains(tmp_path / "tiles")
    one = recipe("cyclegan", max_steps=None, epochs=1)
    trained = run_training(assignment(tmp_path, "run", one, tiles.uri, judge=judge(2)), print)
    assert trained.images == 12
    longer = replace(assignment(tmp_path, "two", recipe("cyclegan", max_steps=None, epochs=2), tiles.uri), judge=None)
    assert run_training(longer, print).images == 24
