"""Tables and figures of paper 5 from the results of rows: printed numbers beside ours, tests over shared patients."""

import csv
import io
from types import SimpleNamespace

import pytest
import yaml
from test_studies_downstream import logged_run

from metgan_dist.errors import UserError
from metgan_dist.recipe import Recipe
from metgan_dist.runs.command_line import parse_command
from metgan_dist.studies import rows as rows_module
from metgan_dist.studies.runner import with_stages_from
from metgan_dist.studies.study import load_study
from metgan_dist.studies.whole_volumes import report_volumes

TILES = SimpleNamespace(domains={"ct": {}, "mr": {}})


def command(*arguments):
    return parse_command("run_study.py", "Studies.", arguments)


def result(value, patients=8, step=0.01):
    """What a row's result.json holds, as far as the study reads it; patient k has k steps more."""
    sides = ("target", "source")

    def scored(dice):
        names = [f"{name}_{side}" for side in sides for name in (dice, "assd", "hd95")]
        units = {
            f"patient {side}-{k}": {name: value + step * k for name in names if name.endswith(side)}
            for side in sides
            for k in range(patients)
        }
        own = dict.fromkeys(names, value) | {f"{dice}_{side}/wall": value - 0.1 for side in sides}
        return own, units

    made, of_made = scored("s_score")
    found, of_found = scored("dice")
    test = {
        **{"generated": {**made, "s_score": value}, "segmented": found},
        **{"real": {"s_score_target": 0.9, "s_score_source": 0.8}},
        "per_unit": {"generated": of_made, "segmented": of_found},
    }
    return {"scores": {"test": test}, "artefacts": {"images": 40}, "timings": {"training": 60.0}}


def reported(tmp_path, name, results, failed=None, rows=None):
    opened = logged_run(tmp_path, Recipe.model_validate({"scores": {"resamples": 100}}))
    study = load_study(name)
    report_volumes(opened, study.restricted(rows) if rows else study, TILES, results, failed or {}, name)
    return opened


def table_of(opened, name):
    return list(csv.DictReader(io.StringIO(opened.kept[f"{name}/table.csv"].decode())))


def test_table_1_has_the_papers_rows_and_numbers_and_marks_rest_on_patients(tmp_path):
    results = {"without_shape": result(0.5), "with_shape": result(0.7)}
    opened = reported(tmp_path, "cardiac-synthesis", results)
    first, second = table_of(opened, "cardiac-synthesis")
    assert (first["method"], second["method"]) == ("G without SC", "G with SC")
    assert (first["s_score_target_paper"], first["s_score_source_paper"]) == ("0.668", "0.675")
    assert (second["s_score_target_paper"], second["s_score_source_paper"]) == ("0.692", "0.696")
    assert float(first["s_score_target"]) == 0.5
    text = opened.kept["cardiac-synthesis/table.md"].decode()
    assert "S-score ct → mr ↑" in text
    assert r"0.500\*" in text  # 8 patients, each 0.2 worse
    assert "worse, † better than G with SC" in text
    assert "Some columns have no marks" not in text
    assert "the judges reach 0.900 (mr), 0.800 (ct)" in text
    assert "| wall |" in text.replace("  ", " ")
    fewer = {"without_shape": result(0.5, 3), "with_shape": result(0.7, 3)}
    few = reported(tmp_path, "cardiac-synthesis", fewer)
    text = few.kept["cardiac-synthesis/table.md"].decode()
    assert r"\*" not in text
    assert "No differences are marked: fewer than 6 independent pairs" in text


def test_table_2_takes_each_domain_from_its_own_row_and_figures_are_drawn(tmp_path):
    study = load_study("cardiac-segmentation")
    values = {row.name: 0.5 + 0.01 * number for number, row in enumerate(study.rows)}
    opened = reported(tmp_path, "cardiac-segmentation", {name: result(value) for name, value in values.items()})
    lines = {line["method"]: line for line in table_of(opened, "cardiac-segmentation")}
    assert list(lines) == ["Baseline (R)", "ADA (R+S)", "Ours (R+S)"]
    printed = {label: (line["dice_source_paper"], line["dice_target_paper"]) for label, line in lines.items()}
    assert printed == {
        "Baseline (R)": ("0.678", "0.703"),
        "ADA (R+S)": ("0.66", "0.71"),
        "Ours (R+S)": ("0.744", "0.732"),
    }
    ours = lines["Ours (R+S)"]
    assert (float(ours["dice_source"]), float(ours["dice_target"])) == (values["ours_s14"], values["ours_t14"])
    for name in ("figure-7", "figure-8"):
        assert opened.kept[f"cardiac-segmentation/{name}.png"].startswith(b"\x89PNG")
    text = opened.kept["cardiac-segmentation/table.md"].decode()
    real, ada, mine = (values[name] for name in ("more_t28", "ada_t14_s14", "ours_t14_s14"))
    (line,) = (line for line in text.splitlines() if line.startswith("| 14 % added"))
    assert [cell.strip() for cell in line.split("|")][6:8] == [f"{(mine - ada) / (real - ada):.0%}", "61.0%"]


def test_rows_that_failed_or_are_left_out_leave_the_rest(tmp_path):
    opened = reported(tmp_path, "cardiac-segmentation", {"base_s14": result(0.6)}, {"ada_s14": "out of memory"})
    lines = {line["method"]: line for line in table_of(opened, "cardiac-segmentation")}
    assert (lines["Baseline (R)"]["dice_source"], lines["Baseline (R)"]["dice_target"]) == ("0.6", "")
    assert lines["ADA (R+S)"]["failed"] == "out of memory"
    assert "cardiac-segmentation/figure-8.png" not in opened.kept
    assert reported(tmp_path, "cardiac-segmentation", {}).kept == {}


def test_some_rows_bring_those_that_they_take_stages_from():
    study = load_study("cardiac-segmentation").restricted(["ours_t14"])
    assert [row.name for row in study.rows] == ["base_t14", "ada_t14", "ours_t14"]
    cells = [{"dice_target": name} for name in ("base_t14", "ada_t14", "ours_t14")]
    assert [line.cells for line in study.lines] == cells
    assert [[panel.title for panel in figure.panels] for figure in study.figures] == [["Target"]]
    assert study.gaps == []
    assert study.reference == "Ours (R+S)"


def test_rows_differ_in_what_the_paper_varies_and_shares_are_the_same_patients():
    study = load_study("cardiac-segmentation")
    recipes = study.recipes(command("--recipe", "cardiac-small"))
    assert {recipe.method.name for recipe in recipes.values()} == {"cycle_shape"}
    assert recipes["ours_t14"].training.shares == {"target": 0.14}
    assert (recipes["ada_s50"].method.shape, recipes["ada_s50"].method.synthetic) == (0, "offline")
    assert (recipes["ours_s50"].method.shape, recipes["ours_s50"].method.synthetic) == (1, "online")
    assert recipes["base_all"].training.stages["together"] == 0
    asked = study.recipes(command("--recipe", "cardiac-small", "--training.stages", "segmentors=3,together=2"))
    stages = {name: recipe.training.stages for name, recipe in asked.items()}
    assert (stages["base_all"]["segmentors"], stages["base_all"]["together"]) == (3, 0)
    assert (stages["ours_all"]["segmentors"], stages["ours_all"]["together"]) == (3, 2)
    assert (stages["more_t28"]["translation"], stages["more_t28"]["together"]) == (0, 2)
    for row in study.rows:  # a row starts from segmentors of its own share, but where the paper starts all from one
        for source in row.stages_from.values():
            theirs, own = recipes[source].training.shares, recipes[row.name].training.shares
            assert theirs == own or "t14" in source


def test_rows_wait_for_those_that_they_take_stages_from(tmp_path, monkeypatch):
    study, needs = load_study("cardiac-segmentation").restricted(["ours_t14", "base_s14"]), {}
    monkeypatch.setattr(rows_module, "run_jobs", lambda jobs, at_once, here: needs.update(jobs) or {"base_t14": "lost"})
    monkeypatch.setattr(rows_module, "is_finished", lambda job, recipe: recipe.tracking.run == "base_t14")
    taken = {row.name: {"stages_from": dict(row.stages_from)} for row in study.rows}
    recipes = {
        row.name: Recipe.model_validate({"tracking": {"run": row.name}, "training": taken[row.name]})
        for row in study.rows
    }
    failed = rows_module.carry_out_rows(logged_run(tmp_path, Recipe()), study, recipes, tmp_path, 1)
    assert {name: job.needs for name, job in needs.items()} == {"base_s14": (), "ada_t14": (), "ours_t14": ("ada_t14",)}
    assert failed == {"base_t14": "lost"}
    other = {"segmentors": "another-study-row"}  # named by the user for all rows
    recipes["ada_t14"] = Recipe.model_validate({"tracking": {"run": "ada_t14"}, "training": {"stages_from": other}})
    monkeypatch.setattr(rows_module, "is_finished", lambda job, recipe: False)
    rows_module.carry_out_rows(logged_run(tmp_path / "b", Recipe()), study, recipes, tmp_path, 1)
    assert needs["ada_t14"].needs == ()
    assert needs["ours_t14"].needs == ("base_t14", "ada_t14")


def test_a_row_takes_stages_from_runs_of_its_study():
    own = Recipe.model_validate({"training": {"stages_from": {"a": "mine"}, "stages": {"b": 3, "c": 4}}})
    training = with_stages_from(own, {"b": "study-row"}).training
    assert (training.stages_from, training.stages) == ({"a": "mine", "b": "study-row"}, {"c": 4})
    named = Recipe.model_validate({"training": {"stages_from": {"b": "mine"}}})  # by the user, for all rows
    assert with_stages_from(named, {"b": "study-row"}).training.stages_from == {"b": "mine"}


ROW = {"name": "a", "label": "A", "recipe": {}}
STUDY = {"title": "T", "reference": "a", "scores": ["s_score"], "scored": "volumes", "rows": [ROW]}
PANEL = {"title": "P", "score": "dice_target", "axis": "x", "curves": {"k": {1: "b"}}}


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ({"scored": "tiles"}, "s_score is no score of train_metgan on tiles"),
        ({"scores": ["mae"]}, "mae is no score of train_metgan on volumes"),
        ({"job": "segment_folds"}, "segment_folds has no scores of whole volumes"),
        ({"rows": [{**ROW, "stages_from": {"s": "a"}}]}, "takes a stage from 'a', which is not above it"),
        ({"lines": [{"label": "L", "cells": {"s_score": "b"}}]}, "no row is called 'b'"),
        ({"lines": [{"label": "L", "cells": {}}]}, "lines.0.cells"),
        ({"figures": [{"name": "f", "title": "F", "panels": [PANEL]}]}, "no row is called 'b'"),
        ({"gaps": [{"label": "g", "score": "mae", "real": "a", "baseline": "a", "method": "a"}]}, "gaps.0.score"),
        (
            {"scored": "tiles", "scores": ["mae"], "lines": [{"label": "L", "cells": {"mae": "a"}}]},
            "lines, figures and gaps are of studies that are scored on volumes",
        ),
    ],
)
def test_a_study_of_volumes_that_cannot_be_is_refused_in_one_line(tmp_path, changes, culprit):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **changes}))
    with pytest.raises(UserError) as refusal:
        load_study(str(path))
    assert culprit in str(refusal.value)
    assert "\n" not in str(refusal.value)
