"""Paper 3's study as data: its steps and rows on presets, and its table of patients beside the paper's numbers."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from tile_sets import write_domains

from metgan_dist.errors import UserError
from metgan_dist.recipe import Scores
from metgan_dist.runs.command_line import JobFlag, parse_command
from metgan_dist.studies.case_table import case_table, tumour_table
from metgan_dist.studies.stepped import SteppedRun
from metgan_dist.studies.study import STUDIES, asked_study, load_study

JOBS = Path(__file__).resolve().parents[2] / "jobs"
OWN = [JobFlag(name, "X", "a flag of run_study.py") for name in ("study", "rows", "take")]
TUMOUR = "vestibular schwannoma"
ROW = {"name": "cyclegan_source", "label": "A", "recipe": {}}
PRINTED = {"patients": 2, "dice": [0.5] * 5, "assd": [1] * 5, "above": 1}


def planned(*arguments):
    asked = ["--study", "cross-modal", *arguments]
    command = parse_command("run_study.py", "Studies.", asked, OWN, several_methods=True)
    name, study = asked_study(command)
    return SteppedRun.planned(name, study, command, JOBS / "segment_volumes.py")


@pytest.mark.parametrize(("preset", "crop", "slices", "scale"), [("heads", 40, 256, 6), ("heads-small", 32, 128, 5)])
def test_all_steps_and_rows_have_the_presets_of_their_part(preset, crop, slices, scale):
    run = planned("--recipe", preset)
    assert list(run.recipes) == [
        *("crops", "slices", "source_segmentor", "target_segmentor", "cyclegan", "singan", "translated", "inserted"),
        *("pairs", "pix2pix", "plain_pairs", "plain_pix2pix", "inserted_crops", "direct_segmentor"),
        *("pseudo_labels", "pseudo_crops", "pseudo_segmentor"),
        *("cyclegan_source", "pix2pix_source", "plain_pix2pix_source", "untranslated", "direct", "pseudo"),
        "supervised",
    ]
    for name in ("crops", "source_segmentor", "direct_segmentor", "cyclegan_source"):
        assert (run.recipes[name].tiles.kind, run.recipes[name].tiles.shape[0]) == ("crop", crop)
    assert run.recipes["cyclegan"].tiles.shape == (slices, slices)
    assert run.recipes["cyclegan"].method.backbone == "resnet-9"
    assert run.recipes["singan"].tiles.shape == (slices, slices)
    # The paper's conditional GAN: its own loss weights, not those of the preset's CycleGAN.
    for name in ("pix2pix", "plain_pix2pix"):
        assert (run.recipes[name].method.name, run.recipes[name].method.alpha4) == ("pix2pix", 100)
    for name in ("cyclegan", "pix2pix", "plain_pix2pix"):
        assert not run.recipes[name].method.label_input  # of the target there are no labels
    assert (run.recipes["inserted"].insertion.tumour, run.recipes["inserted"].insertion.start_scale) == (TUMOUR, scale)
    segmentors = [run.recipes[f"{side}_segmentor"] for side in ("source", "target")]
    assert [one.segmentation.domain for one in segmentors] == ["source", "target"]
    assert {(one.method.segmentor_network, one.method.segmentor_loss) for one in segmentors} == {("dynunet", "ce-dice")}
    assert {step.job for step in run.study.steps} == {
        *("make_tiles", "train_segmentor", "train_metgan", "synthesize", "insert_tumours", "segment_volumes"),
    }


def test_a_row_alone_needs_its_own_steps():
    assert list(planned("--recipe", "heads-small", "--rows", "untranslated").recipes) == [
        *("crops", "source_segmentor", "untranslated"),
    ]


def result(dice, assd):
    units = {
        f"patient t2 {k}": {f"dice_target/{TUMOUR}": value, "dice_target/cochlea": 0.1}
        | ({} if far is None else {f"assd_target/{TUMOUR}": far})
        for k, (value, far) in enumerate(zip(dice, assd, strict=True))
    }
    return {"scores": {"test": {"per_unit": {"segmented": units}}}}


def test_patients_are_told_beside_the_papers_with_a_test_over_them():
    study = load_study("cross-modal")
    base, more = [0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], [0.1, 0.4, 0.6, 0.5, 0.82, 0.9, 0.8]
    results = {
        "cyclegan_source": result(base, [None, 4, 3, 2, 2, 1, 1]),
        "supervised": result(more, [9, 2, 1, 1, 1, 0.5, 0.5]),
    }
    text = case_table(study, results, Scores(resamples=100))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    # Mean 2.7 / 7; the middle of seven is 0.4, the quartiles lie between the second and third, the fifth and sixth.
    assert rows[2][1:8] == ["ours", "7", "0.39 ± 0.24 (0.25, 0.40, 0.55)", "2.2 ± 1.2 (2.8, 2.0, 1.2)", "1", "0", "-"]
    assert rows[3][1:8] == [
        "paper",
        "32",
        "0.46 ± 0.32 (0.13, 0.61, 0.70)",
        "8.4 ± 14.5 (4.8, 1.6, 1.0)",
        "-",
        "3",
        "-",
    ]
    assert rows[4][:3] == [study.row("pix2pix_source").label, "paper", "32"]
    assert rows[5][0] == study.row("supervised").label
    assert rows[5][6] == "2"  # above 0.8, not at it
    p = rows[5][7]
    assert p.endswith("(n = 7)")
    assert float(p.split()[0]) < 0.05
    assert f"against {study.row('cyclegan_source').label}" in text


def test_how_far_tumours_stand_out_is_told_step_by_step():
    scores = {"volumes": 13, "contrast": 1.5, "lost_contrast": 1, "contrast_before": 0.04, "lost_contrast_before": 12}
    text = tumour_table(scores | {"real_contrast": -1.25, "lost_real_contrast": 0, "real_tumours": 4})
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert rows[2:] == [
        ["translated into the target", "13", "0.04", "12"],
        ["harmonised", "13", "1.50", "1"],
        ["real ones of the target", "4", "-1.25", "0"],
    ]
    assert "within 0.5 of 0" in text


def test_labels_without_the_region_and_studies_without_the_table_are_told():
    study = load_study("cross-modal")
    other = {"scores": {"test": {"per_unit": {"segmented": {"patient 1": {"dice_target": 1.0}}}}}}
    assert f"No row has a score of the region '{TUMOUR}'" in case_table(study, {"untranslated": other}, Scores())
    assert case_table(load_study("stroke"), {}, Scores()) == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tree: tree.update(steps=[], tiles=None, rows=[ROW]), "segment_volumes scores what steps have trained"),
        (
            lambda tree: tree["cases"]["paper"].update(nobody=tree["cases"]["paper"]["cyclegan_source"]),
            "no row is called",
        ),
        (lambda tree: tree["cases"].update(inserted="pairs"), "no step of insert_tumours is called 'pairs'"),
        (lambda tree: tree["steps"][0].update(name="data"), "'data' is the study's data set; use another name"),
        (lambda tree: tree.update(job="train_metgan"), "tiles: names the step"),
        (lambda tree: tree.update(scores=["mae"]), "mae is no score of segment_volumes on volumes"),
    ],
)
def test_a_study_that_does_not_fit_together_is_a_line(tmp_path, change, said):
    tree = yaml.safe_load((STUDIES / "cross-modal.yaml").read_text())
    change(tree)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError, match=said) as caught:
        load_study(str(tmp_path / "mine.yaml"))
    assert "\n" not in str(caught.value)


def test_what_the_insertion_would_refuse_is_told_before_anything_is_trained(mistake):
    small = ("--recipe", "heads-small")
    with mistake("--study: step inserted: insertion.start_scale: start scale 8: the pyramid has scales 1 to 7"):
        planned(*small, "--insertion.start_scale", "8")
    with mistake("--study: step inserted: insertion.tumour: 'meningioma' is no class", f"{TUMOUR}, cochlea"):
        planned(*small, "--insertion.tumour", "meningioma")


def test_the_slice_that_is_learned_must_be_trained_on(tmp_path, mistake):
    tiles = write_domains(tmp_path / "t", source=("train",) * 4, target=("train",) * 2 + ("test",) * 2)
    held = tiles.index[(tiles.index["domain"] == "mr") & (tiles.index["split"] == "test")].iloc[0]
    works = SimpleNamespace(tiles=lambda name: tiles)
    for volume, said in (("nobody", "is not there"), (held["volume"], "is held out")):
        run = planned("--recipe", "heads-small", "--method.volume", volume, "--method.plane", str(held["plane"]))
        with mistake("--study: step singan: method.", said):
            run._check_images(works, ["crops", "slices"])
        run._check_images(works, ["crops"])  # taken from elsewhere
