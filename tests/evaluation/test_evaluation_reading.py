"""A filled-in reader sheet scored against its answers, and sheets that cannot be."""

import pytest

from metgan_dist.evaluation.reading import ANSWERS, Reading
from metgan_dist.recipe import Recipe
from metgan_dist.runs.command_line import Command

TRUTH = ["inserted", "real", "inserted", "real", "inserted", "real"]


def write(folder, answers, separator=","):
    """A sheet with some answers, and the truth beside its folder: two slices a patient, of the last volume none."""
    (folder / "reader").mkdir(parents=True, exist_ok=True)
    names = [f"slice-{k:03d}.png" for k in range(1, 7)]
    rows = [
        f"{name},{truth},v{k // 2},{f'p{k // 2}' if k < 4 else ''},3"
        for k, (name, truth) in enumerate(zip(names, TRUTH, strict=True))
    ]
    (folder / ANSWERS).write_text("\n".join(["slice,truth,volume,patient,plane", *rows]))
    filled = [separator.join(pair) for pair in zip(names, answers, strict=False)]
    (folder / "reader" / "sheet.csv").write_text("\n".join([f"slice{separator}answer", *filled]))
    return folder / "reader" / "sheet.csv"


def planned(filled, **own):
    flags = {"runs": [], "sheet": [str(filled)], "answers": [], **own}
    return Reading.planned(Command(Recipe(), "x", False, False, own=flags))


def test_answers_are_counted_and_those_that_cannot_be_read_are_named(tmp_path):
    sheet = write(tmp_path, ["inserted", "Real ", "real", "inserted", "", "perhaps"])
    reading = planned(sheet)
    scores = reading.scores
    assert (scores["accuracy"]["right"], scores["accuracy"]["of"]) == (2, 4)
    assert (scores["sensitivity"]["value"], scores["specificity"]["value"]) == (0.5, 0.5)
    assert scores["accuracy"]["low"] == pytest.approx(0.0676, abs=1e-4)
    assert reading.unread == ("slice-005.png (empty)", "slice-006.png (perhaps)")
    assert (scores["slices"], scores["unread"], scores["patients"]) == (4, 2, 2)


def test_a_spreadsheets_semicolons_and_missing_rows_are_understood(tmp_path):
    reading = planned(write(tmp_path, TRUTH[:5], separator=";"))
    assert reading.scores["accuracy"]["value"] == 1
    assert reading.unread == ("slice-006.png (empty)",)
    assert reading.scores["patients"] == 3


def test_answers_may_lie_elsewhere(tmp_path):
    sheet = write(tmp_path, TRUTH)
    elsewhere = tmp_path / "truth.csv"
    (tmp_path / ANSWERS).rename(elsewhere)
    assert planned(sheet, answers=[str(elsewhere)]).scores["accuracy"]["value"] == 1


@pytest.mark.parametrize(
    ("change", "own", "said"),
    [
        (None, {"runs": ["one"]}, "--runs: a reader sheet is scored by itself"),
        (None, {"sheet": []}, "--sheet: name one file"),
        (None, {"sheet": ["nowhere.csv"], "answers": [ANSWERS]}, "--sheet: "),
        (None, {"answers": ["nowhere.csv"]}, "--answers: "),
        (lambda text: text.replace("answer", "said"), {}, "--sheet: "),
        (lambda text: text.replace("slice-002", "slice-001"), {}, "--sheet: "),
        (lambda text: text.replace("slice-002", "slice-009"), {}, "--sheet: "),
        (lambda text: text.replace("real", "").replace("inserted", "x"), {}, "--sheet: "),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(tmp_path, mistake, monkeypatch, change, own, said):
    sheet = write(tmp_path, TRUTH)
    monkeypatch.chdir(tmp_path)
    if change is not None:
        sheet.write_text(change(sheet.read_text()))
    with mistake(said):
        planned(sheet, **own)
