"""Pictures of what a segmentor has found: which planes they show, and several segmentors side by side."""

import numpy as np
import torch
from tile_sets import write_set

from metgan_dist.tasks.overlays import CLOSE, PICTURES, Overlays, _close, side_by_side

DEVICE = torch.device("cpu")


def bright(batch):
    """Scores of two classes: what is above 0 is found."""
    image = batch["tumour"][:, 0]
    return torch.stack([-image, image], dim=1)


def darker(images):
    return images - 0.5


def test_of_each_unit_the_tile_with_the_most_label_is_shown_around_that(tmp_path):
    tiles = write_set(tmp_path / "t", volumes=6, train=6, val=0, test=18)
    rows = tiles.positions("test")
    shown = Overlays.of(tiles, rows, bright, darker, DEVICE)
    # Volumes 2 and 5 have no label at all.
    assert set(shown.names) == {f"volume v{k}" for k in (0, 1, 3, 4)}
    assert shown.image.shape == (PICTURES, CLOSE, CLOSE)
    np.testing.assert_allclose(shown.seen, shown.image - 0.5)
    np.testing.assert_array_equal(shown.found, shown.image > 0)
    own = tiles.index.iloc[rows]
    for name, true in zip(shown.names, shown.true, strict=True):
        of_unit = rows[(own["volume"] == name.removeprefix("volume ")).to_numpy()]
        labels = [tiles.load(int(row))["label"] for row in of_unit]
        fullest = max(labels, key=np.count_nonzero)
        assert np.count_nonzero(true) == np.count_nonzero(fullest) > 0
    again = Overlays.read(shown.npz())
    assert again.names.tolist() == shown.names.tolist()
    np.testing.assert_array_equal(again.found, shown.found)
    assert side_by_side({"a": shown, "b": again}).startswith(b"\x89PNG")
    assert shown.png().startswith(b"\x89PNG")


def test_of_crops_the_plane_with_the_most_label_is_shown_about_its_middle():
    true = np.zeros((5, 40, 200), np.uint8)
    true[1, 3, 150], true[3, 10:12, 150:155] = 1, 2
    places = np.arange(true.size, dtype=np.float32).reshape(true.shape)
    image, seen, close, _ = _close(places, -places, true, true)
    assert image.shape == (40, CLOSE)  # no longer than the tile
    first = 152 - CLOSE // 2
    np.testing.assert_array_equal(image, places[3, :, first : first + CLOSE])
    np.testing.assert_array_equal(seen, -image)
    assert np.count_nonzero(close) == 10
    # At an edge the window stays within.
    true[:] = 0
    true[0, 0, 199] = 1
    np.testing.assert_array_equal(_close(places, places, true, true)[0], places[0, :, -CLOSE:])
