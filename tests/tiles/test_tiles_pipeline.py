import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from metgan_dist.errors import DamagedFile, UserError
from metgan_dist.tiles.manifest import shuffle_labels
from metgan_dist.tiles.pipeline import make_tiles
from metgan_dist.tiles.tile_set import TileSet

pytestmark = pytest.mark.usefixtures("ray_cluster")


def silent(line: str) -> None:
    pass


def volume_of(recipe, name, channel):
    entry = next(entry for entry in recipe.data.volumes if entry.id == name)
    path = entry.label if channel == "label" else entry.path[channel]
    return tifffile.imread(Path(recipe.data.path) / path)


def test_every_tile_is_the_region_that_its_row_names(write_volumes, tmp_path):
    recipe = write_volumes(2, tiles={"kind": "projection", "size": 24, "depth": 4, "views": ["z"], "clip": False})
    tiles = make_tiles(recipe, str(tmp_path / "set"), silent)
    assert len(tiles.index) == 2 * 2 * 4 * 3
    assert tiles.shape == (24, 24)
    for row, tile in tiles.index.iterrows():
        region = tuple(slice(tile[f"{axis}0"], tile[f"{axis}1"]) for axis in "zyx")
        loaded = tiles.load(row)
        for channel in ("anatomy", "tumour"):
            expected = volume_of(recipe, tile["volume"], channel)[region].max(axis=0)
            back = tiles.invert(row, channel, loaded[channel][0])
            assert (np.rint(back) == expected).all()
        label = volume_of(recipe, tile["volume"], "label")[region].max(axis=0)
        assert (loaded["label"] == label).all()
        assert tile["foreground"] == np.count_nonzero(label)
        assert loaded["anatomy"].shape == (1, 24, 24)
        assert loaded["anatomy"].dtype == np.float32


def test_ranges_are_those_of_the_volume_the_plane_or_the_tile(write_volumes, tmp_path):
    for over in ("volume", "plane", "tile"):
        recipe = write_volumes(tiles={"normalise": "minmax", "normalise_over": over})
        tiles = make_tiles(recipe, str(tmp_path / over), silent)
        voxels = volume_of(recipe, "v0", "tumour")
        for _, tile in tiles.index.iloc[::7].iterrows():
            rows = slice(tile["y0"], tile["y1"]), slice(tile["x0"], tile["x1"])
            of = {"volume": voxels, "plane": voxels[tile["z0"]], "tile": voxels[tile["z0"]][rows]}[over]
            assert (tile["tumour_low"], tile["tumour_high"]) == (of.min(), of.max())
        assert tiles.manifest["volumes"][0]["intensities"]["tumour"]["clipped"] == 0


def test_percentiles_of_the_manifest_are_those_of_the_voxels(write_volumes, tmp_path):
    recipe = write_volumes(tiles={"size": 32, "stride": 32})
    tiles = make_tiles(recipe, str(tmp_path / "set"), silent)
    voxels = volume_of(recipe, "v0", "anatomy")
    low, high = np.percentile(voxels, [0.5, 99.8], method="inverted_cdf")
    said = tiles.manifest["volumes"][0]["intensities"]["anatomy"]
    assert (said["low"], said["high"]) == (low, high)
    assert said["clipped"] == pytest.approx(((voxels < low) | (voxels > high)).mean())


def test_an_interrupted_job_goes_on_where_it_was_and_ends_with_the_same_set(write_volumes, tmp_path):
    recipe = write_volumes(3)
    first = make_tiles(recipe, str(tmp_path / "set"), silent)
    markers = sorted((tmp_path / "set" / "shards").glob("*.json"))
    assert len(markers) >= 3
    for marker in markers[::2]:
        marker.unlink()
    kept = {marker: marker.stat().st_mtime_ns for marker in markers[1::2]}
    (tmp_path / "set" / "manifest.json").unlink()
    lines: list[str] = []
    again = make_tiles(recipe, str(tmp_path / "set"), lines.append)
    assert again.digest == first.digest
    assert any("blocks are there already" in line for line in lines)
    assert all(marker.stat().st_mtime_ns == time for marker, time in kept.items())
    assert make_tiles(recipe, str(tmp_path / "other"), silent).digest == first.digest


def test_the_same_recipe_uses_the_set_and_another_one_is_refused(write_volumes, tmp_path):
    recipe = write_volumes()
    first = make_tiles(recipe, str(tmp_path / "set"), silent)
    lines: list[str] = []
    assert make_tiles(recipe, str(tmp_path / "set"), lines.append).digest == first.digest
    assert len(lines) == 1
    assert "already holds this set" in lines[0]
    with pytest.raises(UserError, match="holds tiles of other files"):
        make_tiles(write_volumes(tiles={"size": 16}), str(tmp_path / "set"), silent)


def test_an_edited_label_is_noticed(write_volumes, tmp_path):
    recipe = write_volumes()
    make_tiles(recipe, str(tmp_path / "set"), silent)
    write_volumes()  # the same files with a later time
    with pytest.raises(UserError, match="holds tiles of other files"):
        make_tiles(recipe, str(tmp_path / "set"), silent)


def test_what_an_unfinished_job_with_other_settings_left_is_not_mixed_in(write_volumes, tmp_path):
    make_tiles(write_volumes(), str(tmp_path / "set"), silent)
    (tmp_path / "set" / "manifest.json").unlink()
    recipe = write_volumes(tiles={"size": 16})
    tiles = make_tiles(recipe, str(tmp_path / "set"), silent)
    assert tiles.shape == (16, 16)
    assert tiles.digest == make_tiles(recipe, str(tmp_path / "fresh"), silent).digest


def test_tiles_without_enough_foreground_are_dropped_and_counted(write_volumes, tmp_path):
    recipe = write_volumes(tiles={"min_foreground": 20})
    tiles = make_tiles(recipe, str(tmp_path / "set"), silent)
    counts = tiles.manifest["counts"]
    assert (tiles.index["foreground"] >= 20).all()
    assert counts["dropped"]["min_foreground"] > 0
    assert counts["planned"] == 48 == len(tiles.index) + counts["dropped"]["min_foreground"]
    assert sum(counts[split] for split in ("train", "val", "test")) + counts["dropped"]["gap"] == len(tiles.index)


def test_a_patient_whom_too_few_others_keep_from_staying_on_one_side_is_told(write_volumes, tmp_path):
    said = []
    make_tiles(write_volumes(2, entry={"patient": "p"}), str(tmp_path / "set"), said.append)
    line = next(line for line in said if "patient(s)" in line)
    assert line.startswith("tiles: 1 patient(s) with several volumes are trained on and held out ('p'")


@pytest.mark.parametrize(
    ("change", "fields", "message"),
    [
        ("label", {}, r"^data\.label: none of the \d+ training tiles holds a labelled pixel"),
        ("label", {"min_foreground": 1}, r"^tiles\.min_foreground: none of the 48 tiles"),
        ("anatomy", {}, r"^volume 'v0': its anatomy channel is 0 everywhere"),
    ],
)
def test_useless_input_is_one_line_that_names_it(write_volumes, tmp_path, change, fields, message):
    recipe = write_volumes(tiles=fields)
    empty = np.zeros_like(volume_of(recipe, "v0", change))
    tifffile.imwrite(tmp_path / f"{change}-0.tif", empty, photometric="minisblack", metadata={"axes": "ZYX"})
    with pytest.raises(UserError, match=message) as caught:
        make_tiles(recipe, str(tmp_path / "set"), silent)
    assert "\n" not in str(caught.value)


def test_nan_voxels_stop_the_job_from_inside_a_task(write_volumes, tmp_path):
    recipe = write_volumes()
    voxels = volume_of(recipe, "v0", "tumour").astype(np.float32)
    voxels[3, 5, 5] = np.nan
    tifffile.imwrite(tmp_path / "tumour-0.tif", voxels, photometric="minisblack", metadata={"axes": "ZYX"})
    with pytest.raises(UserError, match=r"tumour-0\.tif: NaN"):
        make_tiles(recipe, str(tmp_path / "set"), silent)


def test_a_damaged_file_stops_the_job_or_is_skipped_counted_and_named(write_volumes, tmp_path):
    recipe = write_volumes(2)
    path = tmp_path / "tumour-1.tif"
    voxels = tifffile.imread(path)
    tifffile.imwrite(path, voxels, photometric="minisblack", metadata={"axes": "ZYX"}, compression="zlib")
    with tifffile.TiffFile(path) as file:
        first, length = file.pages[5].dataoffsets[0], file.pages[5].databytecounts[0]
    content = bytearray(path.read_bytes())
    content[first : first + length // 2] = bytes(length // 2)
    path.write_bytes(bytes(content))
    with pytest.raises(DamagedFile, match=r"tumour-1\.tif"):
        make_tiles(recipe, str(tmp_path / "set"), silent)
    skipping = recipe.model_copy(update={"data": recipe.data.model_copy(update={"damaged": "skip"})})
    lines: list[str] = []
    tiles = make_tiles(skipping, str(tmp_path / "set"), lines.append)
    assert any("tumour-1.tif" in line for line in lines)
    assert any("tumour-1.tif" in reason for reason in tiles.manifest["skipped"])
    assert tiles.manifest["counts"]["dropped"]["damaged"] == 48
    assert set(tiles.index["volume"]) == {"v0"}
    path.write_bytes(path.read_bytes()[:100])  # now it does not even open
    tiles = make_tiles(skipping, str(tmp_path / "other"), silent)
    assert "tumour-1.tif" in tiles.manifest["skipped"][0]


def test_padding_and_resizing_are_stated(write_volumes, tmp_path):
    recipe = write_volumes(tiles={"size": 60, "edge": "pad", "resize": 30}, entry={"spacing": [5, 2, 2]})
    tiles = make_tiles(recipe, str(tmp_path / "set"), silent)
    assert tiles.shape == (30, 30)
    # 96 x 64 pixels in tiles of 60: 2 x 2 tiles a plane, three of them over the edge.
    assert tiles.manifest["padding"]["tiles"] == 8 * 3
    last = tiles.index[(tiles.index["y0"] == 60) & (tiles.index["x0"] == 60)].iloc[0]
    assert (last["y1"], last["x1"], last["pad_y1"], last["pad_x1"]) == (96, 64, 24, 56)
    assert (last["spacing_y"], last["spacing_x"]) == (4, 4)
    assert tiles.load(int(last.name))["anatomy"][0, -1, -1] == -1


def test_shuffled_labels_are_those_of_other_training_tiles(write_volumes, tmp_path):
    recipe = write_volumes(2, data={"shuffled_labels": 0.25})
    tiles = make_tiles(recipe, str(tmp_path / "set"), silent)
    train = tiles.positions("train")
    moved = np.flatnonzero(tiles.index["label_row"] != np.arange(len(tiles.index)))
    assert len(moved) == round(0.25 * len(train))
    assert set(moved) <= set(train)
    plain = make_tiles(write_volumes(2), str(tmp_path / "plain"), silent)
    for row in moved[:5]:
        other = int(tiles.index["label_row"][row])
        assert (tiles.load(row)["label"] == plain.load(other)["label"]).all()
        assert (tiles.load(row)["anatomy"] == plain.load(row)["anatomy"]).all()


def test_a_shuffle_of_everything_leaves_no_label_in_place():
    rows = np.array([2, 3, 5, 7, 8])
    shuffled = shuffle_labels(rows, 10, 1.0)
    assert (shuffled[rows] != rows).all()
    assert sorted(shuffled[rows]) == rows.tolist()
    assert (shuffled[[0, 1, 4, 6, 9]] == [0, 1, 4, 6, 9]).all()


def test_separate_images_keep_names_organs_and_patients(tmp_path):
    from metgan_dist.recipe import Recipe

    random = np.random.default_rng(0)
    lines = ["file,organ,patient"]
    for number in range(12):
        lines.append(f"i{number}.tif,{['lung', 'liver'][number % 2]},m{number // 2}")
        for channel in ("anatomy", "tumour", "label"):
            (tmp_path / channel).mkdir(exist_ok=True)
            pixels = random.integers(0, 2 if channel == "label" else 255, (32, 32)).astype(np.uint8)
            tifffile.imwrite(tmp_path / channel / f"i{number}.tif", pixels)
    (tmp_path / "table.csv").write_text("\n".join(lines))
    entry = {"id": "m", "path": {"anatomy": "anatomy", "tumour": "tumour"}, "label": "label", "table": "table.csv"}
    recipe = Recipe.model_validate(
        {
            "data": {"path": str(tmp_path), "anatomy": "anatomy", "volumes": [entry]},
            "tiles": {"kind": "slice", "size": 32},
        }
    )
    made = make_tiles(recipe, str(tmp_path / "set"), silent)
    index = made.index
    assert made.manifest["organs"] == list(made.organs) == ["liver", "lung"]
    assert index["name"].tolist() == [f"i{number}.tif" for number in range(12)]
    assert index["patient"].tolist() == [f"m{number // 2}" for number in range(12)]
    assert (index.groupby("patient")["split"].nunique() == 1).all()
    assert set(index["split"]) == {"train", "val", "test"}


def test_opening_says_what_is_missing_or_was_changed(write_volumes, tmp_path):
    with pytest.raises(UserError, match=r"no finished tiles here"):
        TileSet.open(str(tmp_path / "nothing"))
    make_tiles(write_volumes(), str(tmp_path / "set"), silent)
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    manifest["index_sha256"] = "0" * 64
    (tmp_path / "set" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedFile, match=r"index\.parquet"):
        TileSet.open(str(tmp_path / "set"))
