"""Pooled scores are those of the tiles one by one, whatever the blocks; strata and folds are summed up rightly."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from tile_sets import write_set

from metgan_dist.cluster.resources import plan_resources
from metgan_dist.methods.segmentor import likeliest
from metgan_dist.recipe import Scaling
from metgan_dist.scores.labels import pooled_dice, tile_counts
from metgan_dist.scores.lesions import LesionCounts, match_lesions
from metgan_dist.segmentation.cells import predict_block, score_cells
from metgan_dist.segmentation.scoring import COUNTS, SCORES, FoldScores, joined, score_folds
from metgan_dist.segmentation.summary import counted, markdown, strata_table, summarise, table
from metgan_dist.tiles.mosaic import mosaic
from metgan_dist.trained import load_method


def score_here(checkpoint, tiles, rows):
    """The tables of `FoldScores` without the column fold, from two tasks."""
    places, cells = mosaic(tiles.index, tiles.shape, rows)
    halves = (cells[: len(cells) // 2], cells[len(cells) // 2 :])
    return joined(places, [cell for half in halves for cell in score_cells(checkpoint, tiles.uri, half, None)])


@pytest.mark.parametrize("classes", [2, 3])
def test_tiles_that_lie_alone_are_counted_as_they_are(tmp_path, segmentor, classes):
    tiles = write_set(tmp_path, classes=classes)
    checkpoint, rows = segmentor(classes), tiles.positions("test")
    scored = FoldScores(**{name: t.assign(fold=0) for name, t in score_here(checkpoint, tiles, rows).items()})
    method, _ = load_method(checkpoint)
    counts, voxels, expected = LesionCounts(), [], []
    for place, row in enumerate(rows):  # every tile has a plane of its own
        tile = tiles.load(row)
        # Of an untrained network the probabilities lie so close that rounding tells them from the logits.
        chances = method.network.probabilities(torch.from_numpy(tile["tumour"])[None])
        predicted = likeliest(chances, method.network.threshold)[0]
        label = torch.from_numpy(tile["label"].astype(np.int64))
        voxels.append(pd.DataFrame(tile_counts(predicted[None], label[None], classes)))
        for k in range(1, classes):
            match = match_lesions(predicted.numpy() == k, tile["label"] == k)
            counts += match.counts
            bright = match.brightness(tile["tumour"][0])
            for number, area in enumerate(match.areas):
                inside = tile["tumour"][0][match.lesions == number + 1]
                assert bright[number] == pytest.approx(inside.mean())
                expected.append((place, k, number + 1, area, pytest.approx(inside.mean()), match.found[number]))
    found = scored.scores(0)
    assert {name: found[name] for name in COUNTS} == {name: getattr(counts, name) for name in COUNTS}
    assert [found[name] for name in SCORES[:-1]] == [getattr(counts, name) for name in SCORES[:-1]]
    assert found["voxel_dice"] == pytest.approx(pooled_dice(pd.concat(voxels)))
    assert counts.found > 0
    columns = ["place", "label", "lesion", "area", "brightness", "found"]
    assert [tuple(line) for line in scored.lesions[columns].itertuples(index=False)] == expected


def test_folds_are_scored_on_the_cluster_as_in_this_process(ray_cluster, tmp_path, segmentor):
    tiles = write_set(tmp_path)
    rows, said = tiles.positions("test"), []
    checkpoints = {0: segmentor(seed=0), 3: segmentor(seed=1)}
    plan = plan_resources(Scaling(), 4, 0)
    scored = score_folds(checkpoints, tiles, rows, block=4, plan=plan, report=said.append)
    assert scored.folds == [0, 3]
    for fold, checkpoint in checkpoints.items():
        here = score_here(checkpoint, tiles, rows)
        for name, frame in (("tiles", scored.tiles), ("places", scored.places), ("lesions", scored.lesions)):
            ours = frame[frame["fold"] == fold].drop(columns="fold").reset_index(drop=True)
            pd.testing.assert_frame_equal(ours, here[name])
    assert len(said) == 2


def test_an_example_shows_what_became_of_each_lesion(tmp_path, segmentor):
    tiles = write_set(tmp_path)
    rows = tiles.positions("test")[:2].tolist()
    examples = predict_block(segmentor(), tiles.uri, rows, None)
    assert list(examples) == rows
    for row, example in examples.items():
        np.testing.assert_array_equal(example.label, tiles.load(row)["label"])
        expected = match_lesions(example.predicted, example.label).outcome()
        np.testing.assert_array_equal(example.outcome, expected)


def scored_by_hand():
    """Two folds, two planes with six lesions of areas 1..6; fold 0 finds the large half, fold 1 all but the smallest.

    Each plane is a tile, and the third is empty.
    """
    lesions, tiles = [], []
    for fold, found in enumerate(([0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1])):
        for tile in range(2):
            here = np.arange(3 * tile, 3 * tile + 3)
            hits = np.array(found)[here].astype(bool)
            lesions.append(
                pd.DataFrame(
                    {"fold": fold, "place": tile, "label": 1, "lesion": here % 3 + 1, "area": here + 1}
                    | {"brightness": -here / 10, "found": hits}
                )
            )
            counts = {"found": hits.sum(), "missed": (~hits).sum(), "matched": hits.sum(), "false_positives": 1}
            tiles.append({"fold": fold, "tile": tile, **counts, "overlap_1": hits.sum(), "size_1": 4})
        tiles.append({"fold": fold, "tile": 2, **dict.fromkeys(COUNTS, 0), "overlap_1": 0, "size_1": 0})
    frame = pd.DataFrame(tiles)
    places = frame.rename(columns={"tile": "place"}).assign(unit="plane")
    return FoldScores(frame.drop(columns=list(COUNTS)), places, pd.concat(lesions, ignore_index=True))


def test_mean_minimum_and_maximum_are_over_folds():
    summary = summarise(scored_by_hand(), 3, "3 blocks of 1 volume(s)")
    assert (summary["tiles"], summary["places"], summary["unit"], summary["lesions"]) == (3, 3, "plane", 6)
    assert summary["recall"] == {"mean": pytest.approx(4 / 6), "min": 0.5, "max": pytest.approx(5 / 6)}
    assert summary["precision"]["min"] == pytest.approx(3 / 5)
    assert summary["found"] == {"mean": 4, "min": 3, "max": 5}
    assert summary["voxel_dice"]["max"] == pytest.approx(2 * 5 / 8)
    assert summary["folds"]["1"]["missed"] == 1
    json.dumps(summary)


def test_recall_by_size_and_brightness_is_that_of_equal_groups():
    summary = summarise(scored_by_hand(), 3, "3 blocks of 1 volume(s)")
    area, brightness = summary["strata"]["area"], summary["strata"]["brightness"]
    assert [(group["low"], group["high"], group["lesions"]) for group in area.values()] == [
        (1, 2, 2),
        (3, 4, 2),
        (5, 6, 2),
    ]
    assert [group["recall"]["mean"] for group in area.values()] == [0.25, 0.75, 1.0]
    assert area["1"]["recall"] == {"mean": 0.25, "min": 0.0, "max": 0.5}
    # The largest are the dimmest here.
    assert [group["recall"]["mean"] for group in brightness.values()] == [1.0, 0.75, 0.25]


def test_tiles_with_nothing_in_them_are_no_worst_tiles():
    ranked = scored_by_hand().per_tile()
    assert ranked.index.tolist() == [0, 1]
    assert ranked.tolist() == pytest.approx([(0 + 1.0) / 2, 1.5])


def test_tables_say_all_of_it():
    summary = summarise(scored_by_hand(), 3, "3 blocks of 1 volume(s)")
    text = markdown("Title", summary)
    cells = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in text.splitlines()
        if "|" in line
    }
    assert cells["Recall"] == ["0.667", "0.500", "0.833", "0.500", "0.833"]
    assert cells["False positives"] == ["2"] * 5
    assert cells["smallest"] == ["2", "1", "2", "0.250", "0.000", "0.500"]
    assert cells["brightest"][-3:] == ["0.250", "0.000", "0.500"]
    assert "share a pixel" in text
    assert "of planes, in which overlapping tiles are joined first" in text
    assert "Independent places: 3 blocks of 1 volume(s)." in text
    assert counted(summary) == "6 lesions in 3 planes"
    frame = table({"test": summary})
    assert frame.set_index("score").loc["recall", ["mean", "fold_1"]].tolist() == pytest.approx([4 / 6, 5 / 6])
    assert len(strata_table({"test": summary, "unseen": summary})) == 12


def test_no_lesions_at_all_is_told_and_not_divided_by():
    scored = scored_by_hand()
    places = scored.places.assign(found=0, missed=0, matched=0, false_positives=0, overlap_1=0, size_1=0)
    summary = summarise(FoldScores(scored.tiles, places, scored.lesions.iloc[:0]), 3, "")
    assert summary["lesions"] == 0
    assert summary["strata"] == {"area": {}, "brightness": {}}
    assert summary["dice"]["mean"] == summary["voxel_dice"]["mean"] == 1
    assert "nan" not in markdown("T", summary)


def test_of_several_classes_each_has_its_own_dice_by_name():
    counts = {"found": 1, "missed": 0, "matched": 1, "false_positives": 0, "unit": "volume", "tiles": 1}
    pixels = {"overlap_1": 6, "size_1": 16, "overlap_2": 1, "size_2": 10, "overlap_3": 0, "size_3": 0}
    places = pd.DataFrame([{"place": k, "volume": f"v{k}", "fold": 0, **counts, **pixels} for k in range(2)])
    lesions = pd.DataFrame({"fold": [0], "place": [0], "area": [3], "brightness": [0.5], "found": [True]})
    tiles = pd.DataFrame({"fold": [0], "tile": [0]})
    scored = FoldScores(tiles, places, lesions, ("left ventricle", "myocardium", "vein"))
    found = scored.scores(0)
    assert found["voxel_dice/left ventricle"] == pytest.approx(12 / 16)
    assert found["voxel_dice/myocardium"] == pytest.approx(2 / 10)
    assert found["voxel_dice/vein"] == 1.0  # there was nothing to find, and nothing was found
    assert found["voxel_dice"] == pytest.approx((12 / 16 + 2 / 10) / 2)
    summary = summarise(scored, 1, "2 volumes")
    assert summary["voxel_dice/myocardium"] == {name: pytest.approx(0.2) for name in ("mean", "min", "max")}
    assert "| Voxel Dice, left ventricle | 0.750 |" in markdown("t", summary)
    assert "voxel_dice/vein" in table({"test": summary})["score"].tolist()
    alone = FoldScores(tiles, places, lesions, ("lesion",)).scores(0)
    assert not [name for name in alone if name.startswith("voxel_dice/")]
