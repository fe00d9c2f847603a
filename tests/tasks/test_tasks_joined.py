"""Scores of whole places: those of the volume itself, at whatever stride it was cut, and each unit counts once."""

import numpy as np
import pandas as pd
import pytest
import torch
from tile_sets import HIGH, write_cut

from metgan_dist.recipe import Tiles
from metgan_dist.scores.labels import dice
from metgan_dist.scores.surface import surface_distances
from metgan_dist.tasks import joined
from metgan_dist.tasks.joined import WholeScores
from metgan_dist.tiles import mosaic

DEVICE = torch.device("cpu")


def bright(batch):
    """Class 1 in what is half bright, class 2 in what is bright: whatever else is in the tile."""
    image = (batch["tumour"][:, 0] + 1) / 2
    return torch.stack([0.25 - image, 0.5 - (image - 0.5).abs(), image - 0.5], dim=1)


@pytest.fixture
def volume():
    """(image, label) of 8 x 48 x 48 voxels: two bars beside each other, the image's a voxel further on."""
    image, label = np.zeros((8, 48, 48)), np.zeros((8, 48, 48), np.uint8)
    for value, x in ((1, 6), (2, 26)):
        label[2:6, 10:30, x : x + 14] = value
        image[2:6, 10:30, x + 1 : x + 15] = HIGH * value / 2
    return image, label


def found_in(image):
    return torch.from_numpy(np.rint(2 * image / HIGH).astype(np.int64))[None]


@pytest.mark.parametrize("stride", ["8,24,24", "8,8,8", "4,12,20"])
@pytest.mark.parametrize("cell", [2**22, 700])
def test_scores_of_crops_are_those_of_the_volume_itself(tmp_path, monkeypatch, volume, stride, cell):
    monkeypatch.setattr(joined, "mosaic", lambda *arguments: mosaic.mosaic(*arguments, cell))
    image, label = volume
    rules = {"kind": "crop", "size": "8,24,24" if stride[0] == "8" else "4,24,24", "stride": stride}
    tiles = write_cut(tmp_path, image, label, Tiles.model_validate(rules), classes=3)
    whole = WholeScores.of(tiles, tiles.positions("test"), bright, DEVICE)
    true = torch.from_numpy(label.astype(np.int64))[None]
    scores = whole.summary("s_score", "target")
    assert whole.unit == "voxels"
    assert scores["s_score_target"] == pytest.approx(dice(found_in(image), true, 3).item())
    assert scores["s_score_target"] == pytest.approx(13 / 14)  # each bar is 14 wide and one off
    assert scores["s_score_target/class 2"] == pytest.approx(13 / 14)
    apart = surface_distances(found_in(image), true, 3)
    assert scores["assd_target/class 1"] == pytest.approx(apart["assd_1"].item())
    assert scores["hd95_target"] == pytest.approx((apart["hd95_1"].item() + apart["hd95_2"].item()) / 2)


def test_planes_of_a_volume_are_one_unit_and_a_pixel_counts_once(tmp_path, volume):
    image, label = volume
    tiles = write_cut(tmp_path, image, label, Tiles.model_validate({"kind": "slice", "size": 32, "stride": 8}), 3)
    whole = WholeScores.of(tiles, tiles.positions("test"), bright, DEVICE)
    assert len(whole.places) == 8
    assert list(whole.by_unit().index) == ["volume v0"]
    assert whole.places["size_1"].sum() == 2 * (label == 1).sum()
    # Planes without a region have no distance, and take none away from those that have one.
    assert whole.places["assd_1"].notna().sum() == 4
    assert whole.summary("dice", "source")["dice_source"] == pytest.approx(13 / 14)


def test_each_unit_counts_once_and_a_region_that_it_lacks_not_at_all():
    places = pd.DataFrame(
        {
            "volume": ["a", "b", "c"],
            "unit": ["patient 1", "patient 1", "patient 2"],
            **{"overlap_1": [1, 3, 5], "size_1": [4, 4, 10], "overlap_2": [0, 0, 1], "size_2": [0, 0, 8]},
            **{f"{name}_{k}": [2.0, np.nan, 1.0] for name in ("assd", "hd95") for k in (1, 2)},
        }
    )
    scores = WholeScores(places, ("wall", "cavity"), "mm").summary("s_score", "source")
    # Patient 1: 2 (1 + 3) / 8 = 1 of the wall, no cavity. Patient 2: 1 of the wall, 1/4 of the cavity: 5/8.
    assert scores["s_score_source/wall"] == pytest.approx(1)
    assert scores["s_score_source/cavity"] == pytest.approx(1 / 4)
    assert scores["s_score_source"] == pytest.approx((1 + 5 / 8) / 2)
    assert scores["assd_source"] == pytest.approx((2 + 1) / 2)


def test_distances_are_in_millimetres_where_every_voxel_size_is_known(tmp_path, volume):
    image, label = volume
    tiles = write_cut(tmp_path, image, label, Tiles.model_validate({"kind": "crop", "size": "8,48,48"}), classes=3)
    rows = tiles.positions("test")
    in_voxels = WholeScores.of(tiles, rows, bright, DEVICE).summary("s_score", "target")["assd_target"]
    for axis in "zyx":
        tiles.index[f"spacing_{axis}"] = 2000.0
    tiles.manifest["volumes"][0]["unit"] = "micrometer"
    whole = WholeScores.of(tiles, rows, bright, DEVICE)
    assert whole.unit == "mm"
    assert whole.summary("s_score", "target")["assd_target"] == pytest.approx(2 * in_voxels)
