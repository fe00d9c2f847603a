"""Mean intensities of training tiles, against the tiles themselves."""

import numpy as np
import pytest
from tile_sets import write_set

from metgan_dist.tiles.brightness import SEEN, mean_intensities
from metgan_dist.tiles.reader import TileReader


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
    load = TileReader.load

    def heard(self, tile, roles=None):
        read.append((tile["shard"], tile["position"], *roles))
        return load(self, tile, roles)

    monkeypatch.setattr(TileReader, "load", heard)
    mean_intensities(tiles)
    assert len(read) == len(set(read)) == 2 * SEEN  # each role by itself, and none beside it
    assert len({tile[:2] for tile in read}) == SEEN
