"""A single image the whole way: named, learned, scored by itself, used; and what is refused in one line."""

from pathlib import Path

import pytest
import torch
from user import refused, run_here

from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.trained import load_method

pytestmark = pytest.mark.usefixtures("ray_cluster")

FIELDS = {
    "tiny": False,
    "data__phantom__shape": "4,32,32",
    "tiles__size": 32,
    "method__plane": 2,
    "method__width": 1 / 8,
    "training__max_steps": 9,
    "training__log_every": 3,
    "scaling__workers": 0,
}


def train(out, **fields):
    return run_here("train_metgan", out, "--recipe", "singan-small", **{**FIELDS, **fields})


def test_a_slice_is_learned_scored_drawn_and_used(tmp_path):
    done = train(tmp_path, tracking__run="slice")
    assert done.code == 0, done.out + done.err
    assert "judge" not in done.out
    assert "singan: 3 stages: scale-0 (3 images), scale-1 (3 images), scale-2 (3 images)" in done.out
    assert "singan 3/3 scale-2  validation at 9 images: reconstruction_rmse" in done.out
    scores = done.result["scores"]
    assert set(scores) == {"validation", "train"}
    assert {"reconstruction_rmse", "rmse_scale_0", "rmse_scale_2", "diversity"} <= set(scores["train"]["generated"])
    assert f"the image: reconstruction RMSE {scores['train']['generated']['reconstruction_rmse']:.4f}" in done.out
    assert Path(done.result["artefacts"]["grid_train"]).stat().st_size > 0
    assert len(list(Path(tmp_path, "slice", "grids").glob("singan-*.png"))) == 3  # one at the end of each scale
    tiles = TileSet.open(done.result["artefacts"]["tiles"])
    image = torch.from_numpy(tiles.load(2)["tumour"])
    pyramid = load_method(str(tmp_path / "slice"))[0].pyramid
    assert pyramid.harmonise(image, 1, seed=0).shape == image.shape
    asked = {"tiny": False, "synthesis__model": tmp_path / "slice"}
    volume = {"synthesis__volume": tmp_path / "v.zarr", "synthesis__volume_label": tmp_path / "l.zarr"}
    refused(run_here("synthesize", tmp_path, **asked, **volume), "synthesis.model", "singan has learned one image")
    drawn = run_here("synthesize", tmp_path, **asked, synthesis__count=2, tracking__run="drawn")
    assert drawn.code == 0, drawn.out + drawn.err
    assert {path.name for path in (tmp_path / "drawn" / "images").iterdir()} == {
        "sample-000000.tif",
        "sample-000001.tif",
    }
    assert (tmp_path / "drawn" / "preview.png").stat().st_size > 0
    traced = run_here("lineage", tmp_path, "drawn", tiny=False)
    assert (traced.code, "tiles" in traced.out) == (0, True), traced.out + traced.err
    compared = run_here("evaluate", tmp_path, "--runs", "slice", tiny=False, scaling__workers=0)
    refused(compared, "nothing is held out of a single image")


@pytest.mark.parametrize(
    ("fields", "culprits"),
    [
        ({"tiles__size": 16, "data__phantom__shape": "4,16,16"}, ("tiles.size", "16 pixels", "at least 25")),
        ({"scaling__workers": 2}, ("scaling.workers", "singan trains on 1")),
        ({"training__augment": "flips"}, ("training.augment", "set it to none")),
        ({"training__keep": "mae"}, ("training.keep", "use last")),
        ({"training__batch_size": 2}, ("training.batch_size", "set it to 1")),
        ({"method__finest": 5}, ("method.finest",)),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_cut(tmp_path, fields, culprits):
    refused(train(tmp_path, **fields), *culprits)
    assert not (tmp_path / "tiles").exists()


def test_an_image_that_is_not_named_or_not_there_is_refused_before_it_is_trained(tmp_path):
    refused(train(tmp_path, method__plane=9), "method.plane: 9 is not there; training tiles have 0, 1, 2, 3")
    refused(train(tmp_path, data__phantom__volumes=2), "method.volume", "name one of phantom-0, phantom-1")
    refused(train(tmp_path, tiles__size=28, tiles__stride=4), "tiles.size: the image is cut into 4 tiles")
    # Far below the range every voxel is black.
    dark = {"tiles__normalise": "percentile", "tiles__percentiles": "99.9,100"}
    refused(train(tmp_path, method__plane=0, **dark), "method.plane: the image of 'phantom-0' at 0 is constant")
