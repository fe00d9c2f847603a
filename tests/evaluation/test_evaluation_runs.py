"""Which runs may be compared: finished trainings on the same test tiles, and every refusal in one line."""

import json

import mlflow
import pytest
from mlflow_store import make_store
from pydantic import ValidationError

from metgan_dist.errors import UserError
from metgan_dist.evaluation.evaluation import Evaluation
from metgan_dist.evaluation.runs import digest_of_test, find_runs, shared_test_tiles
from metgan_dist.recipe import Recipe, Tracking
from metgan_dist.runs.command_line import Command
from metgan_dist.tracking import start_run


@pytest.fixture
def recipe(tmp_path):
    return Recipe.model_validate({"storage": {"path": str(tmp_path / "runs")}})


def test_runs_are_found_by_name_folder_and_mlflow_id(recipe, write_run, write_tiles, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tiles = write_tiles()
    first, second = write_run("first", tiles), write_run("second", tiles, method="pix2pix")
    elsewhere = write_run("third", tiles, method="cyclegan").rename(tmp_path / "elsewhere")
    uri = make_store(tmp_path / "runs" / "mlflow.db")
    run_id = start_run(uri, Tracking(), "third", {"folder": str(elsewhere)})
    runs = find_runs(["first", str(second), run_id], recipe)
    assert [run.label for run in runs] == ["metgan", "pix2pix", "cyclegan"]
    assert [run.folder for run in runs] == [str(first), str(second), str(elsewhere)]
    mlflow.MlflowClient(uri).delete_tag(run_id, "folder")
    with pytest.raises(UserError, match="does not say where"):
        find_runs([run_id], recipe)


def test_runs_of_one_method_are_told_apart_by_name(recipe, write_run, write_tiles):
    tiles = write_tiles()
    for name in ("short", "long"):
        write_run(name, tiles)
    assert [run.label for run in find_runs(["short", "long"], recipe)] == ["short", "long"]


def test_what_is_no_finished_training_is_refused(recipe, write_run):
    write_run("tiles", None, job="make_tiles")
    write_run("broken", None, status="failed", reason="step 3: not finite")
    (write_run("running", None) / "result.json").unlink()
    write_run("old", None, recipe={"method": {"alpha9": 1}})
    write_run("twice", None)
    for names, *culprits in (
        [[], "--runs"],
        [["nosuch"], "nosuch", "no such run"],
        [["tiles"], "tiles", "make_tiles"],
        [["broken"], "broken", "step 3: not finite"],
        [["running"], "running", "not finished"],
        [["old"], "old", "another version", "method.alpha9"],
        [["twice", "twice"], "twice"],
    ):
        with pytest.raises(UserError) as refusal:
            find_runs(names, recipe)
        assert "\n" not in str(refusal.value)
        assert all(culprit in str(refusal.value) for culprit in culprits), str(refusal.value)


def test_shuffled_training_labels_leave_the_test_the_same(write_tiles):
    clean, shuffled = write_tiles(), write_tiles(shuffled=True)
    assert clean.digest != shuffled.digest
    assert digest_of_test(clean) == digest_of_test(shuffled)
    assert digest_of_test(clean) == digest_of_test(write_tiles(train=2))
    assert digest_of_test(write_tiles(test=4)) != digest_of_test(clean)
    assert digest_of_test(write_tiles(volumes=1)) != digest_of_test(clean)


def test_only_runs_with_the_same_test_tiles_are_compared(recipe, write_run, write_tiles):
    write_run("clean", write_tiles())
    write_run("shuffled", write_tiles(shuffled=True))
    write_run("smaller", write_tiles(test=4))
    task, rows = shared_test_tiles(find_runs(["clean", "shuffled"], recipe), recipe)
    assert task.tiles.manifest["data"]["shuffled_labels"] == 0
    assert rows.tolist() == [2, 3, 4, 5, 6]
    with pytest.raises(UserError, match="clean and smaller were scored on different test tiles"):
        shared_test_tiles(find_runs(["clean", "shuffled", "smaller"], recipe), recipe)


def test_channels_and_classes_must_be_those_of_the_tiles(recipe, write_run, write_tiles):
    write_run("channels", write_tiles(anatomy="nuclei"))
    write_run("classes", write_tiles(classes=3))
    with pytest.raises(UserError, match=r"data.anatomy: run channels .*'autofluorescence'.*'nuclei'"):
        shared_test_tiles(find_runs(["channels"], recipe), recipe)
    with pytest.raises(UserError, match=r"data.classes: run classes .*2.*3"):
        shared_test_tiles(find_runs(["classes"], recipe), recipe)


def test_only_methods_of_one_task_are_compared(recipe, write_run, write_tiles, mistake):
    tiles = write_tiles()
    for name, method in (("pairs", "metgan"), ("labels", "spade"), ("apart", "cyclegan"), ("finder", "segmentor")):
        write_run(name, tiles, method=method)
    task, _ = shared_test_tiles(find_runs(["apart", "pairs", "labels"], recipe), recipe)
    assert task.name == "paired"  # these tiles are pairs, also for a method that trains without
    with mistake("--runs: pairs is scored by mae,", "finder (segmentor) by dice; only methods of one task"):
        shared_test_tiles(find_runs(["pairs", "finder"], recipe), recipe)


def test_a_test_needs_two_tiles_and_two_volumes_where_these_are_compared(recipe, write_run, write_tiles):
    write_run("one", write_tiles(test=1))
    write_run("alone", write_tiles(volumes=1))
    with pytest.raises(UserError, match=r"1 test tile\(s\)"):
        shared_test_tiles(find_runs(["one"], recipe), recipe)
    by_volume = Recipe.model_validate({**json.loads(recipe.model_dump_json()), "scores": {"group": "volume"}})
    with pytest.raises(UserError, match=r"scores.group.*1 volume"):
        shared_test_tiles(find_runs(["alone"], by_volume), by_volume)
    shared_test_tiles(find_runs(["alone"], recipe), recipe)  # blocks of the one volume


def test_runs_of_versions_that_paired_single_tiles_are_still_read(recipe, write_run, write_tiles):
    tree = {**json.loads(recipe.model_dump_json()), "scores": {"group": "tile"}}
    write_run("older", write_tiles(), recipe=tree)
    (run,) = find_runs(["older"], recipe)
    assert run.recipe.scores.group == "auto"
    with pytest.raises(ValidationError, match=r"scores.group"):
        Recipe.model_validate({"scores": {"group": "tiles"}})


def test_missing_tiles_are_named(recipe, write_run):
    write_run("lost", None)
    with pytest.raises(UserError, match="gone"):
        shared_test_tiles(find_runs(["lost"], recipe), recipe)


def test_what_a_run_began_with_is_looked_at_before_it_is_scored(recipe, write_run, write_tiles, checkpoint, mistake):
    tiles = write_tiles()
    folder, start = write_run("first", tiles), checkpoint("metgan")
    begun = {"uri": start, "sha256": "0" * 64, "method": "metgan", "run": None}
    (folder / "run.json").write_text(json.dumps({"start_from": begun}))
    command = Command(recipe, "quickstart", False, False, {}, {}, {"runs": ["first"]})
    with mistake("--runs: start of run first: state.pt of checkpoint", "replaced afterwards"):
        Evaluation.planned(command)


def test_a_run_from_when_a_recipe_had_the_fields_of_all_methods_is_compared(recipe, write_run, write_tiles):
    folder = write_run("old", write_tiles(), method="pix2pix")
    result = json.loads((folder / "result.json").read_text())
    result["recipe"]["method"] |= {"alpha2": 10.0, "kl": 0.05, "latent": 256, "organs": []}
    (folder / "result.json").write_text(json.dumps(result))
    (run,) = find_runs(["old"], recipe)
    assert (run.label, run.recipe.method.alpha4) == ("pix2pix", 100)
