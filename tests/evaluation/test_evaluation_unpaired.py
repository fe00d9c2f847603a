"""Methods on two domains side by side: what they make of the source, held against the target's own tiles."""

import numpy as np
import pytest
import torch
from tile_sets import write_domains

from metgan_dist.cluster.resources import ResourcePlan
from metgan_dist.evaluation.comparison import compare
from metgan_dist.evaluation.scoring import REAL, Scoring, score_methods
from metgan_dist.evaluation.subject import named_scores
from metgan_dist.methods import method_class
from metgan_dist.recipe import Scores
from metgan_dist.scores.labels import mean_dice, tile_counts
from metgan_dist.tasks import task_of
from metgan_dist.tiles.stream import tile_batches
from metgan_dist.trained import load_method

PLAN = ResourcePlan(1, 1, 0, 1, 4, 0)
NAMES = ("cycle_mae", "label_fidelity")


def scored_here(task, judges, checkpoints):
    scoring = Scoring(task.tiles.uri, task.name, judges, NAMES, {}, here=True)
    samples = task.compared("test")
    return score_methods(checkpoints, scoring, samples, block=2, show=[7], plan=PLAN, report=lambda line: None)


def dice_by_hand(judge, images, label):
    counts = tile_counts(judge.translate({"tumour": images}), label)
    return float(mean_dice(np.array([[counts["overlap_1"].sum(), counts["size_1"].sum()]])))


def test_cycle_and_labels_are_of_the_source_and_the_ceiling_of_the_targets_own_tiles(tmp_path, checkpoint):
    splits = {"source": ("train", "train", *("test",) * 5), "target": ("train", "train", *("test",) * 3)}
    tiles = write_domains(tmp_path, **splits)
    task = task_of(method_class("cyclegan"), tiles)
    source, target = tiles.positions("test", "anatomy"), tiles.positions("test", "tumour")
    checkpoints = {"A": checkpoint("cyclegan"), "B": checkpoint("cyclegan", 1)}
    judge_uri = checkpoint("segmentor")
    scored = scored_here(task, {"judge": judge_uri}, checkpoints)
    assert {label: one.per_tile["tile"].tolist() for label, one in scored.items()} == {
        REAL: target.tolist(),
        "A": source.tolist(),
        "B": source.tolist(),
    }
    settings = named_scores(task, Scores(names=NAMES, resamples=100))
    comparison = compare(scored, task.units(source), "A", settings, task.columns)
    judge, (real,), (batch,) = (
        load_method(judge_uri)[0],
        tile_batches(tiles, target, len(target)),
        tile_batches(tiles, source, len(source)),
    )
    assert comparison.ceiling == pytest.approx(dice_by_hand(judge, real["tumour"], real["label"]), abs=1e-4)
    for label, uri in checkpoints.items():
        method = load_method(uri)[0]
        with torch.no_grad():
            made = method.translate(batch)
            error = (method.cycle(batch, made) - batch["anatomy"]).abs().mean()
        values = comparison.values[label]
        assert values["cycle_mae"].value == pytest.approx(float(error), rel=1e-4)
        assert values["label_fidelity"].value == pytest.approx(dice_by_hand(judge, made, batch["label"]), abs=1e-3)
    # No image of the target is of a source tile's place, so none limits what a tile counts for in a test.
    np.testing.assert_array_equal(comparison.per_tile["dice_up_to_real"], comparison.per_tile["dice"])
    assert set(comparison.tests["score"]) == {"cycle_mae", "dice_up_to_real"}
    assert comparison.units.count == 2  # both volumes of the source


def test_scores_that_need_pairs_are_refused_and_a_table_has_the_others_where_none_are_named(tmp_path, mistake):
    task = task_of(method_class("cyclegan"), write_domains(tmp_path))
    assert named_scores(task, Scores()).names == ("cycle_mae", "fid", "kid", "label_fidelity")
    with mistake("scores.names: lpips is no score of unpaired tiles; use cycle_mae, fid, kid, label_fidelity"):
        named_scores(task, Scores(names=("lpips",)))


@pytest.mark.parametrize("labelled", [["ct"], []])
def test_without_labels_of_the_target_the_cycle_alone_is_compared(tmp_path, checkpoint, labelled):
    task = task_of(method_class("cyclegan"), write_domains(tmp_path, labelled=labelled))
    scored = scored_here(task, {}, {"A": checkpoint("cyclegan")})
    rows = task.rows("test")
    comparison = compare(scored, task.units(rows), "A", Scores(names=NAMES, resamples=100), task.columns)
    assert (comparison.values["A"].keys(), comparison.ceiling) == ({"cycle_mae"}, None)
    assert list(task.given(rows)) == ["anatomy", *(["label"] if labelled else [])]
