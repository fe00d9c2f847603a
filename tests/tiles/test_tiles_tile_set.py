"""A tile set appears whole or not at all, and is on disk, byte for byte, what earlier versions wrote."""

import hashlib
import io
import json

import fsspec
import pandas as pd
import pytest

from metgan_dist.errors import UserError
from metgan_dist.storage import exists, write_whole
from metgan_dist.tiles import tile_set
from metgan_dist.tiles.tile_set import TileSet, begin_set, finished_fingerprint

INDEX = pd.DataFrame({"volume": ["a", "b"], "split": ["train", "test"], "foreground": [3, 0]})
MANIFEST = {"fingerprint": "f", "roles": ["anatomy"], "tile_shape": [4, 4], "normalisation": {"clip": True}}


@pytest.fixture(params=["disk", "object storage"])
def folder(request, tmp_path):
    return str(tmp_path / "set") if request.param == "disk" else f"memory://{tmp_path.name}/set"


def content(folder, name):
    with fsspec.open(f"{folder}/{name}") as file:
        return file.read()


def test_what_is_written_opens_again_with_the_index_that_the_manifest_names(folder):
    written = TileSet.write(folder, INDEX, MANIFEST)
    opened = TileSet.open(folder)
    pd.testing.assert_frame_equal(opened.index, INDEX)
    assert opened.manifest["index_sha256"] == hashlib.sha256(content(folder, "index.parquet")).hexdigest()
    assert opened.digest == written.digest == hashlib.sha256(content(folder, "manifest.json")).hexdigest()
    assert TileSet.write(f"{folder}-2", INDEX, MANIFEST).digest == written.digest


@pytest.mark.parametrize("shards", [None, {"0": "ab", "1": "cd"}])
def test_digests_are_those_of_earlier_versions(tmp_path, shards):
    TileSet.write(str(tmp_path), INDEX, MANIFEST, None, shards)
    packed = io.BytesIO()
    INDEX.to_parquet(packed, index=False)
    checksums = {"index_sha256": hashlib.sha256(packed.getvalue()).hexdigest()}
    if shards:
        checksums["shards_sha256"] = shards
    expected = json.dumps({"format": 1, **MANIFEST, **checksums}, indent=1)
    assert (tmp_path / "index.parquet").read_bytes() == packed.getvalue()
    assert (tmp_path / "manifest.json").read_text() == expected


def test_an_interrupted_write_leaves_no_set_and_is_made_good_by_the_next(folder, monkeypatch):
    def interrupted(uri, *rest):
        if uri.endswith("manifest.json"):
            raise KeyboardInterrupt
        whole(uri, *rest)

    whole = tile_set.write_whole
    monkeypatch.setattr(tile_set, "write_whole", interrupted)
    with pytest.raises(KeyboardInterrupt):
        TileSet.write(folder, INDEX, MANIFEST)
    assert content(folder, "index.parquet")
    with pytest.raises(UserError, match="no finished tiles here"):
        TileSet.open(folder)
    monkeypatch.undo()
    assert len(TileSet.write(folder, INDEX, MANIFEST).index) == 2


def test_a_set_that_is_begun_again_goes_on_as_it_was_begun_and_another_one_starts_from_nothing(folder):
    said = []

    def begin(**plan):
        return begin_set(folder, plan, None, lambda: said.append("afresh"))

    assert begin(fingerprint="f", tile_memory=16) == {"fingerprint": "f", "tile_memory": 16}
    assert finished_fingerprint(folder, None) is None
    write_whole(f"{folder}/shards/0.json", b"{}", None)
    TileSet.write(folder, INDEX, MANIFEST)
    assert begin(fingerprint="f", tile_memory=99)["tile_memory"] == 16
    assert (finished_fingerprint(folder, None), exists(f"{folder}/shards/0.json"), said) == ("f", True, [])
    assert begin(fingerprint="g", tile_memory=99)["tile_memory"] == 99
    assert (finished_fingerprint(folder, None), exists(f"{folder}/shards/0.json"), said) == (None, False, ["afresh"])
