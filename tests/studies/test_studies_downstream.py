"""Table 4 and figure 7 from the results of rows; rows that cannot be carried out are refused before any work."""

import csv
import io
import json
from functools import cached_property
from pathlib import Path

import pytest
from tile_sets import write_set

from metgan_dist.cluster.resources import plan_resources
from metgan_dist.errors import TrainingStopped, UserError
from metgan_dist.recipe import Recipe
from metgan_dist.runs.child_runs import folder_of
from metgan_dist.runs.command_line import parse_command
from metgan_dist.runs.job import Result
from metgan_dist.runs.open_run import OpenRun, resolved
from metgan_dist.runs.run_folder import Run
from metgan_dist.segmentation import datasets
from metgan_dist.segmentation.cross_validation import CrossValidation
from metgan_dist.segmentation.scoring import COUNTS, SCORES
from metgan_dist.studies import downstream_report
from metgan_dist.studies import rows as rows_module
from metgan_dist.studies.downstream import DownstreamRun
from metgan_dist.studies.study import load_study


def result(dice, real, synthetic):
    """What a row's result.json holds, as far as the study reads it."""
    scores = {name: {"mean": dice, "min": dice - 0.1, "max": dice + 0.1} for name in SCORES}
    counts = {name: {"mean": 10 * dice, "min": 1.0, "max": 9.0} for name in COUNTS}
    groups = {
        str(k): {"low": k, "high": k + 1, "lesions": 5, "recall": {"mean": dice / k, "min": 0.0, "max": 1.0}}
        for k in (1, 2)
    }
    return {
        "run": "r",
        "mlflow_run_id": "0",
        "scores": {
            "test": {
                **{**scores, **counts, "tiles": 7, "lesions": 10, "places": 3, "unit": "slab"},
                **{"independent": "2 volumes", "strata": {"area": groups, "brightness": groups}},
            }
        },
        "artefacts": {"samples": {"real": real, "synthetic": synthetic}, "images": 4000, "stopped_early": 2},
        "resources": {"seconds": 120.0},
    }


class Log:
    def __init__(self):
        self.kept = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def content(self, content, name):
        self.kept[name] = content

    def text(self, text, name):
        self.kept[name] = text

    def dataset(self, name, uri, digest, context, rows):
        self.kept[name] = (uri, context)


class Logged(OpenRun):
    """An open run whose MLflow is a dictionary."""

    kept = property(lambda self: self.mlflow.kept)

    @cached_property
    def mlflow(self):
        return Log()

    def log(self):
        return self.mlflow


def logged_run(folder, recipe, plan=None):
    return Logged(recipe, Run("mine", str(folder), "run_study", False, "0a", {}), plan, "sqlite:///x.db", Result())


@pytest.fixture
def report(tmp_path, capsys):
    """(open run, files that were logged, what was said) of a study with a row of each kind and one that failed."""
    opened = logged_run(tmp_path, Recipe())
    study = load_study("downstream").restricted(["s100", "s240", "r100", "r25_s500"])
    made = result(0.5, 0, 100)
    made["artefacts"]["origins"] = [{"fold": 0, "left_out": 9, "validation": 6, "seen_by_generator": 2}]
    rows = {"s100": made, "r100": result(0.7, 219.4, 0), "r25_s500": result(0.8, 55, 500)}
    downstream_report.report_rows(opened, study, rows, {"s240": "out of memory"}, "downstream")
    return opened, opened.kept, capsys.readouterr().out


def test_the_table_has_the_papers_numbers_beside_ours(report, tmp_path):
    _, kept, said = report
    text = kept["downstream/table.md"].decode()
    assert text.strip() in said
    assert (tmp_path / "downstream" / "table.md").read_text() == text
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    header = next(line for line in table if line[:2] == ["Samples", "Paper's row"])
    assert header[2:6] == ["Dice ↑", "paper", "Precision ↑", "paper"]
    lines = {line[0]: line for line in table[table.index(header) + 2 : table.index(header) + 6]}
    assert lines["25 % real + 500 synthetic"][1:4] == ["200R+500S", "**0.800**", "0.809"]
    assert lines["240 synthetic"][2:4] == ["failed", "0.744"]
    assert "240 synthetic failed: out of memory" in text
    ranges = next(line for line in table if line[:2] == ["100 % real", "219.4"])
    assert ranges[2:] == ["0", "0.600-0.800", "7 (1-9)", "7 (1-9)", "7 (1-9)"]
    recalls = next(line for line in table if line == ["100 synthetic", "0.500", "0.250", "0.500", "0.250"])
    assert recalls
    assert "10 lesions in 3 slabs of planes, on 7 test tiles" in text
    assert "Independent places: 2 volumes." in text
    assert "100 synthetic: Synthetic tiles left out of a fold, made from anatomy or labels that validate it: 9" in text
    assert (
        "100 synthetic: Validation tiles that the synthetic tiles' generator was trained on: 2 of 6 (fold 0)." in text
    )
    assert "100 % real: Synthetic" not in text


def test_rows_that_counted_lesions_per_tile_are_refused(tmp_path):
    study = load_study("downstream").restricted(["s100"])
    old = result(0.5, 0, 100)
    del old["scores"]["test"]["unit"]
    with pytest.raises(UserError, match=r"^row s100: run r counted lesions once per overlapping tile"):
        downstream_report.report_rows(logged_run(tmp_path, Recipe()), study, {"s100": old}, {}, "downstream")


def test_numbers_for_other_programs(report):
    opened, kept, _ = report
    rows = {row["samples"]: row for row in csv.DictReader(io.StringIO(kept["downstream/table.csv"].decode()))}
    ours = rows["100 % real"]
    assert [float(ours[f"dice{part}"]) for part in ("", "_low", "_high", "_paper")] == pytest.approx(
        [0.7, 0.6, 0.8, 0.79]
    )
    assert (ours["real_tiles"], float(ours["found"])) == ("219.4", 7)
    ours_kept = opened.result.scores["test"]["r100"]["recall"]
    assert [ours_kept[part] for part in ("mean", "min", "max")] == pytest.approx([0.7, 0.6, 0.8])
    assert kept["downstream/figure.png"][:4] == b"\x89PNG"
    assert opened.result.artefacts["figure_png"].endswith("downstream/figure.png")
    json.dumps(opened.result.scores)


def test_lines_of_the_figure_are_kinds_of_data():
    rows = {"a": result(0.5, 0, 100), "b": result(0.7, 200, 0), "c": result(0.8, 50, 500), "d": result(0.6, 0, 300)}
    curves = downstream_report._curves(rows)
    assert list(curves) == ["Dice", "Precision", "Recall", "Jaccard"]
    assert {kind: [point.samples for point in points] for kind, points in curves["Dice"].items()} == {
        "synthetic": [100, 300],
        "real": [200],
        "real and synthetic": [550],
    }
    assert [point.low for point in curves["Recall"]["synthetic"]] == pytest.approx([0.4, 0.5])


def planned(tmp_path, *arguments, rows=()):
    study = load_study("downstream")
    fixed = ["--storage.path", str(tmp_path / "runs")]
    command = parse_command("run_study.py", "Studies.", [*fixed, *arguments])
    return DownstreamRun.planned("downstream", study.restricted(rows) if rows else study, command, tmp_path)


def test_rows_that_ask_for_more_than_there_is_are_refused_by_name(tmp_path, monkeypatch):
    real = write_set(tmp_path / "real")
    other = write_set(tmp_path / "s", train=150, val=0, test=0, synthesis={}, seed=1)
    asked = []
    monkeypatch.setattr(datasets, "check_untouched", lambda *arguments: asked.append(arguments[2].uri) or ())
    given = ["--data.path", real.uri, "--segmentation.datasets", other.uri]
    assert list(planned(tmp_path, *given, rows=["s100", "s120", "r25"]).recipes) == ["s100", "s120", "r25"]
    assert asked == [other.uri]
    for arguments, rows, culprit in (
        (given, (), r"row s240: segmentation.synthetic: 240 of 240 .* which has 150"),
        (given[:2], (), "row s100: segmentation.datasets: none given"),
        ([*given[:3], str(tmp_path)], ["r25", "s120"], "row s120: segmentation.datasets: .*: no finished synthetic"),
        ([*given, "--segmentation.folds", "9"], ["r25"], "row r25: segmentation.folds: there is no fold 9"),
    ):
        with pytest.raises(UserError, match=f"^--study: {culprit}"):
            planned(tmp_path, *arguments, rows=rows)


def test_rows_share_their_tiles(tmp_path):
    study = load_study("downstream").restricted(["r25"])
    row = study.rows[0].model_copy(update={"recipe": {"tiles": {"size": 64}}})
    command = parse_command("run_study.py", "Studies.", [])
    with pytest.raises(UserError, match="row r25 sets tiles"):
        DownstreamRun.planned("d", study.model_copy(update={"rows": [row]}), command, tmp_path)


def carried_out(tmp_path, monkeypatch, *arguments, rows, cpus=8, broken=()):
    """Carry a study out with rows whose jobs go as far as a cluster; the experiment, with the recipes as `started`.

    Instead of training, a row leaves the result of one, or fails.
    """
    started = {}

    def instead(jobs, at_once, here):
        for name, job in jobs.items():
            recipe, script = job.recipe(), job.script
            path = tmp_path / f"{name}.yaml"
            path.write_text(recipe.to_yaml())
            CrossValidation.planned(parse_command(script.name, "A row.", ["--recipe", str(path)]), script)
            started[name] = recipe
            folder = Path(folder_of(recipe))
            folder.mkdir(parents=True)
            status = "failed" if name in broken else "finished"
            tree = {"job": "segment_folds", "mlflow_run_id": "1", "recipe": resolved(recipe).model_dump(mode="json")}
            (folder / "run.json").write_text(json.dumps(tree))
            (folder / "result.json").write_text(json.dumps({**result(0.5, 10, 0), "status": status}))
        started["at once"] = at_once
        return {name: "out of memory" for name in jobs if name in broken}

    monkeypatch.setattr(rows_module, "run_jobs", instead)
    run = planned(tmp_path, *arguments, rows=rows)
    recipe = resolved(
        parse_command("run_study.py", "S.", ["--storage.path", str(tmp_path / "runs"), *arguments]).recipe
    )
    opened = logged_run(tmp_path / "runs" / "mine", recipe, plan_resources(recipe.scaling, cpus, 0))
    opened.started = started
    try:
        run.carry_out(opened)
    finally:
        monkeypatch.undo()
    return opened


def test_rows_are_runs_of_their_own_that_share_the_cluster(tmp_path, monkeypatch):
    real = write_set(tmp_path / "real", volumes=4)
    given = ["--data.path", real.uri, "--scaling.cpus_per_worker", "1", "--scaling.trainings", "9"]
    done = carried_out(tmp_path, monkeypatch, *given, rows=["r25", "r50", "r100"])
    # Nine trainings are two rows of four folds each.
    assert done.started.pop("at once") == 2
    assert list(done.started) == ["r25", "r50", "r100"]
    for name, recipe in done.started.items():
        assert (recipe.tracking.run, recipe.tracking.parent) == (f"mine-{name}", "0a")
        assert (recipe.scaling.share, recipe.scaling.trainings) == (0.5, 4)
        assert recipe.data.path == real.uri
    assert [recipe.segmentation.real for recipe in done.started.values()] == [0.25, 0.5, 1]
    assert done.kept[real.name] == (real.uri, "training")
    assert set(done.result.scores["test"]) == {"r25", "r50", "r100"}
    again = carried_out(tmp_path, monkeypatch, *given, rows=["r35", "r50"])
    assert set(again.started) == {"r35", "at once"}
    assert set(again.result.scores["test"]) == {"r35", "r50"}


def test_a_failed_row_is_told_after_the_table_of_the_others(tmp_path, monkeypatch, capsys):
    real = write_set(tmp_path / "real", volumes=4)
    with pytest.raises(TrainingStopped, match=r"1 of 2 rows failed: 50 % real \(out of memory\)"):
        carried_out(tmp_path, monkeypatch, "--data.path", real.uri, rows=["r25", "r50"], broken=["r50"])
    assert "50 % real failed: out of memory" in capsys.readouterr().out
