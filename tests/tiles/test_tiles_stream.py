import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from tile_sets import write_set

from metgan_dist.errors import DamagedFile, UserError, understood
from metgan_dist.recipe import Recipe
from metgan_dist.tiles import stream
from metgan_dist.tiles.augment import augment, moved, random_affine
from metgan_dist.tiles.pipeline import make_tiles
from metgan_dist.tiles.stream import planned_rows, rank_positions, tile_batches, tile_stream

ROLES = ("anatomy", "tumour", "label", "tile")


@pytest.fixture
def tiles_and_recipe(write_volumes, tmp_path, ray_cluster):
    recipe = write_volumes(training={"seed": 3})
    return make_tiles(recipe, str(tmp_path / "set"), lambda line: None), recipe


def test_every_tile_comes_once_per_epoch_over_all_ranks():
    rows = np.arange(100, 130)
    for world, batch in ((1, 1), (2, 5), (3, 2)):
        stop = 2 * len(rows)
        parts = [rank_positions(0, stop, rank, world, batch) for rank in range(world)]
        positions = np.concatenate(parts)
        assert sorted(positions[positions < stop]) == list(range(stop))
        planned = planned_rows(rows, np.arange(stop), 7)
        assert sorted(planned[:30]) == sorted(planned[30:]) == rows.tolist()
        assert planned[:30].tolist() != planned[30:].tolist()


def test_ranks_share_each_global_batch_in_order():
    assert rank_positions(8, 24, 0, 2, 4).tolist() == [8, 9, 10, 11, 16, 17, 18, 19]
    assert rank_positions(8, 24, 1, 2, 4).tolist() == [12, 13, 14, 15, 20, 21, 22, 23]


def test_the_order_follows_from_the_seed_and_the_epoch_alone():
    rows = np.arange(50)
    whole = planned_rows(rows, np.arange(170), 5)
    np.testing.assert_array_equal(planned_rows(rows, np.arange(73, 170), 5), whole[73:])
    assert (planned_rows(rows, np.arange(170), 6) != whole).any()


@pytest.mark.parametrize("world", [1, 2])
def test_a_stream_resumed_anywhere_is_the_tail_of_an_undisturbed_one(tiles_and_recipe, world, monkeypatch):
    tiles, recipe = tiles_and_recipe
    # Executions of 8, then 16 tiles: the stream crosses from one to the next, and from one epoch to the next.
    monkeypatch.setattr(stream, "TASK_TILES", 4)
    monkeypatch.setattr(stream, "EXECUTION_BYTES", 16 * 9 * 32 * 32)
    stop = 40 + 4 * world
    for rank in range(world):
        common = {"rank": rank, "world": world, "batch_size": 2, "stop": stop, "cpus": 0.5}
        whole = list(tile_stream(tiles, recipe, start=0, **common))
        assert len(whole) == -(-stop // (2 * world))
        for start in (2 * world, 12 * world):
            tail = list(tile_stream(tiles, recipe, start=start, **common))
            for ours, theirs in zip(tail, whole[start // (2 * world) :], strict=True):
                assert all(torch.equal(ours[role], theirs[role]) for role in ROLES)


def test_batches_are_the_tiles_they_name_with_the_stated_types(tiles_and_recipe):
    tiles, recipe = tiles_and_recipe
    plain = recipe.model_copy(update={"training": recipe.training.model_copy(update={"augment": False})})
    seen = []
    for batch in tile_stream(tiles, plain, batch_size=3, start=0, stop=12, cpus=1.0):
        assert batch["anatomy"].shape == batch["tumour"].shape == (3, 1, 32, 32)
        assert batch["label"].shape == (3, 32, 32)
        assert (batch["anatomy"].dtype, batch["label"].dtype) == (torch.float32, torch.int64)
        for place, row in enumerate(batch["tile"].tolist()):
            for role, pixels in tiles.load(row).items():
                assert (batch[role][place].numpy() == pixels).all()
            seen.append(row)
    assert seen == planned_rows(tiles.positions("train"), np.arange(12), 3).tolist()


def test_plain_batches_are_in_the_order_asked_for_and_end_with_what_is_left(tiles_and_recipe):
    tiles, _ = tiles_and_recipe
    rows = [5, 3, 4, 3, 0]
    batches = list(tile_batches(tiles, rows, 2))
    assert [batch["tile"].tolist() for batch in batches] == [[5, 3], [4, 3], [0]]
    assert (batches[2]["tumour"][0].numpy() == tiles.load(0)["tumour"]).all()
    assert batches[2]["label"].dtype == torch.int64


def test_a_run_resumed_at_its_end_gets_nothing(tiles_and_recipe):
    tiles, recipe = tiles_and_recipe
    assert list(tile_stream(tiles, recipe, start=16, stop=16, batch_size=2)) == []


def test_a_stream_that_is_left_early_does_not_block_the_next(tiles_and_recipe):
    tiles, recipe = tiles_and_recipe
    left = tile_stream(tiles, recipe, start=0, stop=500, batch_size=2)
    first = next(left)
    left.close()
    again = next(tile_stream(tiles, recipe, start=0, stop=2, batch_size=2))
    assert torch.equal(first["anatomy"], again["anatomy"])


def test_an_empty_split_is_one_line(tiles_and_recipe):
    tiles, recipe = tiles_and_recipe
    with pytest.raises(UserError, match="no tiles in split unseen"):
        next(tile_stream(tiles, recipe, split="unseen", start=0, stop=1))


@pytest.mark.parametrize("shape", [(16, 16), (8, 16), (4, 16, 16)])
def test_augmentation_moves_image_and_label_together(shape):
    label = np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
    kinds = set()
    for position in range(160):
        tile = {"anatomy": label[None].astype(np.float32), "tumour": -label[None].astype(np.float32), "label": label}
        turned = augment(tile, 0, position)
        np.testing.assert_array_equal(turned["anatomy"][0], turned["label"])
        np.testing.assert_array_equal(turned["tumour"][0], -turned["label"])
        assert turned["label"].shape == shape
        assert sorted(turned["label"].ravel()) == sorted(label.ravel())
        if len(shape) == 3:
            # No turn leaves the plane: the voxels of a plane stay together.
            planes = {frozenset(plane.ravel().tolist()) for plane in label}
            assert {frozenset(plane.ravel().tolist()) for plane in turned["label"]} == planes
        kinds.add(turned["label"].tobytes())
    # A square has 8 images under flips and turns, a rectangle 4; volumes twice as many.
    assert len(kinds) == {(16, 16): 8, (8, 16): 4, (4, 16, 16): 16}[shape]


def test_augmentation_depends_on_seed_and_position_only():
    tile = {"anatomy": np.random.default_rng(0).random((1, 8, 8))}
    for seed, position in itertools.product((0, 1), (0, 5)):
        np.testing.assert_array_equal(
            augment(tile, seed, position)["anatomy"], augment(tile, seed, position)["anatomy"]
        )
    many = [augment(tile, seed, 5)["anatomy"].tobytes() for seed in range(20)]
    assert len(set(many)) > 4


def test_batches_stay_whole_where_rays_blocks_do_not_divide(tiles_and_recipe, monkeypatch):
    tiles, recipe = tiles_and_recipe
    monkeypatch.setattr("metgan_dist.tiles.stream.TASK_TILES", 8)
    batches = list(tile_stream(tiles, recipe, batch_size=4, stop=44))
    assert [len(batch["tile"]) for batch in batches] == [4] * 11
    expected = planned_rows(tiles.positions("train"), np.arange(44), recipe.training.seed)
    assert torch.cat([batch["tile"] for batch in batches]).tolist() == expected.tolist()


def test_a_shard_that_cannot_be_read_is_named(tiles_and_recipe):
    tiles, recipe = tiles_and_recipe
    rows = tiles.positions("train")
    for chunk in Path(tiles.uri).glob("shards/*.zarr/anatomy/c/**/*"):
        if chunk.is_file():
            chunk.write_bytes(b"")
    with pytest.raises(DamagedFile, match=r"shards/\d+-\d+\.zarr/anatomy: cannot be read .*; copy or cut"):
        next(tile_batches(tiles, rows, 2))
    with pytest.raises(Exception, match="cannot be read") as caught:
        next(tile_stream(tiles, recipe, stop=4))
    assert isinstance(understood(caught.value), DamagedFile)


def test_batches_say_of_which_organ_each_tile_is(tmp_path, ray_cluster):
    tiles = write_set(tmp_path / "set", organs=("lung", "liver", ""), volumes=3)
    assert tiles.organs == ("liver", "lung")
    expected = np.array([1, 0, -1])
    (batch,) = tile_batches(tiles, range(6), 6)
    assert batch["organ"].dtype == torch.int64
    assert batch["organ"].tolist() == [1, 0, -1, 1, 0, -1]
    for organs, places in (((), expected), (("lung", "heart"), np.array([0, -1, -1]))):
        recipe = Recipe.model_validate({"method": {"name": "redgan", "organs": organs}})
        for here in (True, False):
            batches = list(tile_stream(tiles, recipe, batch_size=4, stop=16, here=here))
            assert len(batches) == 4
            for batch in batches:
                assert batch["organ"].tolist() == places[batch["tile"] % 3].tolist()
    nameless = write_set(tmp_path / "nameless")
    (batch,) = tile_batches(nameless, range(2), 2)
    assert "organ" not in batch


@pytest.mark.parametrize("shape", [(32, 32), (12, 32, 32)])
def test_an_affine_map_moves_image_and_label_together_and_leaves_their_values_be(shape):
    label = np.zeros(shape, np.uint8)
    label[..., 6:20, 8:26] = 2
    label[..., 20:26, 8:26] = 1
    tile = {"anatomy": np.stack([np.where(label, 1.0, -1.0)] * 2).astype(np.float32), "label": label}
    for position in range(8):
        flat, bent = (augment(tile, 0, position, affine=affine) for affine in (False, True))
        assert {role: (bent[role].shape, bent[role].dtype) for role in bent} == {
            role: (tile[role].shape, tile[role].dtype) for role in tile
        }
        assert not np.array_equal(bent["label"], flat["label"])
        assert set(np.unique(bent["label"])) <= {0, 1, 2}
        assert np.abs(bent["anatomy"]).max() <= 1
        np.testing.assert_array_equal(*bent["anatomy"])
        # They differ by less than half a pixel at the outline, where images are blurred and labels are not.
        assert ((bent["anatomy"][0] > 0) != (bent["label"] > 0)).mean() < 0.01
        again = augment(tile, 0, position, affine=True)
        assert all(np.array_equal(bent[role], again[role]) for role in bent)
        # What is done is a small change to what flips and turns alone would do.
        assert ((bent["label"] > 0) != (flat["label"] > 0)).mean() < 0.25


def test_an_affine_map_is_the_matrix_about_the_middle_of_the_tile():
    pixels = np.random.default_rng(0).random((5, 6, 6)).astype(np.float32)
    quarter = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])
    np.testing.assert_allclose(moved(pixels, quarter, 1), np.rot90(pixels, 1, axes=(1, 2)), atol=1e-6)
    np.testing.assert_array_equal(moved(pixels, np.eye(3), 0), pixels)
    double = np.diag([1, 0.5, 0.5])  # each pixel is looked for half as far from the middle
    assert moved(np.pad(np.ones((1, 2, 2)), ((0, 0), (2, 2), (2, 2))), double, 1).sum() > 2.5 * 4


def test_a_shift_is_all_that_it_adds_to_an_affine_map_and_stays_within_a_tenth_of_each_edge():
    grid = np.stack(np.meshgrid(*(np.arange(40.0),) * 2, indexing="ij")).astype(np.float32)
    middle = np.s_[:, 12:28, 12:28]  # where nothing is reflected
    shifts = []
    for position in range(40):
        bent = augment({"tumour": grid}, 0, position, affine=True)["tumour"]
        beside = augment({"tumour": grid}, 0, position, affine=True, shifted=True)["tumour"]
        # Each pixel of the grid tells its place, before flips and turns along y or x.
        difference = (beside - bent)[middle]
        assert np.abs(difference - difference.mean(axis=(1, 2), keepdims=True)).max() < 1e-3
        shifts.append(difference.mean(axis=(1, 2)))
    assert 3 < np.abs(shifts).max() <= 4 + 1e-3
    assert (np.std(shifts, axis=0) > 1).all()


def test_affine_maps_keep_within_their_limits_and_volumes_turn_about_each_axis():
    for dimensions in (2, 3):
        matrices = np.stack([random_affine(dimensions, np.random.default_rng(seed)) for seed in range(200)])
        assert 0.9**dimensions - 1e-9 <= np.linalg.det(matrices).min()
        assert np.linalg.det(matrices).max() <= 1.1**dimensions + 1e-9
        off = ~np.eye(dimensions, dtype=bool)
        assert (np.abs(matrices[:, off]).max(axis=0) > 0.15).all()
        assert np.abs(matrices[:, off]).max() < 0.6


def test_tiles_without_an_anatomy_or_with_a_second_label_are_augmented_too():
    label = np.arange(16 * 16, dtype=np.int64).reshape(16, 16)
    turned = augment({"tumour": label[None].astype(np.float32), "tumour_label": label}, 0, 3)
    np.testing.assert_array_equal(turned["tumour"][0], turned["tumour_label"])
