"""Paper 4's table from rows whose test Dice was noted after each epoch: windows, patients, marks, and the figures."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_studies_downstream import logged_run
from test_studies_stepped import command
from tile_sets import write_set

from metgan_dist.recipe import Recipe
from metgan_dist.segmentation.cells import Example
from metgan_dist.segmentation.epochs import ARTEFACTS
from metgan_dist.studies import epoch_pictures
from metgan_dist.studies.epoch_pictures import by_class, example_tiles
from metgan_dist.studies.epoch_report import Trained, report_epochs
from metgan_dist.studies.study import asked_study, load_study
from metgan_dist.studies.works import Works

VOLUMES = ("dice", "f1", "volume_difference", "count_difference", "false_positive_volume")


def write_row(folder, dice, patients=8, negative=2, every=1):
    """A row's result whose mean test Dice after epoch k is dice[k - 1]; patient p has p hundredths more than the first.

    Of the volumes without a lesion the first has something found in it.
    """
    folder.mkdir(parents=True)
    names = [f"v{p}" for p in range(patients)]
    offset = np.arange(patients) / 100
    frames, curves = [], []
    for epoch, value in enumerate(dice, 1):
        own = value - offset.mean() + offset
        ill = pd.DataFrame({"volume": names, "patient": [f"patient p{p}" for p in range(patients)], "voxels": 50})
        well = pd.DataFrame({"volume": [f"n{k}" for k in range(negative)], "patient": "patient n", "voxels": 0})
        table = pd.concat([ill.assign(dice=own, found=50), well.assign(dice=1.0, found=[7, *[0] * (negative - 1)])])
        frames.append(table.assign(fold=0, images=10 * epoch, epoch=float(epoch * every)))
        curve = {"train_dice": value, "train_loss": 1 - value, "test_dice": value, "test_loss": 1 - value}
        curves.append({"fold": 0, "images": 10 * epoch, "epoch": float(epoch * every), **curve})
    pd.DataFrame(curves).to_csv(folder / "epochs.csv", index=False)
    pd.concat(frames).to_parquet(folder / "epoch-volumes.parquet")
    scored = {name: {"mean": 0.5, "min": 0.4, "max": 0.6} for name in VOLUMES}
    test = {"volumes": {"volumes": patients + negative, "without_lesions": negative, "unit": "ml", **scored}}
    test |= {name: {"mean": 0.75, "min": 0.7, "max": 0.8} for name in ("precision", "recall")}
    return {
        "status": "finished",
        "scores": {"test": test},
        "artefacts": {
            **{name: str(folder / file) for file, name in ARTEFACTS.items()},
            **{"samples": {"real": 14, "synthetic": 0}, "images": 10 * len(dice)},
        },
        "resources": {"seconds": 60.0},
    }


def reported(tmp_path, monkeypatch, dice, failed=None, patients=8):
    """The open run after the report of rows with these Dice by epoch."""
    monkeypatch.setattr(epoch_pictures, "_intensities", lambda works: None)
    monkeypatch.setattr(epoch_pictures, "_examples", lambda opened, works, shown: {})
    asked = command()
    study = asked_study(asked)[1]
    opened = logged_run(tmp_path / "mine", Recipe.model_validate({"scores": {"resamples": 100}}))
    works = Works(study, asked, study.recipes(asked), opened, "", {}, Path("jobs"), 1)
    results = {name: write_row(tmp_path / name, own, patients) for name, own in dice.items()}
    report_epochs(opened, works, results, failed or {}, "stroke")
    return opened


def cells_of(text, first):
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {first} "))
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_a_mean_is_over_the_last_fifth_of_the_studys_epochs_whatever_came_before(tmp_path, monkeypatch):
    dice = [0.9, *[0.1] * 15, 0.2, 0.3, 0.4, 0.5]  # of 20 epochs the last four
    opened = reported(tmp_path, monkeypatch, {"clinical": dice})
    own = opened.result.scores["test"]["clinical"]
    assert own["mean"] == pytest.approx(35)
    assert own["std"] == pytest.approx(np.std([20, 30, 40, 50], ddof=1))
    assert own["max"] == pytest.approx(50)
    text = opened.kept["stroke/table.md"].decode()
    header = cells_of(text, "data set")
    assert header[1:3] == ["baseline ↑", "paper"]
    first = next(line for line in text.splitlines() if line.startswith("| clinical "))
    assert [cell.strip() for cell in first.split("|")[2:4]] == ["**35.0 ± 12.9**", "68.7 ± 2.3"]
    row = next(line for line in text.splitlines() if line.startswith("| clinical ") and "17-20" in line)
    assert [cell.strip() for cell in row.split("|")[3:8]] == ["35.0 ± 12.9", "50.0", "68.7 ± 2.3", "73.9", "17-20"]


def test_synthetic_alone_is_taken_after_a_tenth_of_the_epochs_as_the_paper_does(tmp_path):
    study = load_study("stroke")
    recipe = study.recipes(command("--rows", "only_spade"))["only_spade"]
    assert recipe.segmentation.epochs == 12  # of a study of 20
    dice = [0.0, 0.0, 0.3, 0.4, 0.5, 0.6, *[0.0] * 6]
    trained = Trained.of(study.row("only_spade"), recipe, write_row(tmp_path / "a", dice), 0.2)
    assert trained.window == (2, 6)
    assert trained.dice == pytest.approx([30, 40, 50, 60])
    short = Trained.of(study.row("only_spade"), recipe, write_row(tmp_path / "b", [0.1, 0.2]), 0.2)
    assert short.dice == pytest.approx([10, 20])  # of a training that ended before that, what there is
    tuned = study.recipes(command("--rows", "spade_10"))["spade_10"]
    last = Trained.of(study.row("spade_10"), tuned, write_row(tmp_path / "c", np.arange(6) / 10), 0.2)
    assert last.dice == pytest.approx([20, 30, 40, 50])


def test_marks_rest_on_patients_and_are_left_out_below_six(tmp_path, monkeypatch):
    dice = {"clinical": [0.5] * 20, "with_spade": [0.7] * 12, "only_spade": [0.3] * 12}
    opened = reported(tmp_path / "eight", monkeypatch, dice)
    text = opened.kept["stroke/table.md"].decode()
    assert "of 8 independent patients" in text
    assert "2 further test volumes have no lesion (DWI-negative)" in text
    assert "70.0 ± 0.0**†" in text
    assert r"30.0 ± 0.0\*" in text
    assert "better than 'clinical': paired t-test over 8 patients" in text
    few = reported(tmp_path / "five", monkeypatch, dice, patients=5).kept["stroke/table.md"].decode()
    assert "†" not in few
    assert "fewer than 6 independent patients" in few


def test_what_is_found_in_volumes_without_lesions_is_counted(tmp_path, monkeypatch):
    text = reported(tmp_path, monkeypatch, {"clinical": [0.5] * 20}).kept["stroke/table.md"].decode()
    header = next(line for line in text.splitlines() if line.startswith("| By volume"))
    assert "False-positive volume (ml)" in header
    line = text.splitlines()[text.splitlines().index(header) + 2]
    assert [cell.strip() for cell in line.split("|")[-3:-1]] == ["2", "1"]


def test_rows_that_failed_are_told_and_files_are_for_other_programs(tmp_path, monkeypatch):
    dice = {"clinical": [0.5] * 20, "with_pix2pix10": [0.6] * 12}
    opened = reported(tmp_path, monkeypatch, dice, {"with_spade": "SPADE, which it needs, failed"})
    text = opened.kept["stroke/table.md"].decode()
    assert "clinical + SPADE failed: SPADE, which it needs, failed" in text
    table = list(csv.DictReader(io.StringIO(opened.kept["stroke/table.csv"].decode())))
    added = next(line for line in table if line["data set"] == "+ all synthetic")
    assert float(added["Pix2Pix10"]) == pytest.approx(60)
    assert (float(added["Pix2Pix10_std"]), float(added["Pix2Pix10_paper"])) == (0, 79.4)
    rows = pd.read_csv(io.BytesIO(opened.kept["stroke/rows.csv"])).set_index("row")
    assert rows.loc["with_pix2pix10", ["mean", "paper_epoch_dice_max"]].tolist() == pytest.approx([60, 82.6])
    assert pd.read_csv(io.BytesIO(opened.kept["stroke/epochs.csv"]))["row"].unique().tolist() == list(dice)
    for name in ("figure-4", "figure-5", "figure-7"):
        assert opened.kept[f"stroke/{name}.png"].startswith(b"\x89PNG")
    assert r"\begin{tabular}" in opened.kept["stroke/table.tex"].decode()
    json.dumps(opened.result.scores)


def test_intensities_are_those_of_each_class_without_the_volumes_left_out(tmp_path):
    tiles = write_set(tmp_path, anatomy="", classes=3)
    tiles.manifest["data"]["labels"] = {"1": "white matter", "2": "lesion"}
    found = by_class(tiles, {"v0", "v1"})
    rows = [row for row in tiles.positions("train") if tiles.index["volume"].iloc[row] in ("v2", "v3")]
    loaded = [tiles.load(row) for row in rows]
    for number, name in ((1, "white matter"), (2, "lesion")):
        voxels = np.concatenate([(tile["tumour"][0][tile["label"] == number] + 1) / 2 for tile in loaded])
        assert sorted(found[name]) == pytest.approx(sorted(voxels))
    assert len(found["all tissues"]) == len(found["white matter"]) + len(found["lesion"])
    assert found["all tissues"].min() >= 0
    assert found["all tissues"].max() <= 1


def test_examples_are_chosen_by_the_truth_alone(tmp_path):
    tiles = write_set(tmp_path, test=8)
    truth = {"volume": ["v0", "v1", "v2", "v3"], "voxels": [9, 30, 12, 0], "lesions": [3, 1, 3, 0]}
    chosen = example_tiles(tiles, pd.DataFrame({**truth, "dice": [0.9, 0.1, 0.5, 1.0]}))
    assert list(chosen) == ["largest lesion: v1", "most lesions: v0"]
    for name, row in chosen.items():
        own = tiles.index.iloc[tiles.positions("test")]
        mine = own[own["volume"] == name[-2:]]
        assert row == mine["foreground"].idxmax()
    assert example_tiles(tiles, pd.DataFrame({**truth, "voxels": [0] * 4, "dice": [1.0] * 4})) == {}


def test_segmented_volumes_have_the_dice_of_the_whole_volume(tmp_path, monkeypatch):
    tiles = write_set(tmp_path / "tiles", test=8)
    rows = {name: write_row(tmp_path / name, [0.5]) for name in ("clinical",)}
    scores = {"fold": [0] * 4, "split": ["test"] * 4, "volume": ["v0", "v1", "v2", "v3"]}
    scores |= {"lesions": [1, 3, 1, 1], "voxels": [90, 30, 12, 5], "dice": [0.25, 0.5, 0.1, 0.2]}
    pd.DataFrame(scores).to_csv(tmp_path / "volumes.csv", index=False)
    asked, shown = [], {}

    def predicted(checkpoint, of, wanted, plan):
        asked.append(checkpoint)
        label = np.ones((4, 8, 8), int)
        return {row: Example(np.zeros((4, 8, 8)), label, label, label) for row in wanted}

    monkeypatch.setattr(epoch_pictures, "predict_tiles", predicted)
    monkeypatch.setattr(epoch_pictures, "segmented_volumes", lambda drawn, title: shown.update(drawn) or b"png")
    artefacts = {"checkpoints": {"0": "best"}, "volumes_csv": str(tmp_path / "volumes.csv")}
    study = load_study("stroke")
    recipe = study.recipes(command())["clinical"]
    result = rows["clinical"] | {"artefacts": {**rows["clinical"]["artefacts"], **artefacts}}
    trained = Trained.of(study.row("clinical"), recipe, result, 0.2)
    opened = logged_run(tmp_path, Recipe())
    works = Works(study, command(), {}, opened, "", {"crops": str(tmp_path / "crops")}, Path("jobs"), 1)
    monkeypatch.setattr(Works, "tiles", lambda self, name: tiles)
    files = epoch_pictures._examples(opened, works, {"clinical": trained})
    assert files == {"figure-8.png": b"png"}
    assert asked == ["best"]
    dice = {name: own["clinical"].dice for name, own in shown.items()}
    assert dice == {"largest lesion: v0": 0.25, "most lesions: v1": 0.5}
