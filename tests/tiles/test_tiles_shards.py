"""The pixels of tiles are read as they were written, or not at all."""

import numpy as np
import pytest
import zarr

from metgan_dist.errors import DamagedFile
from metgan_dist.tiles.shards import read_tile, write_shard


@pytest.fixture
def tiles():
    random = np.random.default_rng(0)
    anatomy = np.sort(random.integers(0, 999, (3, 32, 32)).astype(np.uint16), axis=2)
    label = np.zeros((3, 32, 32), np.uint8)
    label[1, 4:9, 4:9] = 1
    return {"anatomy": anatomy, "label": label}


def read(folder, tiles, digest):
    """How many of the tiles are refused; what is read is as it was written."""
    refused = 0
    for role, written in tiles.items():
        for position, pixels in enumerate(written):
            try:
                np.testing.assert_array_equal(read_tile(folder, "0", role, position, digest, None), pixels, strict=True)
            except DamagedFile:
                refused += 1
    return refused


def test_a_shard_with_a_flipped_bit_gives_no_other_pixels(tmp_path, tiles):
    write_shard(str(tmp_path), "0", tiles, {}, {}, None)
    assert read(str(tmp_path), tiles, "whole") == 0
    file = tmp_path / "shards/0.zarr/anatomy/c/0/0/0"
    content = file.read_bytes()
    places = np.random.default_rng(1).integers(0, len(content), 40)
    for at in places:
        flipped = bytearray(content)
        flipped[at] ^= 1 << int(at) % 8
        file.write_bytes(flipped)
        assert read(str(tmp_path), tiles, f"flipped {at}") >= 1


def test_an_empty_shard_is_no_shard_of_zeros(tmp_path, tiles):
    one = {role: pixels[:1] for role, pixels in tiles.items()}  # of one tile, so that a tile is a whole shard
    write_shard(str(tmp_path), "0", one, {}, {}, None)
    assert read(str(tmp_path), one, "whole") == 0
    (tmp_path / "shards/0.zarr/anatomy/c/0/0/0").write_bytes(b"")
    assert read(str(tmp_path), one, "empty") == 1


def test_shards_of_earlier_versions_which_have_no_checksum_are_read(tmp_path, tiles):
    group = zarr.create_group(tmp_path / "shards/0.zarr", zarr_format=3)
    for role, pixels in tiles.items():
        group.create_array(role, data=pixels, chunks=(1, 32, 32), shards=pixels.shape)
    assert read(str(tmp_path), tiles, "old") == 0
