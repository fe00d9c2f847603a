import itertools

import numpy as np
import pandas as pd
import pytest

from metgan_dist.errors import UserError
from metgan_dist.recipe import Tiles
from metgan_dist.tiles.geometry import plan_tiles
from metgan_dist.tiles.splits import assign_splits, fewer_folds, fold_split, parted_patients, segmentor_and_judge


def index_of(volumes, shape, tiles, **columns):
    """An index as the pipeline builds it, for `volumes` = list of (id, organ, patient, fixed split)."""
    rows = []
    for volume, organ, patient, fixed in volumes:
        for plan in plan_tiles(tiles, volume, shape):
            row = {"volume": volume, "organ": organ, "patient": patient, "fixed": fixed, "stacked": False}
            for axis, (low, high) in zip("zyx", plan.region, strict=True):
                row |= {f"{axis}0": low, f"{axis}1": high}
            rows.append({**row, "foreground": (7 * plan.index) % 3})
    return pd.DataFrame(rows).assign(**columns)


def check_apart(index, axis, gap, sides):
    """Brute force: any two tiles of one volume on different sides leave `gap` voxels free between them."""
    for volume in index["volume"].unique():
        rows = index[index["volume"] == volume]
        for side, other in itertools.permutations(sides, 2):
            for _, a in rows[sides[side].loc[rows.index]].iterrows():
                for _, b in rows[sides[other].loc[rows.index]].iterrows():
                    free = max(a[f"{axis}0"] - b[f"{axis}1"], b[f"{axis}0"] - a[f"{axis}1"])
                    assert free >= gap, (volume, side, other)


def random_plan(seed):
    random = np.random.default_rng(seed)
    shape = tuple(int(n) for n in random.integers(30, 70, 3))
    tiles = Tiles(
        size=(int(random.integers(6, 12)),),
        depth=int(random.integers(4, 10)),
        stride=(int(random.integers(5, 14)),),
        views=[("z",), ("y",), ("z", "y", "x")][seed % 3],
        gap=int(random.integers(0, 6)),
        slab_axis=["auto", "z", "y", "x"][int(random.integers(4))],
        folds=int(random.integers(2, 6)),
        edge=["shift", "drop"][seed % 2],
    )
    return shape, tiles


@pytest.mark.parametrize("seed", range(12))
def test_no_neighbours_on_two_sides_of_a_slab_split_or_fold(seed):
    shape, tiles = random_plan(seed)
    split = assign_splits(index_of([("a", "", "", "auto")], shape, tiles), tiles)
    split = split.iloc[:: max(1, len(split) // 150)]  # brute force is quadratic
    axis = split["slab_axis"].iloc[0]
    names = ("train", "val", "test")
    check_apart(split, axis, tiles.gap, {name: split["split"] == name for name in names})
    assert (split["split"] == "train").any()
    assert (split["split"] == "test").any()
    for fold in range(tiles.folds):
        train, val = fold_split(split, fold)
        sides = {
            side: pd.Series(np.isin(np.arange(len(split)), rows), index=split.index)
            for side, rows in (("train", train), ("val", val))
        }
        check_apart(split, axis, tiles.gap, sides)
        assert (split["split"].to_numpy()[np.concatenate([train, val])] == "train").all()


@pytest.mark.parametrize("seed", range(12))
def test_segmentor_and_judge_learn_from_places_apart(seed):
    shape, tiles = random_plan(seed)
    split = assign_splits(index_of([("a", "", "", "auto")], shape, tiles), tiles)
    split = split.iloc[:: max(1, len(split) // 150)]
    parts = segmentor_and_judge(split)
    sides = {
        name: pd.Series(np.isin(np.arange(len(split)), rows), index=split.index)
        for name, rows in zip(("segmentor", "judge"), parts, strict=True)
    }
    check_apart(split, split["slab_axis"].iloc[0], tiles.gap, sides)
    assert (split["split"].to_numpy()[np.concatenate(parts)] == "train").all()
    folds = [set(split["fold"].to_numpy()[rows]) for rows in parts]
    assert not folds[0] & folds[1]


def test_segmentor_and_judge_share_no_volume_and_halve_them():
    tiles = Tiles(kind="slice", size=(30,), split_by="volume", folds=5)
    volumes = [(f"v{k}", "", "", "auto") for k in range(12)]
    split = assign_splits(index_of(volumes, (2, 30, 30), tiles), tiles)
    theirs, own = (set(split["volume"].to_numpy()[rows]) for rows in segmentor_and_judge(split))
    assert not theirs & own
    assert theirs | own == set(split["volume"][split["split"] == "train"])
    assert (len(theirs), len(own)) == (5, 4)


def test_volumes_too_small_for_folds_apart_still_keep_segmentor_and_judge_apart():
    """Four volumes that are cut into three slabs each, whose neighbours within the gap would leave nothing."""
    index = pd.DataFrame([(v, fold, "train") for v in "abcd" for fold in range(3)], columns=["volume", "fold", "split"])
    index = index.assign(patient="", slab_axis="x", gap=1000)
    theirs, own = (set(index["volume"].to_numpy()[rows]) for rows in segmentor_and_judge(index))
    assert (theirs, own) == ({"a", "c"}, {"b", "d"})
    of_two = index.assign(patient=index["volume"].map({"a": "p", "b": "p", "c": "q", "d": "q"}))
    theirs, own = (set(of_two["volume"].to_numpy()[rows]) for rows in segmentor_and_judge(of_two))
    assert (theirs, own) == ({"a", "b"}, {"c", "d"})


def test_where_all_tiles_lie_at_one_place_nobody_is_apart():
    index = pd.DataFrame({"fold": [0, 0, -1], "volume": "a", "patient": "", "slab_axis": "", "gap": 0})
    assert [len(rows) for rows in segmentor_and_judge(index)] == [2, 0]
    assert [len(rows) for rows in segmentor_and_judge(index.assign(fold=-1))] == [0, 0]


@pytest.mark.parametrize(("counts", "expected"), [([9, 1, 1, 1, 9], [0, 1, 2, 3, 4]), ([9, 1, 1], [0, 1, 2])])
def test_a_slab_with_many_tiles_leaves_no_fold_out(counts, expected):
    """Tiles at one place are in one fold, however many; by their number alone folds 1 to 3 would be skipped."""
    tiles = Tiles(kind="slice", size=(10,), test=0, val=0, folds=5, gap=0, slab_axis="y")
    whole = index_of([("a", "", "", "auto")], (1, 10 * len(counts), 90), tiles)
    fewer = pd.concat([rows.head(count) for (_, rows), count in zip(whole.groupby("y0"), counts, strict=True)])
    split = assign_splits(fewer.reset_index(drop=True), tiles)
    assert [sorted(set(rows["fold"])) for _, rows in split.groupby("y0")] == [[number] for number in expected]


def test_folds_together_validate_every_training_tile_once():
    shape, tiles = random_plan(3)
    split = assign_splits(index_of([("a", "", "", "auto")], shape, tiles), tiles)
    validated = np.concatenate([fold_split(split, fold)[1] for fold in range(tiles.folds)])
    assert sorted(validated) == np.flatnonzero(split["split"] == "train").tolist()


def test_a_slab_by_hand():
    # Ten tiles 10 wide along x. Test: the last 20 % (80-100), gap 5 drops 70-80; val: 10 % before (60-70), the gap
    # drops 50-60; the other five rows train.
    tiles = Tiles(kind="slice", size=(10,), gap=5, slab_axis="x")
    split = assign_splits(index_of([("a", "", "", "auto")], (1, 10, 100), tiles), tiles)
    assert split["split"].tolist() == ["train"] * 5 + ["gap", "val", "gap", "test", "test"]
    assert split["fold"].tolist() == [0, 1, 2, 3, 4, -1, -1, -1, -1, -1]


def test_slabs_are_cut_along_an_axis_that_large_tiles_can_be_parted_on():
    # Along y and x there are two overlapping rows of tiles: holding one out leaves nothing. Along z: 40 planes.
    tiles = Tiles(kind="slice", size=(60,), gap=2)
    split = assign_splits(index_of([("a", "", "", "auto")], (40, 100, 100), tiles), tiles)
    assert set(split["slab_axis"]) == {"z"}
    assert split["split"].value_counts().to_dict() == {"train": 4 * 24, "test": 4 * 8, "val": 4 * 4, "gap": 4 * 4}
    longest = assign_splits(index_of([("a", "", "", "auto")], (40, 100, 400), tiles), tiles)
    assert set(longest["slab_axis"]) == {"x"}


def test_without_a_gap_touching_tiles_may_part_but_overlapping_ones_not():
    tiles = Tiles(kind="slice", size=(10,), stride=(5,), gap=0, slab_axis="x", val=0)
    split = assign_splits(index_of([("a", "", "", "auto")], (1, 10, 100), tiles), tiles)
    sides = split["split"].tolist()
    test = split[split["split"] == "test"]["x0"].min()
    assert split[split["split"] == "train"]["x1"].max() == test
    assert sides.count("gap") == 1


def test_patients_are_never_divided_and_organs_have_their_share():
    volumes = [(f"v{n}", ["lung", "liver"][n % 2], f"p{n // 2}", "auto") for n in range(40)]
    # Patients have two volumes, of both organs: the organ of a patient is that of the first, so give each one.
    volumes = [(name, ["lung", "liver"][int(patient[1:]) % 2], patient, fixed) for name, _, patient, fixed in volumes]
    tiles = Tiles(kind="slice", size=(8,))
    index = index_of(volumes, (2, 8, 8), tiles)
    split = assign_splits(index, tiles)
    assert (split.groupby("patient")["split"].nunique() == 1).all()
    groups = split.groupby("patient").agg(side=("split", "first"), organ=("organ", "first"), fold=("fold", "first"))
    assert groups["side"].value_counts().to_dict() == {"train": 14, "test": 4, "val": 2}
    assert groups[groups["side"] == "test"]["organ"].value_counts().to_dict() == {"lung": 2, "liver": 2}
    assert sorted(groups[groups["side"] == "train"]["fold"].value_counts()) == [2, 3, 3, 3, 3]


def test_few_volumes_are_cut_into_slabs_each_and_many_are_held_out_whole():
    tiles = Tiles(kind="slice", size=(8,), gap=0)
    few = assign_splits(index_of([(f"v{n}", "", "", "auto") for n in range(4)], (1, 8, 80), tiles), tiles)
    assert set(few["slab_axis"]) == {"x"}
    assert (few.groupby("volume")["split"].nunique() == 3).all()
    many = assign_splits(index_of([(f"v{n}", "", "", "auto") for n in range(5)], (1, 8, 80), tiles), tiles)
    assert set(many["slab_axis"]) <= {"", "x"}
    assert (many.groupby("volume")["split"].nunique() == 1).all()
    assert many.groupby("volume")["split"].first().value_counts().to_dict() == {"train": 3, "test": 1, "val": 1}


@pytest.mark.parametrize(
    ("patients", "fractions", "whole"),
    [
        (3, {}, True),
        (2, {"val": 0}, True),
        (2, {}, False),  # one of them would have to be on two of three sides
        (1, {}, False),
        (3, {"split_by": "slab"}, False),
    ],
)
def test_a_patient_with_several_volumes_stays_on_one_side_where_there_are_enough(patients, fractions, whole):
    tiles = Tiles(kind="slice", size=(8,), gap=0, **fractions)
    volumes = [(f"v{n}", "", f"p{n % patients}", "auto") for n in range(2 * patients)]
    split = assign_splits(index_of(volumes, (1, 8, 80), tiles), tiles)
    sides = split.groupby("patient")["split"].nunique()
    assert (sides == 1).all() == whole
    assert parted_patients(split) == ([] if whole else [f"p{n}" for n in range(patients)])
    assert set(split["split"]) == {"train", "test"} | ({"val"} if fractions.get("val") != 0 else set())


def test_a_patient_with_one_volume_is_cut_into_slabs_as_before_where_there_are_few():
    tiles = Tiles(kind="slice", size=(8,), gap=0)
    volumes = [(f"v{n}", "", f"p{n}", "auto") for n in range(4)]
    split = assign_splits(index_of(volumes, (1, 8, 80), tiles), tiles)
    assert (split.groupby("patient")["split"].nunique() == 3).all()
    assert parted_patients(split) == []


def training_folds(split):
    """The folds of each patient's training tiles."""
    train = split[split["fold"] >= 0]
    return {patient: sorted(set(own)) for patient, own in train["fold"].groupby(train["patient"])}


@pytest.mark.parametrize("patients", [2, 3, 4])
def test_fewer_patients_than_folds_are_a_fold_each_and_none_is_on_both_sides(patients):
    """Whether their volumes are cut into slabs for the test, as those of few patients are, or held out as a whole."""
    tiles = Tiles(kind="slice", size=(8,), gap=0)
    for volumes in (1, 2):
        named = [(f"v{n}", "", f"p{n % patients}", "auto") for n in range(volumes * patients)]
        split = assign_splits(index_of(named, (1, 8, 80), tiles), tiles)
        folds = training_folds(split)
        if len(folds) < 2:
            continue
        assert sorted(folds.values()) == [[number] for number in range(len(folds))]
        patient = split["patient"].to_numpy()
        for number in range(len(folds)):
            train, val = fold_split(split, number)
            assert len(train)
            assert not set(patient[train]) & set(patient[val])
        (line,) = fewer_folds(split, tiles.folds)
        assert line.startswith(f"folds: {len(folds)}, not the 5 of tiles.folds: the tiles to train on are of")
        assert fewer_folds(split, len(folds)) == []


def test_folds_of_a_single_volume_or_by_an_explicit_field_are_slabs():
    tiles = Tiles(kind="slice", size=(8,), gap=0)
    alone = assign_splits(index_of([("v", "", "p", "auto")], (1, 8, 160), tiles), tiles)
    assert training_folds(alone) == {"p": [0, 1, 2, 3, 4]}
    by_slab = tiles.model_copy(update={"split_by": "slab"})
    three = index_of([(f"v{n}", "", f"p{n}", "auto") for n in range(3)], (1, 8, 160), by_slab)
    split = assign_splits(three, by_slab)
    assert training_folds(split) == {f"p{n}": [0, 1, 2, 3, 4] for n in range(3)}
    assert fewer_folds(alone, 5) == fewer_folds(split, 5) == []


def test_a_split_that_the_data_set_fixes_is_kept():
    tiles = Tiles(kind="slice", size=(8,), gap=0)
    index = index_of([("a", "", "", "auto"), ("b", "", "", "unseen"), ("c", "", "", "test")], (1, 8, 80), tiles)
    split = assign_splits(index, tiles).groupby("volume")["split"].unique()
    assert split["b"].tolist() == ["unseen"]
    assert split["c"].tolist() == ["test"]
    assert "train" in split["a"]


def test_one_tile_per_volume_is_split_by_volume_even_if_there_are_few():
    tiles = Tiles(kind="crop", size=(8,))
    split = assign_splits(index_of([(f"v{n}", "", "", "auto") for n in range(3)], (8, 8, 8), tiles), tiles)
    assert sorted(split["split"]) == ["test", "train", "val"]


def test_separate_images_are_cut_along_their_order():
    tiles = Tiles(kind="slice", size=(64,), gap=1)
    split = assign_splits(index_of([("a", "", "", "auto")], (20, 64, 64), tiles, stacked=True), tiles)
    assert set(split["slab_axis"]) == {"z"}
    assert split["split"].tolist() == ["train"] * 12 + ["gap"] + ["val"] * 2 + ["gap"] + ["test"] * 4


def test_the_split_is_the_same_every_time_and_does_not_depend_on_the_order_of_volumes():
    tiles = Tiles(kind="slice", size=(8,))
    volumes = [(f"v{n}", "", "", "auto") for n in range(12)]
    sides = [
        assign_splits(index_of(listed, (1, 8, 16), tiles), tiles).groupby("volume")["split"].first().to_dict()
        for listed in (volumes, volumes[::-1])
    ]
    assert sides[0] == sides[1]


def test_nothing_left_to_train_on_is_one_line():
    tiles = Tiles(kind="slice", size=(8,), gap=100, slab_axis="x")
    with pytest.raises(UserError, match=r"^tiles.gap: none of 2 tiles"):
        assign_splits(index_of([("a", "", "", "auto")], (1, 8, 16), tiles), tiles)


@pytest.mark.parametrize("side", ["train", "val", "test", "unseen"])
@pytest.mark.parametrize("others", [0, 5])
def test_all_volumes_of_a_patient_go_where_one_is_fixed(side, others):
    volumes = [("a", "", "p", side), ("b", "", "p", "auto"), ("c", "", "q", "train")]
    volumes += [(f"o{k}", "", f"r{k}", "auto") for k in range(others)]
    index = assign_splits(index_of(volumes, (20, 40, 40), Tiles(size=(10,))), Tiles(size=(10,)))
    assert set(index.loc[index["patient"] == "p", "split"]) == {side}


def test_a_patient_on_two_sides_is_named(mistake):
    tiles = Tiles(size=(10,))
    for one, two in itertools.permutations(("train", "val", "test", "unseen"), 2):
        index = index_of([("a", "", "p", one), ("b", "", "p", two), ("c", "", "", "train")], (20, 40, 40), tiles)
        if {one, two} == {"test", "unseen"}:
            assert assign_splits(index, tiles)["split"].tolist() == index["fixed"].tolist()
            continue
        with mistake("data.volumes: patient p", one, two, "one side"):
            assign_splits(index, tiles)
