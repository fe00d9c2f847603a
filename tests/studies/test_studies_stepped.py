"""Studies with steps: what is refused before any work or before any training, and what a step takes of others."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from brain_sets import recipe_of, write_brains
from test_studies_downstream import logged_run
from tile_sets import write_set
from two_domains import cut_here

from metgan_dist.errors import UserError
from metgan_dist.recipe import Data
from metgan_dist.runs.command_line import JobFlag, parse_command
from metgan_dist.studies.stepped import SteppedRun, check_one_split
from metgan_dist.studies.study import STUDIES, asked_study
from metgan_dist.studies.works import Works, on_sides_of, taken_runs
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.volumes.dataset import resolve_data, volume_refs
from metgan_dist.volumes.volume import whole

OWN = [JobFlag(name, "X", "a flag of run_study.py") for name in ("study", "rows", "take")]
JOBS = Path(__file__).resolve().parents[2] / "jobs"


def command(*arguments, study="stroke", recipe="stroke-small"):
    fixed = ["--study", str(study), "--recipe", str(recipe)]
    return parse_command("run_study.py", "Studies.", [*fixed, *arguments], OWN, several_methods=True)


def planned(*arguments, **named):
    asked = command(*arguments, **named)
    name, study = asked_study(asked)
    return SteppedRun.planned(name, study, asked, JOBS / "segment_folds.py")


def test_a_recipe_without_presets_of_the_parts_is_refused(mistake):
    with mistake("--recipe quickstart: the study stroke has the parts slices, masks, crops, and presets of them for"):
        planned(recipe="quickstart")


def test_more_clinical_cases_than_there_are_is_told_before_any_work(mistake):
    with mistake("--study: step ", "row pix2pix10_50 asks for 50 clinical cases", "20 patients with a lesion"):
        planned("--data.phantom.volumes", "40")
    assert planned("--data.phantom.volumes", "200").recipes["pix2pix10_50"].segmentation.cases == 50


@pytest.mark.parametrize(("healthy", "lacks"), [("0", "brain without a `lesion`"), ("1", "volume with a `lesion`")])
def test_data_without_healthy_brains_or_without_strokes_are_refused(mistake, healthy, lacks):
    with mistake("--study: step ", "data.path: the phantom: no ", lacks, "healthy: true"):
        planned("--rows", "with_spade", "--data.phantom.healthy", healthy)


def test_brains_that_are_held_out_do_not_count(tmp_path, mistake):
    folder = write_brains(tmp_path / "brains", healthy=1, stroke=3)  # of which the only healthy one is for tests
    with mistake("--study: step pix2pix10_volumes: data.path: ", "no brain without a `lesion`", "among 3 volume(s)"):
        planned("--rows", "with_pix2pix10", "--data.path", str(folder))


def test_what_a_steps_own_job_would_refuse_names_the_step(mistake):
    with mistake("--study: step slices: tiles.size: 65 is larger than volume 'phantom-0'"):
        planned("--rows", "with_pix2pix10", "--tiles.size", "65")
    with mistake("--study: step crops: /nowhere: not found"):
        planned("--rows", "clinical", "--data.path", "/nowhere")


@pytest.fixture
def brains(tmp_path):
    """Slices of five healthy brains and two strokes, one of the healthy held out; and where they lie."""
    folder = write_brains(tmp_path / "brains", healthy=5, stroke=2)
    return folder, cut_here(recipe_of(folder), tmp_path / "tiles")


def finished(folder, job, **artefacts):
    """The folder of a finished run."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"job": job, "mlflow_run_id": "1", "recipe": {}}))
    (folder / "result.json").write_text(json.dumps({"job": job, "status": "finished", "artefacts": artefacts}))
    return folder


def test_runs_that_are_taken_must_be_finished_ones_of_the_steps_job(tmp_path, mistake):
    storage = ("--storage.path", str(tmp_path))
    made = finished(tmp_path / "gan", "train_metgan")
    study = asked_study(command())[1]
    assert taken_runs(command(*storage, "--take", "masks=gan"), study) == {"masks": str(made)}
    assert taken_runs(command(*storage, "--take", f"masks={made}"), study) == {"masks": str(made)}
    for flag, *culprits in (
        ("masks", "--take: 'masks': write STEP=RUN; there are crops, slices"),
        ("mask=gan", "--take: 'mask=gan': write STEP=RUN"),
        ("masks=none", "--take: none: no finished run of train_metgan, which step 'masks' is"),
        ("drawn=gan", "--take: gan: no finished run of synthesize, which step 'drawn' is"),
    ):
        with mistake(*culprits):
            taken_runs(command(*storage, "--take", flag), study)


def works(tmp_path, brains, *arguments, taken=None):
    asked = command("--data.path", str(brains), *arguments)
    study = asked_study(asked)[1]
    opened = logged_run(tmp_path / "runs" / "mine", asked.recipe)
    return Works(study, asked, study.recipes(asked), opened, str(brains), taken or {}, JOBS, 2)


def test_a_step_has_the_split_of_the_tiles_that_it_names_and_takes_what_others_made(tmp_path, brains):
    folder, tiles = brains
    runs = tmp_path / "runs"
    finished(runs / "mine-crops", "make_tiles", tiles=tiles.uri)
    finished(runs / "mine-slices", "make_tiles", tiles=tiles.uri)
    finished(runs / "mine-drawn", "synthesize", dataset="/masks")
    finished(tmp_path / "elsewhere", "train_metgan", tiles=tiles.uri)
    made = works(tmp_path, folder, "--method.width", "0.125", taken={"spade": str(tmp_path / "elsewhere")})
    steps = {step.name: step for step in made.study.steps}
    slices = made._step(steps["slices"])
    sides = {entry.id: entry.split for entry in slices.data.volumes}
    assert sides == dict(tiles.index.groupby("volume")["split"].first())
    assert sides["h4"] == "test"
    pix2pix = made._step(steps["pix2pix100"])
    assert (pix2pix.data.path, pix2pix.method.alpha4, pix2pix.method.width) == (tiles.uri, 100, 0.125)
    assert pix2pix.method.judge == str(runs / "mine-judge")
    volumes = made._step(steps["spade_volumes"])
    assert (volumes.synthesis.model, volumes.synthesis.masks) == (str(tmp_path / "elsewhere"), "/masks")
    assert volumes.data.path == str(folder)
    with pytest.raises(UserError, match=r"mine-lesions: its result names no 'tiles'; take another run for 'lesions'"):
        made._step(steps["masks"])


def test_a_row_has_the_tiles_that_all_share_and_starts_from_another_rows_run(tmp_path, brains):
    folder, tiles = brains
    for name in ("crops", "spade_crops"):
        finished(tmp_path / "runs" / f"mine-{name}", "make_tiles", tiles=tiles.uri)
    made = works(tmp_path, folder)
    only, tuned = (made._row(made.study.row(name)) for name in ("only_spade", "spade_10"))
    assert (only.data.path, only.segmentation.datasets) == (tiles.uri, (tiles.uri,))
    assert tuned.training.start_from == str(tmp_path / "runs" / "mine-only_spade")
    assert tuned.segmentation.cases == 10
    needed = {name: set(made.needs(work)) for name, work in made.works.items()}
    assert needed["spade_10"] == {"crops", "only_spade"}
    assert needed["only_spade"] == {"crops", "spade_crops"}
    assert needed["masks"] == {"lesions"}


def test_labels_that_are_trained_on_are_a_data_set_of_masks(tmp_path, brains):
    folder, _ = brains
    tree = yaml.safe_load((folder / "dataset.yaml").read_text())
    tree["volumes"][-1]["split"] = "test"  # s1
    (folder / "dataset.yaml").write_text(yaml.safe_dump(tree))
    masks = {"label": "lesion", "tumour": ""}
    recipe = recipe_of(folder)
    recipe = recipe.model_copy(
        update={"data": resolve_data(Data.model_validate({"path": str(folder), "anatomy": "", **masks}))}
    )
    tiles = cut_here(
        recipe.model_copy(update={"tiles": recipe.tiles.model_copy(update={"min_foreground": 1})}), tmp_path / "m"
    )
    finished(tmp_path / "runs" / "mine-lesions", "make_tiles", tiles=tiles.uri)
    made = works(tmp_path, folder).value("lesions.training_labels")
    (ref,) = volume_refs(resolve_data(Data(path=made, anatomy="", tumour="")))
    assert (ref.id, ref.patient, ref.entry.path) == ("s0", "q0", None)
    volume = ref.open()
    lesion = volume.read("label", whole(volume))
    assert np.count_nonzero(lesion) == 32
    assert set(np.unique(lesion)) == {0, 1}


def test_tiles_of_a_volume_on_several_sides_give_no_split(tmp_path, brains):
    folder, tiles = brains
    tiles.index.loc[tiles.index.index[:2], "split"] = "test"
    with pytest.raises(UserError, match=r"tiles.split_by: volume '\w+' lies on several sides"):
        on_sides_of(recipe_of(folder), tiles)


def test_tiles_cut_with_another_split_are_refused(brains, mistake):
    _, tiles = brains
    other = replace_index(tiles, tiles.index.copy())
    check_one_split(tiles, {"slices": other})
    other.index.loc[other.index["patient"] == "p4", "split"] = "val"
    with mistake("--study: step masks: patient p4 is trained on in ", "and held out for the tests in ", "one split"):
        check_one_split(tiles, {"slices": tiles, "masks": other})


def replace_index(tiles, index):
    """The same tiles with another index, as it is read."""
    return TileSet(tiles.uri, tiles.manifest, tiles.digest, index, tiles.options)


def test_rows_are_checked_against_the_tiles_before_anything_is_trained(tmp_path, mistake):
    tiles = write_set(tmp_path / "t", anatomy="", volumes=8, folds=8, train=32, test=8)
    run = planned("--rows", "clinical,clinical_10", "--data.phantom.volumes", "200")
    rows = tiles.positions("test")
    with mistake("--study: row clinical_10: segmentation.cases: 10 cases asked, but the tiles to train on are of 7"):
        run._check_rows(tiles)
    tiles.index.loc[rows, "foreground"] = 0
    with mistake("data.path: none of the test volumes of ", "has a lesion, so there is no Dice"):
        run._check_rows(tiles)


def test_rows_of_a_study_with_steps_may_be_scored_as_others_are(tmp_path):
    """What is general of steps is no matter of strokes: two rows, one of synthetic tiles that a step has cut."""
    tree = {
        "title": "T",
        "job": "segment_folds",
        "reference": "real",
        "scores": ["dice"],
        "tiles": "cut",
        "steps": [
            {"name": "cut", "label": "tiles", "job": "make_tiles", "preset": "all"},
            {
                "name": "made",
                "label": "made",
                "job": "synthesize",
                "preset": "all",
                "takes": {"synthesis.tiles": "cut.tiles"},
            },
        ],
        "rows": [
            {"name": "real", "label": "Real", "recipe": {}},
            {"name": "both", "label": "Both", "recipe": {}, "takes": {"segmentation.datasets": ["made.dataset"]}},
        ],
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tree))
    run = planned(study=path, recipe="quickstart")
    assert list(run.recipes) == ["cut", "made", "real", "both"]
    assert (STUDIES / "stroke.yaml").is_file()
