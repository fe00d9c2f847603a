"""Tiles that are not square: 150 x 300 source pixels resized to 128 x 256, through tiling, training and scores."""

import pytest
import torch
from user import refused, run_here

from metgan_dist.recipe import Recipe
from metgan_dist.tiles.tile_set import TileSet

pytestmark = pytest.mark.usefixtures("ray_cluster")

OBLONG = {
    "data__phantom__shape": "16,160,320",
    "tiles__size": "150,300",
    "tiles__stride": "150,300",
    "tiles__resize": 256,
    "training__max_steps": 2,
    "scaling__workers": 0,
}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    done = run_here("make_tiles", tmp_path_factory.mktemp("oblong"), **OBLONG)
    assert done.code == 0, done.out + done.err
    return TileSet.open(done.result["artefacts"]["tiles"])


@pytest.mark.parametrize("method", ["pix2pix", "metgan"])
def test_oblong_tiles_train(method, tiles, segmentors, tmp_path):
    assert tiles.shape == (128, 256)
    threads = torch.get_num_threads()
    fields = {**OBLONG, "data__path": tiles.uri, "method__name": method}
    used = ("method__judge",) if method == "pix2pix" else ("method__segmentor", "method__judge")
    done = run_here("train_metgan", tmp_path, **fields, **{name: segmentors[name] for name in used})
    assert done.code == 0, done.out + done.err
    assert Recipe.model_validate(done.result["recipe"]).tiles.shape == tiles.shape
    assert done.result["scores"]["test"]["generated"]["mae"] > 0
    assert torch.get_num_threads() == threads  # of the process, which the job only borrowed


def test_a_shape_that_does_not_fit_is_told_before_anything_is_cut(tmp_path, segmentors):
    done = run_here("train_metgan", tmp_path, **{**OBLONG, "tiles__size": "100,300"}, **segmentors)
    refused(done, "tiles.size", "100 x 300 resized to 256 is 85 x 256 pixels")
