"""Mean intensities of training tiles, against the tiles themselves."""

import numpy as np
import pytest
from tile_sets import write_set

from metgan_dist.tiles.brightness import SEEN, mean_intensities


def test_the_mean_of_each_role_over_training_tiles(tmp_path):
    tiles = write_set(tmp_path, train=10, test=6)
    held = [tiles.load(int(row)) for row in tiles.positions("train", "anatomy")]
    assert len(held) == 10
    means = mean_intensities(tiles)
    for role in ("anatomy", "tumour"):
        assert means[role] == pytest.approx([np.mean([tile[role] for tile in held])], abs=1e-6)


def test_few_tiles_are_read_however_many_there_are(tmp_path, monkeypatch):
    tiles = write_set(tmp_path, train=3 * SEEN)
    read = []
    load = type(tiles).load
    monkeypatch.setattr(type(tiles), "load", lambda self, row: read.append(row) or load(self, row))
    mean_intensities(tiles)
    assert len(read) == 2 * SEEN
    assert len(set(read)) == SEEN
