"""Tiles from object storage: the same pixels by fewer requests, and nothing of a damaged shard."""

import boto3
import numpy as np
import pandas as pd
import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem
from tile_sets import finish, flat

from metgan_dist.errors import DamagedFile
from metgan_dist.recipe import Data, Recipe, Tiles
from metgan_dist.storage import filesystem
from metgan_dist.tiles import shard_parts, shards
from metgan_dist.tiles.shards import read_tiles, write_shard
from metgan_dist.tiles.stream import tile_stream
from metgan_dist.tiles.windows import BLOCK

COUNT = 20


@pytest.fixture
def far(tmp_path):
    """A folder in object storage, with one shard; every third tile is empty."""
    folder = f"memory://{tmp_path.name}"
    pixels = np.random.default_rng(0).integers(0, 999, (COUNT, 8, 8)).astype(np.uint16)
    pixels[::3] = 0
    write_shard(folder, "0", {"tumour": pixels}, {}, {}, None)
    shards._opened.cache_clear()
    return folder, pixels


@pytest.mark.parametrize("gap", [0, 2**20])
@pytest.mark.parametrize("positions", [[0], [5], [3, 4, 5, 6], [1, 17], [0, 3, 6], [19, 2, 11], range(COUNT)])
def test_tiles_of_object_storage_are_as_they_were_written(far, positions, gap, monkeypatch):
    monkeypatch.setattr(shard_parts, "GAP", gap)
    folder, pixels = far
    read = read_tiles(folder, "0", "tumour", list(positions), "d", None)
    np.testing.assert_array_equal(read, pixels[list(positions)], strict=True)


def test_a_flipped_bit_gives_no_other_pixels(far):
    folder, pixels = far
    fs, path = filesystem(f"{folder}/shards/0.zarr/tumour/c/0/0/0")
    content = fs.cat_file(path)
    index = len(content) - 16 * COUNT - 4
    places = [
        *np.random.default_rng(1).integers(0, index, 20),
        *np.random.default_rng(2).integers(index, len(content), 20),
    ]
    refused = 0
    for at in places:
        flipped = bytearray(content)
        flipped[at] ^= 1 << int(at) % 8
        fs.pipe_file(path, bytes(flipped))
        shards._opened.cache_clear()
        for positions in ([1, 2, 4], [5, 7, 8], [10, 11, 13, 14], [16, 17, 19]):
            try:
                read = read_tiles(folder, "0", "tumour", positions, f"flipped {at}", None)
            except DamagedFile:
                refused += 1
            else:
                np.testing.assert_array_equal(read, pixels[positions])
    assert refused >= len(places)


@pytest.fixture
def requests(monkeypatch):
    """The objects that are got from an S3 server on loopback, one entry a request."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**keys, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="lab")
    got, call = [], S3FileSystem._call_s3

    async def counted(self, method, *arguments, **options):
        if method == "get_object":
            got.append(options.get("Key", ""))
        return await call(self, method, *arguments, **options)

    monkeypatch.setattr(S3FileSystem, "_call_s3", counted)
    yield got
    server.stop()
    S3FileSystem.clear_instance_cache()


def many_shards(folder, count=12, each=32):
    """A set of `count` shards of as many training tiles, images alone."""
    random, rows = np.random.default_rng(0), np.arange(count * each)
    for shard in range(count):
        write_shard(
            folder, f"{shard:02}", {"tumour": random.integers(0, 999, (each, 16, 16)).astype(np.uint16)}, {}, {}, None
        )
    fixed = {"volume": "v", "organ": "", "patient": "", "name": "", "split": "train", "fold": 0, "foreground": 0}
    columns = {"shard": [f"{row // each:02}" for row in rows], "position": rows % each, "label_row": rows}
    index = pd.DataFrame({**columns, **flat(rows, 16), **fixed, "tumour_low": 0.0, "tumour_high": 999.0})
    manifest = {
        "roles": ["tumour"],
        "tile_shape": [16, 16],
        "data": Data(tumour="tumour").model_dump(mode="json", exclude={"path"}),
        "tiles": Tiles(size=(16,)).model_dump(mode="json"),
        "volumes": [{"id": "v", "shape": [len(rows), 16, 16]}],
        "counts": {"train": len(rows), "val": 0, "test": 0, "unseen": 0},
    }
    return finish(folder, index, manifest)


def test_a_block_of_a_window_costs_one_request(requests, monkeypatch):
    """Of 384 tiles in shards of 32: a request a block, or two where it lies in two shards; a full shuffle, one a tile
    of those that are not neighbours by chance.
    """
    tiles = many_shards("s3://lab/set")
    monkeypatch.setattr(shard_parts, "GAP", 0)
    pixels = {}
    for window in (None, 128):
        recipe = Recipe.model_validate({"training": {"shuffle_window": window, "augment": False}})
        shards._opened.cache_clear()
        requests.clear()
        batches = list(tile_stream(tiles, recipe, batch_size=4, stop=len(tiles.index), here=True))
        of_tiles = [key for key in requests if "/c/" in key]
        pixels[window] = {
            int(row): image for batch in batches for row, image in zip(batch["tile"], batch["tumour"], strict=True)
        }
        indices = 12
        if window is None:
            assert len(of_tiles) > 0.9 * len(tiles.index)
        else:
            assert len(of_tiles) <= indices + 2 * len(tiles.index) / BLOCK + 1
        assert len(requests) - len(of_tiles) == 12  # what says of which type an array is, once each
    assert len(pixels[None]) == len(tiles.index)
    assert all((pixels[None][row] == image).all() for row, image in pixels[128].items())
