"""What a run keeps lies in its folder, in MLflow and in its result, under the same name."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from metgan_dist.recipe import Recipe, Training
from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import Result
from metgan_dist.runs.open_run import OpenRun, run_recipe
from metgan_dist.runs.run_folder import Run


class Tracked(OpenRun):
    """An open run whose MLflow is a dictionary, and counts how often it is opened."""

    @contextmanager
    def log(self):
        self.logs = getattr(self, "logs", 0) + 1
        yield self

    def content(self, content, name):
        self.logged = {**getattr(self, "logged", {}), name: content}


@pytest.fixture
def opened(tmp_path):
    return Tracked(Recipe(), Run("r", str(tmp_path), "job", False, "id", {}), None, "", Result())


def test_files_are_kept_under_their_paths_and_named_in_the_result(opened, tmp_path):
    files = {"table.md": b"|a|", "study/figure.png": b"png"}
    opened.keep(files, {"study/figure.png": "plot"})
    assert {path: (tmp_path / path).read_bytes() for path in files} == files == opened.logged
    artefacts = {"table_md": f"{tmp_path}/table.md", "plot": f"{tmp_path}/study/figure.png"}
    assert opened.result.artefacts == artefacts
    assert opened.logs == 1


def test_a_name_is_that_of_the_file_without_its_folder(opened):
    opened.keep({"study/table.csv": b""})
    assert {name: Path(uri).name for name, uri in opened.result.artefacts.items()} == {"table_csv": "table.csv"}


def test_models_that_stand_for_stages_are_looked_for_once_and_put_on_record(opened, tmp_path):
    assert opened.stages(pytest.fail) == {}
    found = {"pretrain": {"uri": "/there", "sha256": "00", "method": "toy", "run": None}}
    opened.recipe = Recipe(training=Training(stages_from={"pretrain": "other"}))
    assert opened.stages(lambda: found) == opened.stages(pytest.fail) == {"pretrain": "/there"}
    assert json.loads((tmp_path / "run.json").read_text())["stages_from"] == found
    assert opened.result.artefacts == {"stage_pretrain": "/there"}


def test_a_run_that_is_stopped_after_its_storage_was_removed_says_so_in_one_line(tmp_path, ray_cluster, mistake, capfd):
    storage = tmp_path / "storage"
    tree = {"storage": {"path": str(storage)}, "tracking": {"run": "gone", "uri": f"sqlite:///{storage}/mlflow.db"}}

    def work(opened):
        shutil.rmtree(storage)
        raise KeyboardInterrupt

    recipe = Recipe.model_validate({**tree, "scaling": {"workers": 0}})
    with mistake(f"{storage}/gone: was removed while the run was going, and its records with it; start it again"):
        run_recipe(Command(recipe, "x", False, False), "make_tiles", work)
    assert "Traceback" not in "".join(capfd.readouterr())
    assert not storage.exists()
