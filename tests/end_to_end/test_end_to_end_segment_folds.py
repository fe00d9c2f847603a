"""Folds on real and synthetic tiles as a user trains them: tables, files, MLflow, the second start, and refusals."""

import json
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from tile_sets import write_set
from user import refused, run_here

from metgan_dist.lineage import Tissue
from metgan_dist.segmentation import datasets
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.trained import checkpoint_digest, load_method

pytestmark = pytest.mark.usefixtures("ray_cluster")

SMALL = {
    "tiny": False,
    "tracking__run": "mine",
    "tracking__patience": 5,
    "segmentation__width": 0.05,
    "segmentation__max_steps": 4,
    "segmentation__learning_rate": 0.01,
    "segmentation__pictures": 2,
    "training__validate_tiles": 4,
    "scaling__workers": 0,
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """(storage, real tiles, synthetic tiles)."""
    storage = tmp_path_factory.mktemp("folds")
    real = write_set(storage / "real", unseen=3)
    return storage, real, write_set(storage / "made", train=36, val=0, test=0, synthesis={}, source=real, seed=1)


def mixed(storage, real, made, **fields):
    """Two of four folds, on half of the real tiles and eight synthetic ones."""
    chosen = {"data__path": real.uri, "segmentation__datasets": made.uri, "segmentation__folds": "0,2"}
    amounts = {"segmentation__real": 0.5, "segmentation__synthetic": 8}
    with pytest.MonkeyPatch.context() as patch:
        # These tiles were written by a test, not by a run whose chain could be followed.
        trained_on = Tissue.of(real, real.positions("train")[::2])
        patch.setattr(datasets, "check_untouched", lambda *_: (trained_on,))
        return run_here("segment_folds", storage / "runs", **{**SMALL, **chosen, **amounts, **fields})


@pytest.fixture(scope="module")
def finished(sets):
    done = mixed(*sets)
    assert done.code == 0, done.out + done.err
    return done


def test_each_fold_trains_on_its_mixture_and_is_scored(finished, sets):
    storage, real, made = sets
    result = finished.result
    assert result["artefacts"]["samples"] == {"real": 9, "synthetic": 8}
    assert "folds: 2 to train, 1 at once" in finished.out
    test = result["scores"]["test"]
    assert (test["tiles"], result["scores"]["unseen"]["tiles"]) == (6, 3)
    assert list(test["folds"]) == ["0", "2"]
    for name in ("dice", "precision", "recall", "jaccard", "voxel_dice", "found", "false_positives"):
        values = [test["folds"][fold][name] for fold in ("0", "2")]
        assert test[name] == {"mean": pytest.approx(sum(values) / 2), "min": min(values), "max": max(values)}
    for fold in ("0", "2"):
        mixture = TileSet.open(str(storage / "runs" / "mine" / "tiles" / f"fold-{fold}"))
        assert [part.digest for part in mixture.parts] == [real.digest, made.digest]
        assert mixture.manifest["counts"]["train"] == 17
        own = json.loads(Path(result["artefacts"]["folds"][fold], "result.json").read_text())
        assert own["artefacts"]["tiles"] == mixture.uri
        assert own["artefacts"]["best_checkpoint"] == result["artefacts"]["checkpoints"][fold]
        assert own["artefacts"]["images"] == 16
        assert (own["recipe"]["method"]["segmentor_width"], own["recipe"]["training"]["seed"]) == (0.05, int(fold))


def test_files_hold_what_was_found(finished):
    artefacts = finished.result["artefacts"]
    scores = pd.read_csv(artefacts["scores_csv"])
    row = scores[(scores["split"] == "test") & (scores["score"] == "recall")].iloc[0]
    assert row["mean"] == pytest.approx(finished.result["scores"]["test"]["recall"]["mean"])
    lesions = pd.read_parquet(artefacts["lesions_parquet"])
    assert set(lesions["fold"]) == {0, 2}
    assert set(lesions["split"]) == {"test", "unseen"}
    assert len(lesions) == 2 * sum(finished.result["scores"][split]["lesions"] for split in ("test", "unseen"))
    assert len(pd.read_parquet(artefacts["tiles_parquet"])) == 2 * (6 + 3)
    assert len(pd.read_parquet(artefacts["places_parquet"])) == 2 * (6 + 3)
    text = Path(artefacts["report_md"]).read_text()
    assert text.strip() in finished.out
    assert "in 6 planes, on 6 test tiles of 4 volume(s), 2 fold(s); trained on 9 real and 8 synthetic tiles" in text
    assert "validate it: 27 (fold 0), 27 (fold 2)." in text
    assert "generator was trained on: 6 of 6 (fold 0), 6 of 6 (fold 2)." in text
    for split in ("test", "unseen"):
        assert Path(artefacts[f"overlays-{split}_png"]).read_bytes()[:4] == b"\x89PNG"


def test_mlflow_nests_the_folds_and_lists_every_set_as_input(finished, sets):
    _, real, made = sets
    result = finished.result
    client = mlflow.MlflowClient(result["tracking_uri"])
    parent = client.get_run(result["mlflow_run_id"])
    nested = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{result['mlflow_run_id']}'")
    assert {run.info.run_name for run in nested} == {"mine-fold-0", "mine-fold-2"}
    for run in (parent, *nested):
        inputs = {entry.dataset.digest: entry.tags[0].value for entry in run.inputs.dataset_inputs}
        assert inputs[real.digest[:36]] == inputs[made.digest[:36]] == "training"
    assert parent.data.metrics["test/dice/mean"] == pytest.approx(result["scores"]["test"]["dice"]["mean"])
    assert "test/strata/area/1/recall/mean" in parent.data.metrics
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} >= {"report.md", "overlays-test.png"}


def test_started_again_it_trains_only_the_fold_that_is_not_finished(finished, sets):
    place = Path(finished.result["artefacts"]["folds"]["2"], "result.json")
    place.write_text(json.dumps({**json.loads(place.read_text()), "status": "failed"}))
    again = mixed(*sets)
    assert again.code == 0, again.out + again.err
    assert "folds: 1 of 2 are finished already" in again.out
    assert "[fold 2] continuing run mine-fold-2" in again.out
    assert "[fold 0]" not in again.out
    assert again.result["mlflow_run_id"] == finished.result["mlflow_run_id"]
    assert again.result["scores"] == finished.result["scores"]


def test_what_cannot_be_done_is_refused_in_one_line(sets):
    storage, real, made = sets
    nothing = write_set(storage / "untested", test=0)
    other = write_set(storage / "other", train=12, val=0, test=0, synthesis={}, classes=3)
    for fields, *culprits in (
        ({"segmentation__folds": "0,9"}, "segmentation.folds", "no fold 9"),
        ({"segmentation__real": 0, "segmentation__synthetic": 0}, "segmentation.real", "nothing to train on"),
        ({"segmentation__datasets": storage / "gone"}, "segmentation.datasets", "gone"),
        ({"segmentation__datasets": other.uri}, other.uri, "data.classes"),
        ({"segmentation__synthetic": 10}, "segmentation.synthetic", "which has 9 for this fold"),
        ({"segmentation__real": 19}, "segmentation.real", "has 18"),
        ({"data__path": nothing.uri}, "data.path", "no test tiles"),
        ({"segmentation__width": 0.06}, "tracking.run", "segmentation.width"),
    ):
        done = mixed(storage, real, made, **fields)
        lines = done.err.strip().splitlines()
        assert (done.code, len(lines)) == (2, 1), done.out + done.err
        assert all(culprit in lines[0] for culprit in culprits), lines[0]


def test_a_dataset_without_a_chain_is_refused(sets):
    storage, real, made = sets
    chosen = {"data__path": real.uri, "segmentation__datasets": made.uri, "segmentation__synthetic": 4}
    done = run_here("segment_folds", storage / "runs", **{**SMALL, **chosen, "tracking__run": "other"})
    assert done.code == 2, done.out + done.err
    assert done.err.startswith("error: segmentation.datasets: ")
    assert not (storage / "runs" / "other").exists()


def test_folds_are_tuned_on_a_few_cases_from_the_last_models_of_another_run_that_saw_no_test_tile(finished, sets):
    storage, real, made = sets

    def folds(run, **fields):
        return mixed(storage, real, made, tracking__run=run, segmentation__synthetic=0, segmentation__real=1, **fields)

    base = folds("base", segmentation__validate_every=8)
    assert base.code == 0, base.out + base.err
    tuned = folds("tuned", segmentation__cases=2, training__start_from="base", training__start_checkpoint="last")
    assert tuned.code == 0, tuned.out + tuned.err
    for fold in ("0", "2"):
        begun, own = (Path(done.result["artefacts"]["folds"][fold]) for done in (base, tuned))
        last = json.loads((begun / "result.json").read_text())["artefacts"]["last_checkpoint"]
        start = json.loads((own / "run.json").read_text())["start_from"]
        assert (start["uri"], start["sha256"]) == (last, checkpoint_digest(last))
        assert start["run"] == json.loads((begun / "run.json").read_text())["mlflow_run_id"]
        mixture = TileSet.open(str(storage / "runs" / "tuned" / "tiles" / f"fold-{fold}"))
        assert mixture.index["volume"].iloc[mixture.positions("train")].nunique() == 2
    for fields, *culprits in (
        ({"segmentation__cases": 9}, "segmentation.cases: 9 cases asked, but the tiles to train on are of 3"),
        ({"training__start_from": "nobody"}, "training.start_from: ", "nobody: no checkpoint here"),
        ({"training__start_from": "base", "segmentation__width": 0.1}, "training.start_from: ", "segmentor_width"),
        ({"training__start_from": "base", "segmentation__folds": "0,1"}, "training.start_from: base has no fold 1"),
        # Its synthetic tiles come from nowhere that is known, so they may show the test tiles.
        ({"training__start_from": "mine"}, "training.start_from: ", "no run generated a set"),
    ):
        refused(folds("refused", **fields), *culprits)
        assert not (storage / "runs" / "refused").exists()


def test_the_test_volumes_are_noted_on_the_way_and_choose_nothing(sets):
    storage, real, made = sets
    asked = {"segmentation__validate_every": 8, "segmentation__folds": "2", "segmentation__max_steps": 6}
    noted = mixed(storage, real, made, tracking__run="noted", segmentation__test_every=2, **asked)
    assert noted.code == 0, noted.out + noted.err
    artefacts = noted.result["artefacts"]
    curves, volumes = pd.read_csv(artefacts["epochs"]), pd.read_parquet(artefacts["epoch_volumes"])
    # Of steps of four images and validations of eight each second one, and the end.
    assert curves["images"].tolist() == [16, 24]
    assert curves["epoch"].tolist() == [2, 3]
    assert curves.notna().all(axis=None)
    fold = json.loads(Path(artefacts["folds"]["2"], "result.json").read_text())
    method = load_method(fold["artefacts"]["last_checkpoint"])[0]
    last = volumes[volumes["images"] == 24].set_index("volume")
    found, true, both = (dict.fromkeys(last.index, 0) for _ in range(3))
    for row in real.positions("test"):
        tile, name = real.load(row), real.index["volume"].iloc[row]
        mask = method.translate({"tumour": torch.from_numpy(tile["tumour"])[None]})[0].numpy() > 0
        found[name] += int(mask.sum())
        true[name] += int((tile["label"] > 0).sum())
        both[name] += int((mask & (tile["label"] > 0)).sum())
    assert last["found"].to_dict() == found
    assert last["voxels"].to_dict() == true
    ill = [name for name in true if true[name]]
    dice = [2 * both[name] / (true[name] + found[name]) for name in ill]
    assert last.loc[ill, "dice"].tolist() == pytest.approx(dice)
    assert curves["test_dice"].iloc[-1] == pytest.approx(sum(dice) / len(dice))
    plain = mixed(storage, real, made, tracking__run="plain", **asked)
    assert "epochs" not in plain.result["artefacts"]
    assert plain.result["scores"] == noted.result["scores"]
    same = json.loads(Path(plain.result["artefacts"]["folds"]["2"], "result.json").read_text())
    assert Path(same["artefacts"]["best_checkpoint"]).name == Path(fold["artefacts"]["best_checkpoint"]).name


def test_all_synthetic_tiles_are_those_that_a_fold_may_train_on(sets):
    storage, real, made = sets
    done = mixed(storage, real, made, tracking__run="every", segmentation__synthetic="all", segmentation__max_steps=1)
    assert done.code == 0, done.out + done.err
    assert done.result["artefacts"]["samples"]["synthetic"] == 9
