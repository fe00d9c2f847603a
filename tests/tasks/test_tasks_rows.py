"""Which tiles a training draws from, an epoch of it, and what is refused where anatomy and tumour are drawn apart."""

import pandas as pd
import pytest
from tile_sets import write_domains, write_set

from metgan_dist.methods import METHODS, method_class
from metgan_dist.recipe import Recipe
from metgan_dist.tasks import task_of
from metgan_dist.tasks.pictures import picture_rows
from metgan_dist.tasks.segmentation import segmentor_rows
from metgan_dist.tasks.unpaired import check_apart
from metgan_dist.tiles import tile_set

UNPAIRED = ["cyclegan", "cyclegan_seg", "metgan_minus", "sifa", "cycle_shape"]


def recipe(name="cyclegan", **sections):
    return Recipe.model_validate({"method": {"name": name, **sections.pop("method", {})}, **sections})


def training_rows(recipe, tiles, part=None):
    return task_of(method_class(recipe.method.name), tiles).drawn(recipe, part)


def scored_rows(recipe, tiles, split):
    return task_of(method_class(recipe.method.name), tiles).rows(split)


def test_pairs_are_drawn_as_pairs_unless_the_recipe_takes_them_apart(tmp_path):
    tiles = write_set(tmp_path, train=8)
    pairs = training_rows(recipe(), tiles)
    assert (pairs.rows.tolist(), pairs.target, pairs.epoch) == (list(range(8)), None, 8)
    apart = training_rows(recipe(data={"unpaired": True}), tiles)
    assert apart.rows.tolist() == apart.target.tolist() == list(range(8))
    segmentor = training_rows(recipe("segmentor", data={"unpaired": True}), tiles)
    assert (segmentor.rows.tolist(), segmentor.target) == (list(range(8)), None)


def test_of_two_domains_an_epoch_is_a_pass_over_the_larger(tmp_path):
    tiles = write_domains(tmp_path)
    drawn = training_rows(recipe(), tiles)
    assert (drawn.rows.tolist(), drawn.target.tolist()) == (list(range(7)), list(range(10, 22)))
    assert drawn.epoch == 12
    assert training_rows(recipe(), write_domains(tmp_path / "other", source=("train",) * 20)).epoch == 20


def test_of_two_domains_a_translation_is_scored_on_the_source_and_a_segmentor_on_the_target(tmp_path):
    tiles = write_domains(tmp_path)
    assert scored_rows(recipe(), tiles, "val").tolist() == [7]
    assert scored_rows(recipe("segmentor"), tiles, "val").tolist() == [22, 23]
    assert training_rows(recipe("segmentor"), tiles).rows.tolist() == list(range(10, 22))
    assert training_rows(recipe("segmentor"), tiles, "judge").rows.tolist() == segmentor_rows(tiles, "judge").tolist()
    paired = write_set(tmp_path / "paired")
    for name in ("cyclegan", "segmentor"):
        assert scored_rows(recipe(name), paired, "val").tolist() == paired.positions("val").tolist()


@pytest.mark.parametrize("name", ["metgan", "spade", "cyclegan", "segmentor"])
@pytest.mark.parametrize("write", [write_set, write_domains])
def test_rows_of_a_large_set_are_drawn_and_looked_at_without_its_index(tmp_path, monkeypatch, write, name):
    own, tiles = recipe(name), write(tmp_path / "set")
    if tiles.domains and name in ("metgan", "spade"):
        pytest.skip("learns from pairs")
    monkeypatch.setenv("METGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tile_set, "HELD_BYTES", 0)
    large = tile_set.TileSet.open(tiles.uri)
    monkeypatch.setattr(pd, "read_parquet", None)  # what reads an index
    drawn, expected = training_rows(own, large), training_rows(own, tiles)
    assert drawn.epoch == expected.epoch
    assert (drawn.rows == expected.rows).all()
    assert drawn.target is expected.target is None or (drawn.target == expected.target).all()
    for split in ("val", "test"):
        assert (scored_rows(own, large, split) == (rows := scored_rows(own, tiles, split))).all()
        assert (picture_rows(large, rows) == picture_rows(tiles, rows)).all()


@pytest.mark.parametrize("name", METHODS)
def test_methods_that_need_pairs_refuse_data_that_are_none(name, mistake):
    check_apart(recipe(name))
    for one, domains, why in (
        (recipe(name), ("ct", "mr"), "images of two domains (ct, mr) are no pairs"),
        (recipe(name, data={"unpaired": True}), (), "data.unpaired"),
    ):
        if name in (*UNPAIRED, "singan"):  # which learns an image alone, and translates none
            check_apart(one, domains)
            continue
        with mistake(f"method.name: {name} learns from anatomy and tumour images of one place, but {why}", *UNPAIRED):
            check_apart(one, domains)


def test_without_its_pair_loss_a_cycle_trains_apart_and_the_line_says_so(mistake):
    with mistake("method.name: metgan", "set method.alpha4 to 0, or use cyclegan"):
        check_apart(recipe("metgan"), ("ct", "mr"))
    check_apart(recipe("metgan", method={"alpha4": 0}), ("ct", "mr"))
    check_apart(recipe("metgen_cycle", method={"alpha4": 0}), ("ct", "mr"))
    for settings in (recipe("pix2pix", method={"alpha4": 0}), recipe("spade")):
        with mistake(f"method.name: {settings.method.name}", "are no pairs; use cyclegan"):
            check_apart(settings, ("ct", "mr"))


def test_a_score_of_pairs_cannot_choose_among_two_domains(mistake):
    with mistake("training.keep: mae compares with the real image of the same place", "use last or label_fidelity"):
        check_apart(recipe(training={"keep": "mae"}), ("ct", "mr"))
    check_apart(recipe(training={"keep": "label_fidelity"}), ("ct", "mr"))
    check_apart(recipe(data={"unpaired": True}, training={"keep": "mae"}))  # its held-out tiles are pairs
