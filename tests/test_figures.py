"""Pictures are read back pixel by pixel: a grid that lies about brightness is worse than none."""

import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from metgan_dist.figures import by_channel, image_grid


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


def test_volume_shows_its_middle_slice():
    volume = np.full((1, 5, 8, 8), -1.0, dtype=np.float32)
    volume[0, 2] = 1
    assert middle_of_cell(pixels(image_grid({"real": [volume]})), 0, 1, 0, 1).tolist() == [255, 255, 255]


def test_columns_of_unequal_length_and_row_names_are_drawn():
    tile = np.zeros((8, 8), dtype=np.float32)
    png = image_grid({"real": [tile, tile], "cycled": [tile]}, title="step 5", rows=["v1 z=3", "v1 z=4"])
    assert middle_of_cell(pixels(png), 1, 2, 1, 2).tolist() == [255, 255, 255]  # the missing tile is blank


def test_grids_without_tiles_and_tiles_of_odd_shape_are_refused():
    with pytest.raises(ValueError, match="at least one tile"):
        image_grid({"real": []})
    with pytest.raises(ValueError, match=r"\(3, 2, 8, 8\)"):
        image_grid({"real": [np.zeros((3, 2, 8, 8), dtype=np.float32)]})


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
