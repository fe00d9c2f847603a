"""Pictures are read back pixel by pixel: a grid that lies about brightness is worse than none."""

import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from metgan_dist.figures import by_channel, histograms, image_grid, most_label, three_cuts


def pixels(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG")
    return np.asarray(Image.open(BytesIO(png)).convert("RGB")).astype(int)


def middle_of_cell(picture: np.ndarray, row: int, rows: int, col: int, cols: int) -> np.ndarray:
    height, width = picture.shape[:2]
    return picture[int((row + 0.5) * height / rows), int((col + 0.5) * width / cols)]


def test_grey_range_is_fixed_so_dim_tiles_look_dim():
    tiles = [np.full((8, 8), value, dtype=np.float32) for value in (-1.0, 0.0, 1.0)]
    picture = pixels(image_grid({name: [tile] for name, tile in zip("abc", tiles, strict=True)}))
    grey = [middle_of_cell(picture, 0, 1, j, 3)[0] for j in range(3)]
    assert grey[0] == 0
    assert 120 <= grey[1] <= 135
    assert grey[2] == 255


def test_label_is_coloured_over_the_anatomy_and_empty_labels_leave_it_grey():
    anatomy = np.zeros((16, 16), dtype=np.float32)
    filled = np.ones((16, 16), dtype=np.uint8)
    picture = pixels(image_grid({"anatomy": [anatomy] * 2, "label": [filled, 0 * filled]}))
    red, green, blue = middle_of_cell(picture, 0, 2, 1, 2)
    assert red > green + 30
    assert red > blue + 30
    assert np.ptp(middle_of_cell(picture, 1, 2, 1, 2)) == 0


def test_classes_keep_their_colour_whatever_else_is_in_the_tile():
    anatomy = np.zeros((16, 16), dtype=np.float32)
    both = np.full((16, 16), 2, dtype=np.int64)
    both[:2] = 1
    alone = np.full((16, 16), 2, dtype=np.int64)
    picture = pixels(image_grid({"anatomy": [anatomy] * 2, "label": [both, alone]}))
    np.testing.assert_array_equal(middle_of_cell(picture, 0, 2, 1, 2), middle_of_cell(picture, 1, 2, 1, 2))


def test_a_volume_is_cut_through_a_voxel_along_each_axis():
    volume = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    picture = three_cuts(volume, (1, 2, 0))
    assert picture.shape == (3 + 1 + 2, 4 + 1 + 2)
    np.testing.assert_array_equal(picture[:3, :4], volume[1])
    np.testing.assert_array_equal(picture[:3, 5:], [[volume[z, y, 0] for z in range(2)] for y in range(3)])
    np.testing.assert_array_equal(picture[4:, :4], [[volume[z, 2, x] for x in range(4)] for z in range(2)])
    assert np.isnan(picture[3]).all()
    assert np.isnan(picture[:, 4]).all()
    assert np.isnan(picture[4:, 5:]).all()
    label = three_cuts(volume.astype(np.uint8), (1, 2, 0))
    assert (label.dtype, label[3].any(), label[4:, 5:].any()) == (np.uint8, False, False)


def test_volumes_are_cut_where_their_planes_hold_most_label():
    label = np.zeros((6, 8, 10), np.uint8)
    assert most_label(label) == (3, 4, 5)
    label[1, 0, 0] = 1
    assert most_label(label) == (1, 0, 0)
    label[4, 2:6, 3:9] = 2
    label[2:5, 3, 7] = 1
    assert most_label(label) == (4, 3, 7)
    assert label[most_label(label)]


def test_a_volume_shows_three_cuts_through_the_label_of_its_row():
    volume = np.full((1, 9, 9, 9), -1.0, dtype=np.float32)
    volume[0, 2] = 1
    label = np.zeros((9, 9, 9), np.uint8)
    label[2, 7, 7] = 1

    def shown(**more):
        return pixels(image_grid({"real": [volume], **more}))

    # The middle of a picture of 9 + 1 + 9 pixels is white whatever is cut; the upper left quarter is the plane.
    def upper_left(picture):
        height, width = picture.shape[0], picture.shape[1] // 2
        return picture[height // 3, width // 4].tolist()

    assert upper_left(shown(label=[label])) == [255, 255, 255]
    assert upper_left(shown(label=[0 * label])) == [0, 0, 0]
    given = pixels(image_grid({"real": [volume], "also": [volume]}, through=[(2, 0, 0)]))
    assert upper_left(given) == [255, 255, 255]


def test_columns_of_unequal_length_and_row_names_are_drawn():
    tile = np.zeros((8, 8), dtype=np.float32)
    png = image_grid({"real": [tile, tile], "cycled": [tile]}, title="step 5", rows=["v1 z=3", "v1 z=4"])
    assert middle_of_cell(pixels(png), 1, 2, 1, 2).tolist() == [255, 255, 255]  # the missing tile is blank


def test_grids_without_tiles_and_tiles_of_odd_shape_are_refused():
    with pytest.raises(ValueError, match="at least one tile"):
        image_grid({"real": []})
    with pytest.raises(ValueError, match=r"\(3, 2, 8, 8\)"):
        image_grid({"real": [np.zeros((3, 2, 8, 8), dtype=np.float32)]})


def test_panels_of_histograms_may_stand_in_several_rows():
    panels = {name: {"a": np.arange(4.0)} for name in "abcde"}
    wide, high = (pixels(histograms(panels, across=across)) for across in (None, 3))
    assert wide.shape[1] / high.shape[1] == pytest.approx(5 / 3, abs=0.01)
    assert high.shape[0] > 1.5 * wide.shape[0]
    assert high[-20, -20].tolist() == [255, 255, 255]  # where a sixth would be


def test_drawing_leaves_pyplot_and_its_global_state_unloaded():
    draw = "import sys, metgan_dist.figures as figures; figures.histograms({'a': {'b': [0.0, 1.0]}})"
    code = f"{draw}; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_columns_of_several_channels_are_named():
    images = [np.stack([np.full((4, 4), k), np.full((4, 4), -k)]) for k in (0.5, 1.0)]
    columns = by_channel("real", images, ("signal", "nuclei"))
    assert list(columns) == ["real: signal", "real: nuclei"]
    assert [tile[0, 0] for tile in columns["real: nuclei"]] == [-0.5, -1.0]
    assert list(by_channel("real", [image[:1] for image in images], ("signal",))) == ["real"]
    assert image_grid(columns).startswith(b"\x89PNG")
