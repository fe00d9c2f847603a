"""Anatomy and tumour images drawn apart: each domain by passes of its own, resumable, on any number of workers."""

import itertools

import numpy as np
import pytest
import torch
from tile_sets import write_domains, write_set

from metgan_dist.errors import UserError
from metgan_dist.recipe import Recipe
from metgan_dist.tiles.stream import planned_rows, tile_batches, tile_stream

SEED = 3


@pytest.fixture(scope="module")
def recipe():
    return Recipe.model_validate({"training": {"seed": SEED}})


@pytest.fixture(scope="module")
def plain():
    return Recipe.model_validate({"training": {"seed": SEED, "augment": False}})


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """7 training tiles of the source and 12 of the target."""
    return write_domains(tmp_path_factory.mktemp("set"), edge=16)


def drawn(tiles):
    return {"rows": tiles.positions("train", "anatomy"), "target": tiles.positions("train", "tumour")}


def stream(tiles, recipe, **options):
    return list(tile_stream(tiles, recipe, **{**drawn(tiles), "here": True, **options}))


def joined(batches, name):
    return torch.cat([batch[name] for batch in batches])


def equal(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def test_each_domain_comes_without_repetition_within_its_own_pass(tiles, plain):
    """By brute force over 84 images: 12 passes of the 7, 7 passes of the 12."""
    batches = stream(tiles, plain, batch_size=4, stop=84)
    for name, rows in (("tile", drawn(tiles)["rows"]), ("tumour_tile", drawn(tiles)["target"])):
        seen = joined(batches, name).numpy().reshape(-1, len(rows))
        assert (np.sort(seen) == rows).all()
        assert len({tuple(one) for one in seen}) > 1
    pairs = set(zip(joined(batches, "tile").tolist(), joined(batches, "tumour_tile").tolist(), strict=True))
    assert len(pairs) > 40  # of 84 possible: two independent orders, not one that both follow


def test_what_a_batch_holds_are_the_tiles_that_it_names(tiles, plain):
    (batch,) = stream(tiles, plain, batch_size=5, stop=5)
    assert {name: (tuple(value.shape), value.dtype) for name, value in batch.items()} == {
        "anatomy": ((5, 1, 16, 16), torch.float32),
        "label": ((5, 16, 16), torch.int64),
        "tile": ((5,), torch.int64),
        "tumour": ((5, 1, 16, 16), torch.float32),
        "tumour_label": ((5, 16, 16), torch.int64),
        "tumour_tile": ((5,), torch.int64),
    }
    for place in range(5):
        own, other = (tiles.load(int(batch[name][place])) for name in ("tile", "tumour_tile"))
        assert (batch["anatomy"][place].numpy() == own["anatomy"]).all()
        assert (batch["label"][place].numpy() == own["label"]).all()
        assert (batch["tumour"][place].numpy() == other["tumour"]).all()
        assert (batch["tumour_label"][place].numpy() == other["label"]).all()


def test_resumed_at_any_image_it_goes_on_as_if_undisturbed(tiles, recipe):
    whole = stream(tiles, recipe, stop=30)
    for start in range(30):
        tail = stream(tiles, recipe, start=start, stop=30)
        assert all(equal(one, other) for one, other in zip(tail, whole[start:], strict=True))


@pytest.mark.parametrize("world", [2, 3])
def test_workers_together_get_the_global_batches_of_one(tiles, recipe, world):
    whole = stream(tiles, recipe, batch_size=6, stop=60)
    parts = [stream(tiles, recipe, rank=rank, world=world, batch_size=6 // world, stop=60) for rank in range(world)]
    for one, *others in zip(whole, *parts, strict=True):
        assert equal(one, {name: joined(others, name) for name in one})
    # Continued by another number of workers: 1, then all of them.
    resumed = [
        stream(tiles, recipe, rank=rank, world=world, batch_size=6 // world, start=24, stop=60) for rank in range(world)
    ]
    for one, *others in zip(whole[4:], *resumed, strict=True):
        assert equal(one, {name: joined(others, name) for name in one})


def test_the_order_of_the_source_is_that_of_pairs_and_the_targets_its_own(tiles):
    rows = np.arange(50)
    positions = np.arange(170)
    orders = [planned_rows(rows, positions, SEED, order) for order in ((), (2,))]
    assert (orders[0] == planned_rows(rows, positions, SEED)).all()
    for first, second in itertools.pairwise(range(0, 150, 50)):
        for one, other in ((orders[0], orders[1]), (orders[0], orders[0]), (orders[1], orders[1])):
            assert one[first : first + 50].tolist() != other[second : second + 50].tolist()
        assert orders[0][first : first + 50].tolist() != orders[1][first : first + 50].tolist()


def test_the_two_tiles_of_an_image_are_turned_each_in_its_own_way(tmp_path, recipe, plain):
    """Of pairs taken as none, on which both tiles can be one: in 200 images each tile meets itself now and then."""
    tiles = write_set(tmp_path, train=4, edge=16)
    rows = tiles.positions("train")
    both = {"rows": rows, "target": rows, "batch_size": 1, "stop": 200}
    ways = {}
    for turned, straight in zip(stream(tiles, recipe, **both), stream(tiles, plain, **both), strict=True):
        kinds = []
        for role, label in (("anatomy", "label"), ("tumour", "tumour_label")):
            image = straight[role][0, 0]
            options = [torch.rot90(flip, k) for flip in (image, image.flip(1)) for k in range(4)]
            (way,) = (k for k, option in enumerate(options) if torch.equal(option, turned[role][0, 0]))
            kinds.append(way)
            # Image and label are turned alike.
            marks = straight[label][0]
            marked = [torch.rot90(flip, k) for flip in (marks, marks.flip(1)) for k in range(4)]
            assert torch.equal(marked[way], turned[label][0])
        ways.setdefault(kinds[0], set()).add(kinds[1])
    assert len(ways) == 8
    assert all(len(others) >= 6 for others in ways.values())


def test_pairs_taken_as_none_give_the_fields_of_two_domains(tmp_path, plain, tiles):
    paired = write_set(tmp_path, train=6, edge=16)
    rows = paired.positions("train")
    batches = stream(paired, plain, rows=rows, target=rows, batch_size=2, stop=60)
    assert batches[0].keys() == stream(tiles, plain, batch_size=2, stop=2)[0].keys()
    for name in ("tile", "tumour_tile"):
        assert (np.sort(joined(batches, name).numpy().reshape(-1, 6)) == rows).all()
    meets = (joined(batches, "tile") == joined(batches, "tumour_tile")).float().mean()
    assert 0 < meets < 0.5  # a sixth by chance, not all of them


@pytest.mark.parametrize(("labelled", "absent"), [(["mr"], "label"), (["ct"], "tumour_label")])
def test_labels_that_a_domain_has_not_are_absent(tmp_path, recipe, labelled, absent):
    tiles = write_domains(tmp_path, labelled=labelled, edge=16)
    (batch,) = stream(tiles, recipe, batch_size=2, stop=2)
    assert {"label", "tumour_label"} - batch.keys() == {absent}


def test_batches_of_one_domains_rows_hold_what_these_have(tiles, recipe):
    (batch,) = tile_batches(tiles, tiles.positions("test", "anatomy"), 2)
    assert list(batch) == ["anatomy", "label", "tile"]
    (batch,) = tile_batches(tiles, tiles.positions("test", "tumour"), 2)
    assert list(batch) == ["tumour", "label", "tile"]
    (batch,) = stream(tiles, recipe, rows=tiles.positions("train", "tumour"), target=None, batch_size=2, stop=2)
    assert list(batch) == ["tumour", "label", "tile"]


def test_a_domain_without_tiles_is_one_line(tiles, recipe):
    with pytest.raises(UserError, match="no tiles in split train"):
        stream(tiles, recipe, target=np.array([], int), stop=2)


@pytest.mark.usefixtures("ray_cluster")
def test_rays_tasks_give_what_this_process_reads(tiles, recipe, monkeypatch):
    monkeypatch.setattr("metgan_dist.tiles.stream.TASK_TILES", 4)  # several tasks, several executions
    for rank in range(2):
        common = {"rank": rank, "world": 2, "batch_size": 2, "start": 4, "stop": 44}
        here = stream(tiles, recipe, **common)
        there = stream(tiles, recipe, **common, here=False)
        assert all(equal(one, other) for one, other in zip(there, here, strict=True))
