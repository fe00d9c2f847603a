"""Overlapping tiles lie where they were cut, each plane by itself, and are averaged whatever the size of the cells."""

import numpy as np
import pytest
from tile_sets import write_cut

from metgan_dist.recipe import Tiles
from metgan_dist.tiles.mosaic import Canvas, mosaic

SHAPES = {"slice": (2, 28, 26), "projection": (6, 28, 26), "crop": (8, 28, 26)}


def volume(shape):
    random = np.random.default_rng(0)
    return random.integers(0, 999, shape), random.random(shape) < 0.1


def painted(tiles, cells, value):
    """What all canvases of the cells of a place give of `value(row)`, put together."""
    whole = np.zeros([length - 1 for length in cells[0].whole])
    for cell in cells:
        canvas = Canvas(cell, 1)
        for row, corner in cell.tiles():
            canvas.add(corner, value(row)[None])
        here = tuple(slice(low, high) for low, high in zip(cell.low, cell.high, strict=True))
        whole[here] = canvas.mean()[0][tuple(slice(0, -1) for _ in here)]
    return whole


@pytest.mark.parametrize("cell_pixels", [200, 2**22])
@pytest.mark.parametrize(
    "rules",
    [
        {"kind": "slice", "size": 16, "stride": 4},
        {"kind": "slice", "size": [2, 16], "stride": [2, 12], "views": ["y", "x"]},
        {"kind": "projection", "size": 16, "stride": 8, "depth": 4, "step": 2},
        {"kind": "crop", "size": [4, 16, 16], "stride": [2, 8, 8]},
        {"kind": "slice", "size": 24, "stride": 20, "edge": "pad"},
    ],
)
def test_the_tiles_of_a_place_give_back_what_they_were_cut_from(tmp_path, rules, cell_pixels):
    rules = Tiles.model_validate(rules)
    tumour, label = volume(SHAPES[rules.kind])
    tiles = write_cut(tmp_path, tumour, label, rules)
    pixels = [(tiles.load(row)["tumour"][0] + 1) * 999 / 2 for row in range(len(tiles.index))]
    places, cells = mosaic(tiles.index, tiles.shape, np.arange(len(tiles.index)), cell_pixels)
    assert places["tiles"].sum() == len(tiles.index)
    for number, place in places.iterrows():
        own = [cell for cell in cells if cell.place == number]
        assert all(np.prod(np.subtract(cell.high, cell.low)) <= cell_pixels for cell in own)
        shown = painted(tiles, own, pixels.__getitem__)
        if place["unit"] == "volume":
            expected = tumour
        else:
            axis = "zyx".index(place["view"])
            expected = tumour.take(range(place["first"], place["last"]), axis=axis).max(axis=axis)
        assert len(places) == 1 or place["last"] - place["first"] == (4 if rules.kind == "projection" else 1)
        common = tuple(slice(0, min(pair)) for pair in zip(shown.shape, expected.shape, strict=True))
        np.testing.assert_allclose(shown[common], expected[common], atol=0.01)


def test_places_are_planes_of_each_view_and_volume(tmp_path):
    rules = Tiles.model_validate({"kind": "projection", "size": 16, "stride": 4, "depth": 4, "step": 2, "views": "z,y"})
    tiles = write_cut(tmp_path, *volume((16, 32, 32)), rules)
    tiles.index.loc[tiles.index["plane"] == 0, "volume"] = "other"
    places, _ = mosaic(tiles.index, tiles.shape, np.flatnonzero(tiles.index["plane"] < 8))
    found = {(row["volume"], row["view"], row["first"], row["last"], row["unit"]) for _, row in places.iterrows()}
    assert found == {
        ("other" if first == 0 else "v0", view, first, first + 4, "slab") for view in "zy" for first in (0, 2, 4, 6)
    }


@pytest.mark.parametrize(("stride", "corners"), [(24, [0, 16, 32, 48]), (20, [0, 13, 27, 40, 48])])
def test_corners_of_resized_tiles_are_pixels_of_the_resized_image(tmp_path, stride, corners):
    rules = Tiles.model_validate({"kind": "slice", "size": 48, "stride": stride, "resize": 32})
    tiles = write_cut(tmp_path, *volume((1, 120, 120)), rules)
    _, (cell,) = mosaic(tiles.index, tiles.shape, np.arange(len(tiles.index)))
    assert sorted({corner[0] for _, corner in cell.tiles()}) == corners
    assert cell.high == (80, 80)


def test_tiles_here_and_there_leave_what_lies_between_empty(tmp_path):
    tiles = write_cut(tmp_path, *volume((1, 64, 64)), Tiles.model_validate({"kind": "slice", "size": 16}))
    _, cells = mosaic(tiles.index, tiles.shape, np.array([0, 15]), 256)
    shown = painted(tiles, cells, lambda row: np.ones((16, 16)))
    assert shown.sum() == 2 * 256
    assert len(cells) < 16
