"""A table of command lines that are mistakes: each is one line that names the field, before any work.

What a cluster or a store would say is asked elsewhere; here nothing is started, opened or written.
"""

import pytest
from pydantic import ValidationError

from metgan_dist.errors import UserError
from metgan_dist.recipe import Recipe, Storage, Tracking
from metgan_dist.recipe.mistakes import first_mistake
from metgan_dist.runs.command_line import parse_command
from metgan_dist.runs.run_folder import open_run
from metgan_dist.tracking.server import tracking_uri

# The value of a flag, and what the line says of it.
NUMBERS = [
    *((field, value, "finite number") for field in ("training.learning_rate", "method.alpha1") for value in ("inf",)),
    ("training.learning_rate", "nan", "finite number"),
    ("training.learning_rate", "0", "greater than 0"),
    ("training.learning_rate", "fast", "valid number"),
    ("training.decay_from", "nan", "finite number"),
    ("training.epochs", "0", "greater than or equal to 1"),
    ("training.epochs", "1.5", "valid integer"),
    ("training.epochs", "none", "valid integer"),
    ("training.batch_size", "-1", "greater than or equal to 1"),
    ("training.seed", str(2**63), "less than or equal to"),
    ("training.seed", "-1", "greater than or equal to 0"),
    ("data.phantom.seed", str(2**64), "less than or equal to"),
    ("synthesis.seed", str(2**64), "less than or equal to"),
    ("insertion.seed", str(2**64), "less than or equal to"),
    ("tuning.seed", str(2**64), "less than or equal to"),
    ("scaling.gpus_per_worker", "nan", "finite number"),
    ("scaling.gpus_per_worker", "inf", "finite number"),
    ("scaling.gpus_per_worker", "-1", "greater than or equal to 0"),
    ("scaling.cpus_per_worker", "nan", "finite number"),
    ("scaling.cpus_per_worker", "-1", "greater than 0"),
    ("scaling.cpus_per_worker", "0", "greater than 0"),
    ("scaling.workers", "-1", "greater than or equal to 0"),
    ("scaling.trainings", "0", "greater than or equal to 1"),
    ("scaling.trainings", "-2", "greater than or equal to 1"),
    ("scaling.wait", "nan", "finite number"),
    ("scaling.share", "inf", "finite number"),
    ("scaling.tile_memory", "1", "greater than or equal to 16"),
    ("segmentation.real", "inf", "finite number"),
    ("segmentation.overlap", "1", "less than 1"),
    ("segmentation.threshold", "1", "less than 1"),
    ("insertion.contrast", "inf", "finite number"),
    ("insertion.blur", "nan", "finite number"),
    ("synthesis.overlap", "-0.1", "greater than or equal to 0"),
    ("tiles.size", "0", "size and stride must be positive"),
    ("tiles.depth", "0", "greater than or equal to 1"),
    ("tiles.spacing", "0,1,1", "greater than 0"),
    ("tiles.spacing", "-1,1,1", "greater than 0"),
    ("tiles.spacing", "1,1", "spacing"),
    ("tiles.percentiles", "99,1", "lower < upper"),
    ("tiles.percentiles", "-1,99", "0 <= lower"),
    ("tiles.test", "1", "less than 1"),
    ("tiles.folds", "0", "greater than or equal to"),
    ("data.classes", "1", "greater than or equal to 2"),
    ("data.phantom.volumes", "1000000000", "less than or equal to"),
    ("data.phantom.shape", "10,10", "shape"),
]
UNREADABLE = [  # by the command line, before a recipe is made of it
    ("method.nmae", "metgan", "unrecognized"),
    ("training.shares", "middle=0.5", "shares"),
    ("training.stages", "joint=-1", "greater than or equal to 0"),
    ("tiles.size", "nan", "cannot be read"),
    ("tiles.size", "1" + "0" * 5000, "cannot be read"),
    ("tiles.percentiles", "nan,99", "cannot be read"),
    ("data.labels", "{1: a", "Missing end delimiter"),
    ("data.domains", "{", "Missing end delimiter"),
    ("data.volumes", "[{", "Missing end delimiter"),
    ("tuning.space", "{", "Missing end delimiter"),
]
WORDS = [
    ("method.name", "metgann", "metgann"),
    ("training.precision", "fp16", "'auto', 'fp32' or 'bf16'"),
    ("training.augment", "rotate", "must be flips"),
    ("tiles.kind", "cube", "'projection', 'slice' or 'crop'"),
    ("tiles.modality", "pet", "tiles.modality"),
    ("data.phantom.modality", "whale", "data.phantom.modality"),
    ("data.phantom.healthy", "0.5", "set modality to stroke"),
    ("scaling.cluster", "::::", "HOST:PORT"),
    ("scaling.cluster", "head", "HOST:PORT"),
    ("scaling.cluster", "head:port", "HOST:PORT"),
    ("storage.path", "", "at least 1 character"),
    ("tuning.objectives", "mae,mae", "objectives"),
    ("synthesis.format", "dicom", "'ome-zarr' or 'nifti'"),
    ("segmentation.format", "dicom", "'ome-zarr' or 'nifti'"),
    ("insertion.pairs", "mine", "'own' or 'drawn'"),
]


def parsed(*arguments):
    return parse_command("train_metgan.py", "", arguments)


def test_no_case_stands_here_twice():
    cases = [(field, value) for field, value, _ in NUMBERS + UNREADABLE + WORDS]
    assert len(set(cases)) == len(cases)


def checked(line, field, said):
    assert "\n" not in line
    assert len(line) < 500
    assert field.partition(".")[0] in line
    assert said in line


@pytest.mark.parametrize(("field", "value", "said"), NUMBERS + WORDS)
def test_a_value_that_cannot_be_is_a_line(field, value, said):
    """As the command line or a YAML file has it."""
    tree = value
    for name in reversed(field.split(".")):
        tree = {name: tree}
    with pytest.raises(ValidationError) as error:
        Recipe.model_validate(tree)
    checked(first_mistake(error.value), field, said)


@pytest.mark.parametrize(("field", "value", "said"), UNREADABLE)
def test_a_flag_that_cannot_be_read_is_a_line(field, value, said):
    with pytest.raises(UserError) as error:
        parsed(f"--{field}={value}")
    checked(str(error.value), field, said)


def test_a_recipe_is_given_once():
    with pytest.raises(UserError, match="--recipe: given twice"):
        parsed("--recipe", "quickstart", "--recipe", "cells")


@pytest.mark.parametrize("name", ["mlartifacts", "mlruns", "../x", "a b", "-x", "a/b"])
def test_names_that_no_run_can_have(name, tmp_path):
    recipe = parsed(f"--tracking.run={name}", f"--storage.path={tmp_path / 'runs'}").recipe
    with pytest.raises(UserError, match=r"^tracking\.run: "):
        open_run("train_metgan", recipe, "quickstart")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("uri", "storage", "said"),
    [
        (None, "a?b", r"^storage\.path a\?b: '\?' has a meaning of its own"),
        (None, "a%20b", r"^storage\.path a%20b: '%' has a meaning"),
        (None, "a#b", r"^storage\.path a#b: '#' has a meaning"),
        (None, "FILE", r"^storage\.path .*FILE: .*FILE is a file"),
        ("sqlite://", "runs", r"^tracking\.uri sqlite://: names no file"),
        ("sqlite:///", "runs", r"^tracking\.uri sqlite:///: names no file"),
        ("sqlite:///FOLDER", "runs", r"^tracking\.uri .*: .*FOLDER is a folder"),
        ("sqlite:///FILE/mlflow.db", "runs", r"^tracking\.uri .*: .*FILE is a file"),
        ("http://[::1", "runs", r"^tracking\.uri .*: no address"),
        ("mlruns", "runs", r"^tracking\.uri mlruns: MLflow does not take plain folders"),
        ("file:///mlruns", "runs", r"^tracking\.uri file:///mlruns: MLflow does not take plain folders"),
        ("http://user:secret@host:5000", "runs", r"^(?!.*secret).*tracking\.uri"),
        (None, "s3://bucket/runs", r"^tracking\.uri: not given, and storage\.path"),
    ],
)
def test_stores_that_cannot_be(uri, storage, said, tmp_path, monkeypatch):
    """Nothing is tried, which MLflow does ten times, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "FILE").write_text("")
    (tmp_path / "FOLDER").mkdir()
    with pytest.raises(UserError, match=said):
        tracking_uri(Tracking(uri=uri), Storage(path=storage))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["FILE", "FOLDER"]


def test_a_home_is_where_a_tilde_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = parsed("--tracking.run=mine", "--storage.path=~/runs").recipe
    assert tracking_uri(recipe.tracking, recipe.storage) == f"sqlite:///{tmp_path.resolve()}/runs/mlflow.db"
    assert open_run("train_metgan", recipe, "quickstart").folder == str(tmp_path / "runs" / "mine")
