"""A large set streams from a mapped file as a small one does from its frame, and holds no frame."""

import os
import time

import numpy as np
import pandas as pd
import pytest
import torch
from tile_sets import write_domains, write_set

from metgan_dist.errors import DamagedFile
from metgan_dist.recipe import Recipe
from metgan_dist.tiles import columns, mapped_index, tile_set
from metgan_dist.tiles.brightness import mean_intensities
from metgan_dist.tiles.columns import HeldColumns
from metgan_dist.tiles.mixture import write_mixture
from metgan_dist.tiles.stream import tile_stream
from metgan_dist.tiles.tile_set import TileSet, open_part

RECIPE = Recipe.model_validate({"training": {"seed": 3}})


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("METGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def mapped(cache, monkeypatch):
    """mapped(uri, domain) opens a set as a large one, in batches of 7 rows, which no dictionary outlives."""

    def opened(uri, domain=None, options=None):
        with monkeypatch.context() as large:
            large.setattr(tile_set, "HELD_BYTES", 0)
            large.setattr(mapped_index, "BATCH", 7)
            large.setattr(columns, "BATCH", 7)
            return open_part(uri, options, domain)

    return opened


@pytest.fixture
def no_frame(monkeypatch):
    """From here on a frame of an index is an error."""

    def refused(*arguments, **options):
        raise AssertionError("the whole index was read")

    monkeypatch.setattr(pd, "read_parquet", refused)


def paired(folder):
    tiles = write_set(folder, organs=("lung", "liver", ""), volumes=3, shuffled=True, unseen=2, edge=16)
    return tiles.uri, None


def without_organs(folder):
    tiles = write_set(folder / "whole", edge=16)
    index = tiles.index.assign(organ=[None, "lung", *tiles.index["organ"][2:]])
    (folder / "whole/shards").rename(folder / "shards")
    return TileSet.write(str(folder), index, tiles.manifest).uri, None


def two_domains(folder):
    return write_domains(folder, edge=16).uri, None


def source(folder):
    return write_domains(folder, edge=16).uri, "ct"


def target(folder):
    return write_domains(folder, edge=16).uri, "mr"


def mixture(folder):
    real, made = (write_set(folder / name, edge=16, synthesis=how) for name, how in (("a", None), ("b", {})))
    rows = real.positions("train")
    return write_mixture(str(folder / "m"), real, rows[2:], rows[:2], [made], [made.positions("train")], None).uri, None


SETS = [paired, without_organs, two_domains, source, target, mixture]


@pytest.mark.parametrize("make", SETS)
def test_a_mapped_set_says_of_every_tile_what_a_held_one_says(tmp_path, mapped, make):
    uri, domain = make(tmp_path / "set")
    held, large = open_part(uri, None, domain), mapped(uri, domain)
    assert isinstance(held.columns, HeldColumns)
    assert not isinstance(large.columns, HeldColumns)
    rows = np.random.default_rng(0).permutation(np.tile(np.arange(len(held.columns)), 2))
    assert len(large.columns) == len(held.index)
    for one, other in zip(large.addresses(rows), held.addresses(rows), strict=True):
        assert list(one) == list(other)
        np.testing.assert_equal(one, other)  # as NaN is NaN: the ranges of what a domain does not hold
        assert [type(value) for value in one.values()] == [type(value) for value in other.values()]
    for split in ("train", "val", "test", "unseen", "gap"):
        for roles in ((), ("anatomy",), ("tumour",), ("tumour", "label"), ("anatomy", "tumour")):
            np.testing.assert_array_equal(large.positions(split, *roles), held.positions(split, *roles), strict=True)
    assert (large.manifest, large.organs) == (held.manifest, held.organs)
    pd.testing.assert_frame_equal(large.index, held.index)


@pytest.mark.parametrize("make", SETS)
def test_a_mapped_set_streams_the_same_batches_and_nobody_reads_its_frame(tmp_path, mapped, make, request):
    uri, domain = make(tmp_path / "set")
    held = open_part(uri, None, domain)
    options = {"batch_size": 3, "start": 6, "stop": 60, "here": True}
    chosen = {}
    if make is two_domains:
        chosen = {"rows": ("train", "anatomy"), "target": ("train", "tumour")}
    expected = list(tile_stream(held, RECIPE, **options, **{key: held.positions(*of) for key, of in chosen.items()}))
    request.getfixturevalue("no_frame")
    large = mapped(uri, domain)
    given = {key: large.positions(*of) for key, of in chosen.items()}
    for one, other in zip(tile_stream(large, RECIPE, **options, **given), expected, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[role], other[role]) for role in one)
    assert mean_intensities(large) == mean_intensities(held)


def test_rows_of_a_mapped_set_take_no_memory(tmp_path, mapped):
    rows = mapped(*paired(tmp_path / "set")).positions("train")
    assert isinstance(rows, np.memmap)
    assert rows.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        rows[0] = 1


def test_the_columns_are_written_once_and_again_when_the_set_is_another(tmp_path, mapped, cache, monkeypatch):
    written = []
    write = mapped_index._write
    monkeypatch.setattr(mapped_index, "_write", lambda packed, path: written.append(path) or write(packed, path))
    uri, _ = paired(tmp_path / "set")
    assert mapped(uri).digest == mapped(uri).digest
    assert len(written) == 1
    tiles = TileSet.open(uri)
    changed = TileSet.write(uri, tiles.index.assign(split="test"), tiles.manifest)
    assert len(mapped(changed.uri).positions("test")) == len(tiles.index)
    assert len(written) == 2
    assert not list(cache.glob("*.part"))


def test_object_storage_leaves_no_copy_of_the_index_behind(tmp_path, mapped, cache):
    tiles = write_set(tmp_path / "set", edge=16)
    far = TileSet.write(f"memory://{tmp_path.name}/set", tiles.index, tiles.manifest)
    assert mapped(far.uri).addresses(np.arange(4)) == tiles.addresses(np.arange(4))
    assert {path.suffix for path in cache.iterdir()} == {".arrow", ".lock"}


def test_an_index_that_is_not_the_manifests_is_refused(tmp_path, mapped, mistake):
    uri, _ = paired(tmp_path / "set")
    index = tmp_path / "set/index.parquet"
    index.write_bytes(index.read_bytes()[:-1] + b"?")
    with mistake(str(index), "not the index that manifest.json names", kind=DamagedFile):
        mapped(uri)


def test_what_nobody_has_opened_for_a_week_goes(tmp_path, mapped, cache):
    large = mapped(*paired(tmp_path / "old"))
    before = large.addresses(np.arange(3))
    (old,) = cache.glob("*.arrow")
    mapped(write_set(tmp_path / "recent", edge=16, train=8).uri)
    other = cache / "0123-model.pt"
    other.touch()
    for file in (old, other):
        os.utime(file, (time.time() - 8 * 86400,) * 2)
    mapped(write_set(tmp_path / "new", edge=16, train=9).uri)
    assert not old.exists()
    assert other.exists()  # of somebody else
    assert len(list(cache.glob("*.arrow"))) == 2
    assert large.addresses(np.arange(3)) == before  # who has it open keeps it
