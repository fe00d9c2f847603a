"""Paper 4's study as data: its rows and printed numbers, what each takes of whom, and how long rows train."""

import pytest
import yaml

from metgan_dist.errors import UserError
from metgan_dist.runs.command_line import JobFlag, parse_command
from metgan_dist.studies.study import STUDIES, asked_study, load_study

OWN = [JobFlag(name, "X", "a flag of run_study.py") for name in ("study", "rows", "take")]


def command(*arguments):
    return parse_command("run_study.py", "Studies.", ["--study", "stroke", *arguments], OWN, several_methods=True)


def test_table_1_is_the_papers():
    study = load_study("stroke")
    printed = {
        line.label: {title: study.paper(study.row(name)) for title, name in line.cells.items()}
        for line in study.epochs.table
    }
    means = {label: {title: own["epoch_dice"] for title, own in cells.items()} for label, cells in printed.items()}
    assert means == {
        "clinical": {"baseline": 68.7},
        "+ all synthetic": {"baseline": 70.8, "Pix2Pix10": 79.4, "Pix2Pix100": 73.5, "SPADE": 78.1},
        "synthetic": {"Pix2Pix10": 50.8, "Pix2Pix100": 58.0, "SPADE": 54.2},
        "+ 10 clinical": {"Pix2Pix10": 62.1, "Pix2Pix100": 65.1, "SPADE": 67.1},
        "+ 50 clinical": {"Pix2Pix10": 69.2, "Pix2Pix100": 73.7, "SPADE": 70.5},
        "10 clinical alone": {"baseline": 8.3},
        "50 clinical alone": {"baseline": 16.4},
    }
    assert printed["+ all synthetic"]["Pix2Pix10"] == {
        "epoch_dice": 79.4,
        "epoch_dice_std": 1.6,
        "epoch_dice_max": 82.6,
    }
    for row in study.rows:
        assert "epoch_dice_std" in row.paper, row.name


@pytest.mark.parametrize(("recipe", "lengths"), [("stroke", (500, 300, 150)), ("stroke-small", (20, 12, 6))])
def test_rows_train_as_long_as_the_papers_in_proportion(recipe, lengths):
    _, study = asked_study(command("--recipe", recipe))
    recipes = study.recipes(command("--recipe", recipe))
    epochs = {name: own.segmentation.epochs for name, own in recipes.items()}
    whole, with_synthetic, tuned = lengths
    assert (epochs["clinical"], epochs["clinical_10"]) == (whole, whole)
    assert {epochs[name] for name in epochs if name.startswith(("with", "only"))} == {with_synthetic}
    assert {epochs[name] for name in epochs if name.endswith(("0_10", "0_50")) or name in ("spade_10",)} == {tuned}
    for own in recipes.values():
        assert (own.segmentation.network, own.segmentation.patience) == ("unet-stroke", None)
        assert (own.segmentation.folds, own.segmentation.test_every) == ((0,), 1)
    amounts = {name: (own.segmentation.real, own.segmentation.synthetic) for name, own in recipes.items()}
    assert (amounts["clinical"], amounts["with_spade"], amounts["only_spade"]) == ((1, 0), (1, "all"), (0, "all"))
    assert (recipes["spade_10"].segmentation.cases, recipes["spade_50"].segmentation.cases) == (10, 50)
    assert recipes["spade_10"].training.start_checkpoint == "last"


def test_each_step_has_the_preset_of_its_part_and_its_own_method():
    asked = command("--recipe", "stroke-small", "--method.width", "0.5", "--method.critic_moves", "2")
    recipes = asked_study(asked)[1].step_recipes(asked)
    methods = {name: recipes[name].method for name in ("masks", "pix2pix10", "pix2pix100", "spade")}
    assert [own.name for own in methods.values()] == ["lesion_wgan", "pix2pix_stroke", "pix2pix_stroke", "spade_stroke"]
    assert (methods["pix2pix10"].alpha4, methods["pix2pix100"].alpha4) == (10, 100)
    assert {own.width for own in methods.values()} == {0.5}
    assert methods["masks"].critic_moves == 2
    kinds = {name: (own.tiles.kind, own.data.label) for name, own in recipes.items()}
    assert kinds["crops"] == kinds["spade_crops"] == ("crop", "lesion")
    assert kinds["slices"] == ("slice", ["tissue", "lesion"])
    assert recipes["crops"].tiles.folds == 10
    assert recipes["spade_volumes"].synthesis.least_lesion == recipes["lesions"].tiles.min_foreground == 3
    full = asked_study(command("--recipe", "stroke"))[1].step_recipes(command("--recipe", "stroke"))
    assert full["spade_volumes"].synthesis.least_lesion == full["lesions"].tiles.min_foreground == 20
    assert {own.training.batch_size for own in (full["masks"], full["pix2pix10"], full["spade"])} == {8}
    assert (full["masks"].training.epochs, full["spade"].training.epochs) == (500, 100)


def test_rows_bring_the_steps_and_rows_that_they_take_from_and_no_others():
    name, study = asked_study(command("--rows", "spade_10"))
    assert (name, [row.name for row in study.rows]) == ("stroke", ["only_spade", "spade_10"])
    assert [step.name for step in study.steps] == [
        *("crops", "slices", "lesions", "masks", "drawn", "judge", "spade"),
        *("spade_volumes", "spade_crops", "spade_slices"),
    ]
    assert [line.label for line in study.epochs.table] == ["synthetic", "+ 10 clinical"]
    assert list(study.epochs.intensities) == ["clinical", "SPADE"]
    alone = asked_study(command("--rows", "clinical"))[1]
    assert {"masks", "spade", "judge"}.isdisjoint(step.name for step in alone.steps)
    assert alone.reference == "clinical"


def test_copied_lesions_are_a_translator_without_training_and_asked_for_by_name():
    usual = asked_study(command())[1]
    assert "with_paste" not in [row.name for row in usual.rows]
    assert not [step.name for step in usual.steps if step.name.startswith("paste")]
    study = asked_study(command("--rows", "clinical,with_paste"))[1]
    steps = {step.name: step for step in study.steps}
    assert list(steps) == ["crops", "slices", "lesions", "paste_volumes", "paste_crops", "paste_slices"]
    assert steps["paste_volumes"].recipe["synthesis"]["model"] == "copy-paste"


def changed(tmp_path, change):
    tree = yaml.safe_load((STUDIES / "stroke.yaml").read_text())
    change(tree)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (lambda tree: tree["steps"][3].update(takes={"data.path": "nowhere.tiles"}), "takes from 'nowhere'"),
        (lambda tree: tree["steps"][1].update(split_of="masks"), "takes from 'masks', which is no step above it"),
        (lambda tree: tree["steps"][0].update(name="clinical"), "two steps or rows are called 'clinical'"),
        (lambda tree: tree["rows"][2].update(takes={"segmentation.datasets": "lost"}), "takes from 'lost'"),
        (lambda tree: tree["rows"][0].update(takes={"training.start_from": "only_spade"}), "which is not above it"),
        (lambda tree: tree["rows"][0].update(takes={"start_from": "clinical"}), "is no field of a recipe"),
        (lambda tree: tree.update(tiles="gone"), "tiles: names the step"),
        (lambda tree: tree.update(scored="tiles", scores=["dice"]), "epochs: the report"),
        (lambda tree: tree.pop("epochs"), "epochs: the report"),
        (lambda tree: tree["epochs"].update(curves=["clinicle"]), "epochs: no row or step is called 'clinicle'"),
        (lambda tree: tree["presets"]["stroke"].pop("masks"), "presets: stroke has none for the part 'masks'"),
        (lambda tree: tree["steps"][0].update(job="tune"), "steps.0.job"),
    ],
)
def test_a_study_whose_steps_do_not_fit_is_refused_in_one_line(tmp_path, change, culprit):
    with pytest.raises(UserError) as refusal:
        load_study(str(changed(tmp_path, change)))
    assert culprit in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_mistake_in_a_step_names_the_step(tmp_path):
    study = load_study(str(changed(tmp_path, lambda tree: tree["steps"][6]["recipe"]["method"].update(alpha9=1))))
    with pytest.raises(UserError, match=r"--study: step pix2pix10: method\.alpha9"):
        study.step_recipes(command("--recipe", "stroke"))
