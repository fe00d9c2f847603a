"""A mixed set reads as its parts do, holds what was asked for, and is refused where the parts do not fit."""

import json
from pathlib import Path

import numpy as np
import pytest
from tile_sets import write_set

from metgan_dist.errors import DamagedFile, UserError
from metgan_dist.tiles.mixture import chosen_real, chosen_synthetic, spread_order, write_mixture
from metgan_dist.tiles.splits import fold_split
from metgan_dist.tiles.stream import tile_batches
from metgan_dist.tiles.tile_set import TileSet

NONE = np.array([], dtype=np.int64)


@pytest.mark.parametrize("count", [1, 2, 7, 100, 1801])
@pytest.mark.parametrize("start", [0.0, 0.4])
def test_every_beginning_of_the_order_is_spread_evenly(count, start):
    order = spread_order(count, start)
    assert sorted(order.tolist()) == list(range(count))
    for taken in {max(1, count // 20), count // 4, count // 2, count} - {0}:
        places = np.sort(order[:taken])
        gaps = np.diff(np.concatenate([[-1], places, [count]]))
        assert gaps.max() <= 3 * count / taken + 1


def test_fewer_real_tiles_are_contained_in_more_in_equal_proportion(tmp_path):
    tiles = write_set(tmp_path, train=120)
    rows, _ = fold_split(tiles.index, 1)
    filled = tiles.index["foreground"].to_numpy() > 0
    chosen = {part: chosen_real(tiles, rows, part, "f") for part in (0, 0.25, 0.35, 0.5, 1, 30)}
    assert [len(chosen[part]) for part in (0, 0.25, 0.35, 0.5, 1)] == [0, 22, 31, 45, 90]
    assert chosen[1].tolist() == rows.tolist()
    assert set(chosen[0.25]) < set(chosen[30]) < set(chosen[0.35]) < set(chosen[0.5]) < set(rows)
    for part in (0.25, 0.35, 0.5):
        assert filled[chosen[part]].mean() == pytest.approx(filled[rows].mean(), abs=0.06)
        assert (np.diff(chosen[part]) > 0).all()


@pytest.mark.parametrize(("amount", "culprit"), [(91, "91 real tiles asked, the fold has 90"), (1.5, "must be whole")])
def test_a_number_of_real_tiles_that_cannot_be_is_refused(tmp_path, amount, culprit):
    tiles = write_set(tmp_path, train=120)
    with pytest.raises(UserError, match=f"^segmentation.real: .*{culprit}"):
        chosen_real(tiles, fold_split(tiles.index, 1)[0], amount, "segmentation.real")


def synthetic_sets(tmp_path, *sizes, **settings):
    return [
        write_set(tmp_path / f"s{k}", train=size, val=0, test=0, rejected=5, synthesis={}, seed=k + 1, **settings)
        for k, size in enumerate(sizes)
    ]


def usable(sets):
    return [part.positions("train") for part in sets]


def test_synthetic_tiles_come_in_equal_parts_nested_and_different_for_every_fold(tmp_path):
    sets = synthetic_sets(tmp_path, 100, 60)
    for few, many in ((7, 20), (20, 21), (21, 120)):
        less, more = (chosen_synthetic(sets, usable(sets), count, 0.2, "f") for count in (few, many))
        assert [len(rows) for rows in less] == [few // 2 + few % 2, few // 2]
        for one, other in zip(less, more, strict=True):
            assert set(one) <= set(other)
    folds = [set(chosen_synthetic(sets, usable(sets), 40, fold / 5, "f")[0]) for fold in range(5)]
    assert set.union(*folds) == set(range(100))
    assert all(len(one & other) == 0 for one in folds for other in folds if one is not other)
    assert chosen_synthetic([], [], 0, 0.0, "f") == []


def test_more_synthetic_tiles_than_passed_the_gate_are_refused(tmp_path):
    sets = synthetic_sets(tmp_path, 100, 60)
    with pytest.raises(UserError, match=r"^segmentation.synthetic: 61 of 122 synthetic .* /.*s1, which has 60"):
        chosen_synthetic(sets, usable(sets), 122, 0.0, "segmentation.synthetic")


@pytest.fixture
def mixed(tmp_path):
    """(real set with exchanged labels, synthetic sets, mixture of fold 1)."""
    real = write_set(tmp_path / "real", unseen=2, shuffled=True)
    sets = synthetic_sets(tmp_path, 10, 8)
    train, val = fold_split(real.index, 1)
    chosen = chosen_synthetic(sets, usable(sets), 9, 0.0, "f")
    mixture = write_mixture(str(tmp_path / "mix"), real, train[::2], val, sets, chosen, None)
    return real, sets, (train[::2], val, chosen), mixture


def test_tiles_of_a_mixture_are_those_of_its_parts(mixed):
    real, sets, (train, val, chosen), mixture = mixed
    assert mixture.manifest["counts"] == {"train": 18, "val": 6, "test": 6, "unseen": 2}
    assert [part["train"] for part in mixture.manifest["parts"]] == [9, 5, 4]
    assert mixture.name.startswith("mixed-")
    expected = [(real, row) for row in train] + [
        (part, row) for part, rows in zip(sets, chosen, strict=True) for row in rows
    ]
    rows = mixture.positions("train")
    batches = {int(batch["tile"][0]): batch for batch in tile_batches(mixture, rows, 1)}
    for row, (part, own) in zip(rows, expected, strict=True):
        theirs = part.load(int(own))
        for role, pixels in mixture.load(int(row)).items():
            np.testing.assert_array_equal(pixels, theirs[role])
            np.testing.assert_array_equal(batches[row][role][0].numpy(), theirs[role])
    assert mixture.positions("val").tolist() == val.tolist()
    for split in ("test", "unseen"):
        assert mixture.positions(split).tolist() == real.positions(split).tolist()
    assert (mixture.index["split"] == "unused").sum() == len(mixture.index) - 18 - 6 - 6 - 2


def test_the_same_mixture_has_the_same_digest_and_is_used_again(mixed, tmp_path):
    real, sets, (train, val, chosen), mixture = mixed
    again = write_mixture(str(tmp_path / "again"), real, train, val, sets, chosen, None)
    assert again.digest == mixture.digest
    before = (tmp_path / "mix" / "manifest.json").stat().st_mtime_ns
    assert write_mixture(mixture.uri, real, train, val, sets, chosen, None).digest == mixture.digest
    assert (tmp_path / "mix" / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="holds a mixture of other tiles"):
        write_mixture(mixture.uri, real, train[1:], val, sets, chosen, None)


def test_a_part_that_changed_afterwards_is_noticed(mixed):
    _, sets, _, mixture = mixed
    manifest = Path(sets[1].uri) / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "note": "edited"}))
    with pytest.raises(DamagedFile, match=f"{sets[1].uri}: not the tiles that were mixed"):
        TileSet.open(mixture.uri)


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ({"classes": 3}, "data.classes 3"),
        ({"edge": 32}, r"tile shape \[32, 32\]"),
        ({"anatomy": "nuclei"}, "data.anatomy 'nuclei'"),
    ],
)
def test_sets_that_do_not_fit_are_refused_by_name(tmp_path, change, culprit):
    real = write_set(tmp_path / "real")
    (other,) = synthetic_sets(tmp_path, 6, **change)
    with pytest.raises(UserError, match=f"s0: {culprit} does not fit the real tiles"):
        write_mixture(str(tmp_path / "mix"), real, np.arange(3), NONE, [other], [np.arange(2)], None)


def test_nothing_labelled_and_mixtures_of_mixtures_are_refused(mixed, tmp_path):
    real, sets, _, mixture = mixed
    empty = np.flatnonzero(real.index["foreground"] == 0)[:2]
    with pytest.raises(UserError, match="none of the 2 tiles to train on holds a labelled pixel"):
        write_mixture(str(tmp_path / "none"), real, empty, NONE, [], [], None)
    with pytest.raises(UserError, match="mixed tiles"):
        write_mixture(str(tmp_path / "twice"), mixture, np.arange(3), NONE, sets, [NONE, NONE], None)
