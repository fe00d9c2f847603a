"""Several channels of a role: each cut, measured and normalised by itself, and stacked when a tile is loaded."""

import numpy as np
import pytest
import tifffile
from tile_sets import several_channels

from metgan_dist.recipe import Data
from metgan_dist.tiles.blocks import plan_blocks
from metgan_dist.tiles.pipeline import make_tiles
from metgan_dist.tiles.ranges import check_volume
from metgan_dist.tiles.stream import tile_batches
from metgan_dist.tiles.survey import fingerprint, plan_jobs, survey_volumes
from metgan_dist.volumes.dataset import volume_refs


@pytest.fixture
def recipe(write_volumes, tmp_path):
    """Two anatomy channels, the second of 8 bits, and one to generate."""
    made = write_volumes(tiles={"kind": "projection", "size": 24, "depth": 4, "views": ["z"], "clip": False})
    nuclei = np.random.default_rng(9).integers(0, 90, (8, 96, 64)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "nuclei.tif", nuclei, photometric="minisblack", metadata={"axes": "ZYX"})
    entry = made.data.volumes[0]
    entry = entry.model_copy(update={"path": {**entry.path, "nuclei": "nuclei.tif"}})
    data = made.data.model_copy(update={"anatomy": ["anatomy", "nuclei"], "volumes": [entry]})
    return made.model_copy(update={"data": data})


def planned(recipe):
    surveys, _ = survey_volumes(volume_refs(recipe.data), recipe.data, print)
    return surveys[0], plan_jobs(surveys[0], recipe, "", recipe.scaling.tile_memory * 2**20)


def test_tiles_of_two_channels_are_the_regions_of_both_files(ray_cluster, recipe, tmp_path):
    tiles = make_tiles(recipe, str(tmp_path / "set"), lambda line: None)
    assert (tiles.channels("anatomy"), tiles.channels("tumour")) == (("anatomy", "nuclei"), ("tumour",))
    files = {layer: tifffile.imread(tmp_path / f"{name}.tif") for layer, name in
             (("anatomy", "anatomy-0"), ("anatomy_1", "nuclei"), ("tumour", "tumour-0"))}  # fmt: skip
    for row in (0, 7):
        tile, loaded = tiles.index.iloc[row], tiles.load(row)
        region = tuple(slice(tile[f"{axis}0"], tile[f"{axis}1"]) for axis in "zyx")
        assert (loaded["anatomy"].shape, loaded["tumour"].shape) == ((2, 24, 24), (1, 24, 24))
        for layer, image in zip(files, (*loaded["anatomy"], *loaded["tumour"]), strict=True):
            back = np.rint(tiles.invert(row, layer, image))
            np.testing.assert_array_equal(back, files[layer][region].max(axis=0))
    (batch,) = tile_batches(tiles, [0, 7], 2)
    assert batch["anatomy"].shape == (2, 2, 24, 24)
    # Each channel has its own range and its own type.
    said = tiles.manifest["volumes"][0]
    assert said["intensities"]["anatomy"]["high"] > 3000 > 90 > said["intensities"]["anatomy_1"]["high"]
    assert said["dtypes"] == {"anatomy": "uint16", "anatomy_1": "uint8", "tumour": "uint16", "label": "uint8"}


def test_memory_is_planned_for_all_channels(recipe, monkeypatch):
    asked = []

    def noted(plans, shape, chunks, voxel, tile, memory):
        asked.append((voxel, tile))
        return plan_blocks(plans, shape, chunks, voxel, tile, memory)

    monkeypatch.setattr("metgan_dist.tiles.survey.plan_blocks", noted)
    _, jobs = planned(recipe)
    one = recipe.model_copy(update={"data": recipe.data.model_copy(update={"anatomy": "anatomy"})})
    planned(one)
    assert jobs[0].layers == ("anatomy", "anatomy_1", "tumour", "label")
    assert asked[0] == (asked[1][0] + 1, asked[1][1] + 2 * 24 * 24)  # of 8 bits; as cut and as finished


def test_a_constant_channel_is_told_by_its_name(recipe, mistake):
    from metgan_dist.tiles.intensity import Histogram

    survey, _ = planned(recipe)
    flat = Histogram.of(np.zeros(4, np.uint8))
    with mistake("volume 'v0'", "anatomy (nuclei)"):
        check_volume([flat], recipe.tiles, "v0", survey.volume.described("anatomy_1"))
    assert survey.volume.described("tumour") == "tumour"


def test_one_name_is_known_again_however_it_is_given(recipe, tmp_path):
    def identity(anatomy):
        data = Data.model_validate({**recipe.data.model_dump(), "anatomy": anatomy})
        return fingerprint(data, recipe.tiles, volume_refs(data))

    assert identity("anatomy") == identity(["anatomy"]) != identity(["nuclei", "anatomy"])
    assert Data(anatomy=["anatomy"]).model_dump(mode="json")["anatomy"] == "anatomy"


def test_a_set_of_two_channels_reads_each_by_its_own_range(tmp_path):
    tiles = several_channels(tmp_path / "set", anatomy=("a", "b"), tumour=("t", "u", "v"))
    loaded = tiles.load(0)
    assert (loaded["anatomy"].shape, loaded["tumour"].shape) == ((2, 64, 64), (3, 64, 64))
    assert tiles.layers("tumour") == ("tumour", "tumour_1", "tumour_2")
    low, high = tiles.index.iloc[0][["tumour_2_low", "tumour_2_high"]]
    assert high != tiles.index.iloc[0]["tumour_high"]
    assert loaded["tumour"][2].max() == pytest.approx(1) == tiles.load(0)["tumour"][0].max()
    assert tiles.invert(0, "tumour_2", loaded["tumour"][2]).min() == pytest.approx(low)
