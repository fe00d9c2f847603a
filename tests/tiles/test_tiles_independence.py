"""What counts as independent: volumes, else blocks that share no voxel, however densely their tiles are cut."""

import numpy as np
import pytest
from tile_sets import write_cut, write_set

from metgan_dist.recipe import Tiles
from metgan_dist.tiles.independence import independent_units


def cut(folder, shape=(8, 96, 128), **rules):
    voxels = np.zeros(shape)
    return write_cut(folder, voxels, voxels, Tiles.model_validate({"kind": "slice", "size": 32, **rules}))


def every_row(tiles):
    return np.arange(len(tiles.index))


def test_volumes_are_units_where_there_are_several_and_patients_where_they_are_known(tmp_path):
    tiles = write_set(tmp_path, test=8)
    rows = tiles.positions("test")
    units = independent_units(tiles, rows)
    assert (units.kind, units.count, str(units)) == ("volumes", 4, "4 volumes")
    assert units.table.index.tolist() == rows.tolist()
    tiles.index["patient"] = np.where(tiles.index["volume"] == "v3", "p", "q")
    units = independent_units(tiles, rows)
    assert str(units) == "2 patients"
    tiles.index.loc[tiles.index["volume"] == "v0", "patient"] = ""
    assert str(independent_units(tiles, rows)) == "3 patients and volumes"
    assert str(independent_units(tiles, rows, "block")) == "4 blocks of 4 volume(s)"


@pytest.mark.parametrize("kind", [{"step": 1}, {"kind": "projection", "depth": 4, "step": 2}])
def test_blocks_of_one_volume_do_not_grow_with_the_overlap(tmp_path, kind):
    apart, dense = cut(tmp_path / "a", **kind), cut(tmp_path / "b", stride=8, **kind)
    units, denser = independent_units(apart, every_row(apart)), independent_units(dense, every_row(dense))
    assert str(units) == str(denser) == "12 blocks of 1 volume(s)"
    assert units.table["alone"].all()
    assert len(dense.index) > 9 * len(apart.index)
    assert denser.table["alone"].sum() == len(apart.index)


def test_blocks_share_no_voxel(tmp_path):
    tiles = cut(tmp_path, (80, 100, 70), kind="crop", size=32, stride=12)
    table = independent_units(tiles, every_row(tiles)).table
    alone = tiles.index[table["alone"]].assign(unit=table["unit"])
    assert alone["unit"].nunique() == 2 * 3 * 2
    owner = np.full((80, 100, 70), "", dtype=object)
    for _, tile in alone.iterrows():
        here = owner[tile["z0"] : tile["z1"], tile["y0"] : tile["y1"], tile["x0"] : tile["x1"]]
        assert ((here == "") | (here == tile["unit"])).all()
        here[...] = tile["unit"]


def test_planes_that_are_far_apart_in_the_volumes_unit_are_blocks_of_their_own(tmp_path):
    tiles = cut(tmp_path, (8, 32, 32))
    assert independent_units(tiles, every_row(tiles)).count == 1
    tiles.manifest["volumes"][0]["spacing"] = [8.0, 1.0, 1.0]
    assert independent_units(tiles, every_row(tiles)).count == 2  # 32 pixels of 1 are four planes of 8


def test_each_of_separate_images_is_a_block(tmp_path):
    tiles = cut(tmp_path, (5, 96, 96), stride=16)
    tiles.index["name"] = [f"{plane}.png" for plane in tiles.index["plane"]]
    units = independent_units(tiles, every_row(tiles))
    assert units.count == 5
    assert units.table["alone"].all()
