"""S-scores of trained runs side by side: those of whole test volumes by one judge of each domain, each patient once."""

import csv
import io
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from open_runs import Kept

from metgan_dist.cluster.resources import ResourcePlan
from metgan_dist.evaluation.evaluation import Evaluation
from metgan_dist.evaluation.judges import judges_for
from metgan_dist.evaluation.scoring import REAL, Scoring, score_volumes
from metgan_dist.evaluation.whole_volumes import beside
from metgan_dist.recipe import Recipe, Scores
from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import Result
from metgan_dist.runs.run_folder import Run
from metgan_dist.tasks import task_named
from metgan_dist.tasks.shapes import judges_of, sample_of, whole_columns
from metgan_dist.trained import load_method

PLAN = ResourcePlan(1, 1, 0, 1, 4, 0)
DEVICE = torch.device("cpu")


def test_a_score_of_a_table_is_known_by_its_sample_and_its_judges():
    titles = {column.name: (column.title, column.better) for column in whole_columns("ct", "mr")}
    assert titles["s_score_target"] == ("S-score ct → mr", "max")
    assert titles["assd_source"] == ("ASSD mr → ct", "min")
    assert titles["segmented_hd95_target"] == ("HD95 mr", "min")
    assert sample_of("assd_target") == ("generated", "assd_target")
    assert sample_of("segmented_assd_target") == ("segmented", "assd_target")
    assert sample_of("dice_source") == ("segmented", "dice_source")
    needed = {name: judges_of(name) for name in ("s_score", "hd95_source", "dice_target", "segmented_assd_source")}
    assert needed == {
        "s_score": {"judge", "judge_source"},
        "hd95_source": {"judge_source"},
        "dice_target": set(),
        "segmented_assd_source": set(),
    }


@pytest.mark.parametrize("here", [True, False])
def test_whole_volumes_are_scored_as_after_a_training_and_each_patient_counts_once(tiles, checkpoint, request, here):
    if not here:
        request.getfixturevalue("ray_cluster")
    judges = {"judge": checkpoint("segmentor"), "judge_source": checkpoint("segmentor", 1)}
    checkpoints, said = {"A": checkpoint("cyclegan"), "S": checkpoint("sifa")}, []
    scoring = Scoring(tiles.uri, "unpaired", judges, ("s_score",), {}, here)
    found = score_volumes(checkpoints, scoring, plan=PLAN, report=said.append)
    assert list(found) == [REAL, "A", "S"]
    task = task_named("unpaired", tiles, {role: load_method(uri)[0] for role, uri in judges.items()})
    for label, uri in checkpoints.items():
        method = load_method(uri)[0]
        assert found[label] == task.whole(method, "test", DEVICE)
        units = found[label]["per_unit"]["generated"]
        assert set(units) == {f"patient {domain} {k}" for domain in ("ct", "mr") for k in range(3)}
        mean = np.mean([own["s_score_target"] for own in units.values() if "s_score_target" in own])
        assert found[label]["generated"]["s_score_target"] == pytest.approx(mean)
    assert set(found[REAL]) == {"real", "per_unit"}
    assert "segmented" not in found["A"]  # SIFA alone segments itself
    names = ["s_score", "s_score_target", "dice_target", "segmented_assd_target"]
    columns = [column for column in whole_columns("ct", "mr") if column.name in names]
    compared = beside(found, columns, "A", Scores(resamples=100))
    assert set(compared.cells["A"]) == {"s_score", "s_score_target"}
    assert compared.values("S", Scores(resamples=100))["dice_target"].value == found["S"]["segmented"]["dice_target"]
    (row,) = compared.tests[compared.tests["score"] == "s_score_target"].to_dict("records")
    assert (row["method"], row["count"]) == ("S", 3)
    assert any("whole volumes" in line for line in said)


def finished(write_run, tiles, name, checkpoints, method="cyclegan", **artefacts):
    """A run on these tiles, with such checkpoints of its judges."""
    data = {**tiles.manifest["data"], "path": tiles.uri}
    sizes = {"width": 1 / 16, "segmentor_width": 1 / 16}
    recipe = Recipe.model_validate({"data": data, "method": {"name": method, **sizes}, "tiles": {"size": [64]}})
    best = {"best_checkpoint": checkpoints(method), "images": 8, "tiles": tiles.uri, **artefacts}
    return write_run(name, tiles, method=method, recipe=recipe.model_dump(mode="json"), artefacts=best)


def planned(tmp_path, *runs, names="", **method):
    given = {"names": names, "missing_weights": "skip", "resamples": 100}
    tree = {"storage": {"path": str(tmp_path / "runs")}, "scores": given, "method": method, "scaling": {"workers": 0}}
    return Evaluation.planned(Command(Recipe.model_validate(tree), "x", False, False, {}, {}, {"runs": list(runs)}))


def test_runs_are_compared_by_the_s_scores_of_their_shared_judges(tiles, tmp_path, checkpoint, write_run):
    judges = {"judge": checkpoint("segmentor"), "judge_source": checkpoint("segmentor", 1)}
    same = {role: shutil.copytree(uri, str(tmp_path / role)) for role, uri in judges.items()}
    finished(write_run, tiles, "first", checkpoint, **judges)
    finished(write_run, tiles, "second", checkpoint, "sifa", **same)  # elsewhere, and the same to the last bit
    names = "label_fidelity,s_score,s_score_target,dice_target,segmented_assd_target"
    evaluation = planned(tmp_path, "first", "second", names=names)
    assert evaluation.subject.judges == judges
    recipe = Recipe.model_validate({"scores": {"names": names}, "scaling": {"workers": 0}})
    opened = Kept(recipe, Run("table", str(tmp_path / "out"), "evaluate", False, "0a", {}), PLAN, "", Result())
    evaluation.carry_out(opened)
    lines = {line["method"]: line for line in csv.DictReader(io.StringIO((tmp_path / "out/table.csv").read_text()))}
    scores = opened.result.scores["test"]
    assert float(lines["sifa"]["dice_target"]) == scores["sifa"]["dice_target"]
    assert lines["cyclegan"]["dice_target"] == ""
    assert set(scores["cyclegan"]) == {"label_fidelity", "s_score", "s_score_target"}
    assert opened.result.artefacts["judge_source"] == judges["judge_source"]
    text = (tmp_path / "out/table.md").read_text()
    assert "S-score ct → mr ↑" in text
    assert "Of whole test volumes, joined from their tiles" in text
    assert "S-score ct → mr: 3" in text
    units = pd.read_csv(tmp_path / "out/volumes.csv")
    own = units[(units["method"] == "cyclegan") & (units["score"] == "s_score_target")]
    assert own["value"].mean() == pytest.approx(scores["cyclegan"]["s_score_target"])
    assert set(pd.read_csv(tmp_path / "out/significance.csv")["score"]) >= {"s_score_target"}
    assert (tmp_path / "out/grid.png").read_bytes().startswith(b"\x89PNG")


def test_whole_volumes_alone_make_a_table_too(tiles, tmp_path, checkpoint, write_run):
    finished(write_run, tiles, "first", checkpoint, "sifa", judge=checkpoint("segmentor"))
    evaluation = planned(tmp_path, "first", names="s_score_target,dice_target")
    opened = Kept(
        Recipe.model_validate({"scaling": {"workers": 0}}),
        Run("table", str(tmp_path / "out"), "evaluate", False, "0a", {}),
        *(PLAN, "", Result()),
    )
    evaluation.carry_out(opened)
    assert set(opened.result.scores["test"]["sifa"]) == {"s_score_target", "dice_target"}
    assert "No differences are marked" not in (tmp_path / "out/table.md").read_text()


def test_runs_whose_judges_differ_need_one_that_is_named(tiles, tmp_path, checkpoint, write_run, mistake):
    one, other = checkpoint("segmentor"), checkpoint("segmentor", 1)
    finished(write_run, tiles, "first", checkpoint, judge=one)
    finished(write_run, tiles, "second", checkpoint, "sifa", judge=other)
    with mistake("scores.names: s_score_target: the judges of first and second differ", one, "name it in method.judge"):
        planned(tmp_path, "first", "second", names="s_score_target")
    named = planned(tmp_path, "first", "second", names="s_score_target", judge=other)
    assert named.subject.judges == {"judge": other}
    assert planned(tmp_path, "first", "second", names="dice_target,cycle_mae").subject.judges == {}
    assert planned(tmp_path, "first", "second", names="label_fidelity").subject.judges == {"judge": one}
    with mistake("scores.names: s_score_source needs a judge of the source, and first has none; name one in method.ju"):
        planned(tmp_path, "first", "second", names="s_score_source")
    with mistake("method.judge: no score of the table (cycle_mae) is by it; leave it out"):
        planned(tmp_path, "first", names="cycle_mae", judge=other)


def test_pairs_have_no_scores_of_whole_volumes(write_tiles, mistake):
    task = task_named("paired", write_tiles())
    assert task.whole_columns == ()
    with mistake("method.judge_source: no score of the table (mae) is by it"):
        judges_for(task, ("mae",), [], Recipe.model_validate({"method": {"judge_source": "runs/x"}}))
