"""Streams that are shuffled in windows: whole passes, resumable anywhere on any number of workers, by any reader."""

import numpy as np
import pytest
import torch
from tile_sets import write_domains, write_set

from metgan_dist.recipe import Recipe
from metgan_dist.tiles import mapped_index, stream, tile_set
from metgan_dist.tiles.mixture import write_mixture
from metgan_dist.tiles.splits import fold_split
from metgan_dist.tiles.stream import planned_rows, tile_stream
from metgan_dist.tiles.tile_set import TileSet

SEED, WINDOW = 3, 48


def recipe_of(window=WINDOW, **training):
    return Recipe.model_validate({"training": {"seed": SEED, "shuffle_window": window, **training}})


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """A hundred training tiles."""
    return write_set(tmp_path_factory.mktemp("set"), train=100, edge=16)


def run_of(tiles, recipe, start, stop, world, batch_size=2, **options):
    """The row of every image from `start` to `stop`, from all ranks of so many workers."""
    parts = []
    for rank in range(world):
        places = {"rank": rank, "world": world, "batch_size": batch_size, "start": start, "stop": stop}
        batches = list(tile_stream(tiles, recipe, **places, **{"here": True, **options}))
        parts.append(torch.stack([batch["tile"] for batch in batches]))
    return torch.stack(parts, 1).flatten().tolist()


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_goes_on_where_it_was_from_two_workers_to_one_and_to_three(tiles):
    rows, recipe = tiles.positions("train"), recipe_of()
    expected = planned_rows(rows, np.arange(240), SEED, (), WINDOW).tolist()
    seen = run_of(tiles, recipe, 0, 60, 2) + run_of(tiles, recipe, 60, 162, 1) + run_of(tiles, recipe, 162, 240, 3)
    assert seen == expected
    for epoch in (seen[:100], seen[100:200]):
        assert sorted(epoch) == rows.tolist()
    assert seen[:100] != seen[100:200]


@pytest.mark.parametrize("here", [True, False])
def test_a_stream_resumed_within_a_window_is_the_tail_of_an_undisturbed_one(tiles, here, monkeypatch, ray_cluster):
    """Augmented pixels, too; with executions of a whole rank's window, and of less."""
    whole = list(tile_stream(tiles, recipe_of(), batch_size=4, stop=128, here=True))
    for most in (stream.EXECUTION_BYTES, 20 * 9 * 16 * 16):
        monkeypatch.setattr(stream, "EXECUTION_BYTES", most)
        tail = list(tile_stream(tiles, recipe_of(), batch_size=4, start=20, stop=128, here=here))
        assert len(tail) == 27
        assert all(equal(one, other) for one, other in zip(tail, whole[5:], strict=True))


def test_sets_that_fit_one_window_are_shuffled_as_a_whole(tiles):
    rows = tiles.positions("train")
    full = planned_rows(rows, np.arange(200), SEED)
    for window in (100, 4096):
        assert (planned_rows(rows, np.arange(200), SEED, (), window) == full).all()
    assert (planned_rows(rows, np.arange(200), SEED, (), 99) != full).any()
    one, other = (
        list(tile_stream(tiles, recipe_of(window), batch_size=4, stop=40, here=True)) for window in (None, 100)
    )
    assert all(equal(*pair) for pair in zip(one, other, strict=True))


def test_what_is_read_together_ends_where_a_window_does(tiles, monkeypatch):
    read = []
    stack = stream.Load.stack
    monkeypatch.setattr(stream.Load, "stack", lambda self, planned: read.append(len(planned)) or stack(self, planned))
    run_of(tiles, recipe_of(), 0, 300, 1, 4)
    # Windows of 48, 48 and 4 tiles, three epochs of them.
    assert read == [48, 48, 4] * 3
    read.clear()
    run_of(tiles, recipe_of(), 0, 120, 2, 3)
    # A rank has half of each; the global batches of 6 that reach into the next window are read with the first.
    assert read[: len(read) // 2] == [24, 24, 3, 9]
    assert sum(read) == 120


def test_folds_mixtures_and_mapped_sets_go_through_windows_alike(tiles, tmp_path, monkeypatch):
    fold, _ = fold_split(tiles.index, 1)  # rows that do not lie beside each other
    assert sorted(run_of(tiles, recipe_of(), 0, len(fold), 1, 1, rows=fold)) == fold.tolist()
    made = write_set(tmp_path / "made", train=40, edge=16, synthesis={})
    mixed = write_mixture(str(tmp_path / "m"), tiles, fold, fold[:0], [made], [made.positions("train")], None)
    rows = mixed.positions("train")
    assert sorted(run_of(mixed, recipe_of(), 0, len(rows), 1, 1)) == rows.tolist()
    expected = list(tile_stream(mixed, recipe_of(), batch_size=4, stop=80, here=True))
    monkeypatch.setenv("METGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tile_set, "HELD_BYTES", 0)
    monkeypatch.setattr(mapped_index, "BATCH", 32)
    large = TileSet.open(mixed.uri)
    streamed = list(tile_stream(large, recipe_of(), batch_size=4, stop=80, here=True))
    assert all(equal(*pair) for pair in zip(streamed, expected, strict=True))


def test_two_domains_go_through_windows_of_their_own(tmp_path):
    tiles = write_domains(tmp_path, source=("train",) * 70, target=("train",) * 90, edge=16)
    drawn = {"rows": tiles.positions("train", "anatomy"), "target": tiles.positions("train", "tumour")}
    batches = list(tile_stream(tiles, recipe_of(32), batch_size=5, stop=630, here=True, **drawn))
    for name, rows in (("tile", drawn["rows"]), ("tumour_tile", drawn["target"])):
        seen = torch.cat([batch[name] for batch in batches]).numpy().reshape(-1, len(rows))
        assert (np.sort(seen) == rows).all()
    for batch in (batches[0], batches[-1]):
        own, other = (tiles.load(int(batch[name][0])) for name in ("tile", "tumour_tile"))
        assert own["anatomy"].mean() == pytest.approx(float(batch["anatomy"][0].mean()), abs=1e-5)  # flips keep it
        assert other["tumour"].mean() == pytest.approx(float(batch["tumour"][0].mean()), abs=1e-5)
