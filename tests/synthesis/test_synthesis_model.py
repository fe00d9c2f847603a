"""What is refused before any work: generators, tiles and segmentors that do not go together; one line each."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from metgan_dist.errors import UserError
from metgan_dist.recipe import Recipe
from metgan_dist.synthesis.gate import label_dice, splits
from metgan_dist.synthesis.model import Model
from metgan_dist.synthesis.synthesis import TileSynthesis
from metgan_dist.trained import checkpoint_digest, run_of


def planned(data=None, **settings):
    recipe = Recipe.model_validate({"synthesis": {"count": 4, **settings}, "data": data or {}})
    return TileSynthesis.planned(recipe)


def refused(match, **settings):
    with pytest.raises(UserError, match=match) as error:
        planned(**settings)
    assert "\n" not in str(error.value)


def test_a_checkpoint_knows_its_run_and_its_digest(checkpoint, source):
    path = checkpoint(tiles=source)
    run = run_of(path)
    assert run["mlflow_run_id"] == "0" * 31 + "1"
    assert Path(run["folder"]) == Path(path).parents[2]
    assert run_of(run["folder"])["folder"] == run["folder"]
    assert run_of(checkpoint()) is None
    assert checkpoint_digest(path) == checkpoint_digest(run["folder"]) == checkpoint_digest(checkpoint())
    assert checkpoint_digest(path) != checkpoint_digest(checkpoint(seed=1))


def test_tiles_are_those_of_the_generators_run(checkpoint, source, write_source):
    assert planned(model=checkpoint(tiles=source)).tiles.uri == source.uri
    other = write_source()
    assert planned(model=checkpoint(tiles=source), tiles=other.uri).tiles.uri == other.uri
    refused("synthesis.tiles: .*no finished run", model=checkpoint())


def test_models(checkpoint, source, tmp_path):
    refused("synthesis.model: none given")
    refused(f"{tmp_path}: no checkpoint here", model=str(tmp_path))
    (tmp_path / "state.pt").touch()
    (tmp_path / "recipe.yaml").write_text("method: {alpha9: 1}")
    refused(f"{tmp_path}/recipe.yaml: of another version, .*: method.alpha9: no such field", model=str(tmp_path))
    refused("synthesis.model: .*a segmentor", model=checkpoint("segmentor"), tiles=source.uri)
    refused("synthesis.model: .*sifa makes the same image", model=checkpoint("sifa"), tiles=source.uri)
    refused("synthesis.samples: MetGAN makes one image", model=checkpoint(), tiles=source.uri, samples=2)
    for name in ("pix2pix", "spade", "redgan"):
        assert planned(model=checkpoint(name), tiles=source.uri).model.recipe.method.name == name


def test_tiles_that_do_not_fit(checkpoint, write_source, source, tmp_path):
    model = checkpoint(tiles=source)
    refused("synthesis.tiles: .*data.classes is 3, .* 2", model=model, tiles=write_source(classes=3).uri)
    refused("synthesis.tiles: .*data.anatomy is 'nuclei'", model=model, tiles=write_source(anatomy="nuclei").uri)
    refused("synthesis.tiles: .*96 x 96 .*64 x 64", model=model, tiles=write_source(edge=96).uri)
    assert planned(model=model, tiles=write_source(edge=128).uri).tiles.shape == (128, 128)
    refused("synthesis.tiles: .*128 x 128", model=checkpoint("spade_vae"), tiles=write_source(edge=128).uri)
    refused("data.path", model=model, data={"path": source.uri})
    refused("no finished tiles", model=model, tiles=str(tmp_path))
    refused("synthesis.shard", model=model, shard=10**6)


def test_volumes_that_the_generator_held_out(checkpoint, write_source):
    own = write_source(("train", "test"))
    other = write_source(("train", "train"))
    refused(r"synthesis.tiles: .*volume 'v1' is held out \(test\)", model=checkpoint(tiles=own), tiles=other.uri)


def test_synthetic_tiles_are_no_source(checkpoint, write_source):
    tiles = write_source()
    manifest = Path(tiles.uri) / "manifest.json"
    manifest.write_text(json.dumps({**tiles.manifest, "synthesis": {}}))
    refused("synthesis.tiles: .*synthetic", model=checkpoint(), tiles=tiles.uri)


def test_the_gates_segmentor(checkpoint, source, tmp_path):
    judge, pleased = checkpoint("segmentor", seed=1), checkpoint("segmentor", seed=2)
    model = checkpoint(tiles=source, artefacts={"judge": judge, "segmentor": pleased})
    assert planned(model=model).segmentor is None
    gated = planned(model=model, gate=0.5)
    assert (gated.segmentor, gated.segmentor_digest) == (judge, checkpoint_digest(judge))
    refused("synthesis.segmentor: .*trained to please", model=model, gate=0.5, segmentor=pleased)
    refused("synthesis.segmentor: .*not of a segmentor", model=model, gate=0.5, segmentor=model)
    refused("synthesis.segmentor: .*name one", model=checkpoint(), tiles=source.uri, gate=0.5)


def test_dice_of_the_gate_counts_the_classes_that_are_there():
    label = torch.zeros(4, 8, 8, dtype=torch.long)
    label[:, :2] = 1
    found = label.clone()
    found[1] = 0
    found[2, 0] = 0
    found[3, 4] = 2  # a class that was not imposed
    assert label_dice(found, label, 3).tolist() == [1.0, 0.0, pytest.approx(2 / 3), 0.5]
    assert label_dice(found[:2], label[:2], 2).tolist() == [1.0, 0.0]
    dice = label_dice(found, label, 3)
    assert splits(dice, 0.5).tolist() == ["train", "rejected", "train", "train"]
    assert splits(dice, 0.0).tolist() == ["train"] * 4


def test_tiles_are_compared_with_the_models_in_one_way(mistake):
    recipe = Recipe.model_validate({"tiles": {"size": [64]}})
    model = Model("m", "0", recipe, None, {}, {})

    def tiles(shape=(64, 64), classes=2):
        return SimpleNamespace(uri="t", shape=shape, manifest={"data": {"classes": classes}})

    model.check_cut_alike(tiles(), {"domains": (["ct"], ["ct"])})
    with mistake(
        "synthesis.tiles: t: tile shape [32, 64], the generator was trained with [64, 64]; use tiles cut alike"
    ):
        model.check_cut_alike(tiles(shape=(32, 64)))
    with mistake("synthesis.tiles: t: data.classes 3, the generator was trained with 2"):
        model.check_cut_alike(tiles(classes=3))
    with mistake("synthesis.tiles: t: domains ['mr'], the generator was trained with ['ct']"):
        model.check_cut_alike(tiles(), {"domains": (["ct"], ["mr"])})
