"""The task of one image: which tile it is, that it is scored by itself, what is drawn, and what is refused."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from tile_sets import write_crops, write_set

from metgan_dist.methods import build_method, enter_stage, method_class
from metgan_dist.recipe import Recipe
from metgan_dist.tasks import GENERATED, task_of
from metgan_dist.tasks.held_out import score_held_out
from metgan_dist.tiles.tile_set import TileSet

CPU = torch.device("cpu")


def recipe(edges=(32, 32), **method):
    tiles = {"kind": "crop" if len(edges) == 3 else "slice", "size": list(edges)}
    return Recipe.model_validate({"tiles": tiles, "method": {"name": "singan", "width": 1 / 8, **method}})


def reached(settings, scales):
    """A method that has begun so many scales."""
    method = build_method(settings)
    for stage in method.stages(settings)[:scales]:
        enter_stage(method, settings, stage)
    return method.eval()


@pytest.fixture
def tiles(tmp_path):
    """Slices of two volumes, 32 pixels; slice k is plane k, of volume k % 2; planes 12 to 15 are held out."""
    return write_set(tmp_path / "tiles", train=12, val=2, test=2, volumes=2, edge=32)


def task(tiles, settings):
    return task_of(reached(settings, 1), tiles)


def test_the_tile_is_named_by_volume_and_plane(tiles):
    for settings, row in ((recipe(volume="v1", plane=5), 5), (recipe(volume="v0", plane=8), 8)):
        assert task(tiles, settings).drawn(settings).rows.tolist() == [row]
        for split in ("train", "val", "test"):
            assert task(tiles, settings).rows(split).tolist() == [row]
            assert task(tiles, settings).samples(split)[GENERATED].tolist() == [row]


def test_a_single_training_tile_need_not_be_named(tmp_path):
    tiles, settings = write_crops(tmp_path, (26, 32, 32), ("train", "val", "test")), recipe((26, 32, 32))
    assert task(tiles, settings).drawn(settings).epoch == 1


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ({}, "method.volume: one image is learned, and there are several; name one of v0, v1"),
        ({"volume": "v9"}, "method.volume: v9 is not there; training tiles have v0, v1"),
        ({"volume": "v1"}, "method.plane: one image is learned, and there are several; name one of 1, 3, 5"),
        ({"volume": "v1", "plane": 13}, "method.plane: 13 is held out; training tiles have 1, 3, 5, 7, 9, 11"),
        ({"volume": "v1", "plane": 2}, "method.plane: 2 is not there; training tiles have 1, 3, 5"),
    ],
)
def test_several_images_and_those_that_are_not_there_are_refused(tiles, method, line, mistake):
    with mistake(line):
        task(tiles, recipe(**method)).drawn(recipe(**method))


def test_an_image_in_parts_and_a_constant_one_are_refused(tiles, mistake):
    settings = recipe(volume="v1", plane=5)
    parts = TileSet(tiles.uri, tiles.manifest, tiles.digest, tiles.index.assign(plane=5), None)
    with mistake("tiles.size: the image is cut into 6 tiles"):
        task(parts, settings).drawn(settings)
    # Below its range everything is black.
    dark = tiles.index.assign(tumour_low=5000.0, tumour_high=6000.0)
    with mistake("method.plane: the image of 'v1' at 5 is constant"):
        task(TileSet(tiles.uri, tiles.manifest, tiles.digest, dark, None), settings).drawn(settings)


def test_there_are_no_tiles_to_compare_several_models_on(tiles, mistake):
    with mistake(f"{tiles.uri}: nothing is held out of a single image, so that its models cannot be compared"):
        task_of(method_class("singan"), tiles).rows("test")


@pytest.mark.parametrize("scales", [1, 3])
def test_the_image_is_scored_at_every_scale_that_was_reached(tiles, scales):
    settings = recipe(volume="v1", plane=5)
    method, said = reached(settings, scales), []
    found = score_held_out(task_of(method, tiles), method, CPU, said.append)
    assert list(found) == ["train"]
    scores = found["train"]["generated"]
    real = torch.from_numpy(tiles.load(5)["tumour"])[None]
    for scale, own in enumerate(method.pyramid.reconstruct()):
        error = (own - method.pyramid.real(real, scale)).square().mean().sqrt().item()
        assert scores[f"rmse_scale_{scale}"] == pytest.approx(error, rel=1e-5)
    assert scores["reconstruction_rmse"] == scores[f"rmse_scale_{scales - 1}"]
    assert f"rmse_scale_{scales}" not in scores
    assert {"diversity", "intensity_distance", "patch_distance"} <= set(scores)
    assert not any(name.endswith("_std") for name in scores)
    assert said == [task_of(method, tiles).line("train", found["train"])]
    assert f"reconstruction RMSE {scores['reconstruction_rmse']:.4f}" in said[0]


def test_the_picture_has_a_column_for_each_scale(tiles):
    settings = recipe(volume="v1", plane=5)
    widths = []
    for scales in (1, 3):
        method = reached(settings, scales)
        png = task_of(method, tiles).grid(method, np.array([5]), CPU)
        widths.append(Image.open(io.BytesIO(png)).width)
    assert widths[1] == 3 * widths[0]


def test_volumes_are_scored_and_drawn_too(tmp_path):
    tiles, settings = write_crops(tmp_path, (26, 32, 32), ("train", "val", "test")), recipe((26, 32, 32))
    method = reached(settings, 1)
    found = score_held_out(task_of(method, tiles), method, CPU, lambda _: None)
    assert found["train"]["generated"]["reconstruction_rmse"] > 0
    assert task_of(method, tiles).grid(method, task_of(method, tiles).rows("train"), CPU)
