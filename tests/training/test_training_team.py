"""Ray's workers store a checkpoint while they train on, one at a time, and one that cannot be stored is told."""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray.train
import torch
from alone import assignment
from pyarrow import fs
from ray.train import Checkpoint, CheckpointConsistencyMode, CheckpointUploadMode
from tile_sets import write_set

from metgan_dist.errors import understood
from metgan_dist.recipe import Recipe, Scaling, Training
from metgan_dist.recipe.methods.metgan import MetGANRecipe
from metgan_dist.storage import fetch
from metgan_dist.training import team as teams
from metgan_dist.training.launch import run_training
from metgan_dist.training.team import RayTeam


class Ray:
    """What RayTeam asks of Ray Train, of which it notes the order; nothing is stored before it is told to."""

    def __init__(self, patch, storage):
        self.calls, self.storage, self.waiting = [], storage, None
        for name in ("report", "get_context", "get_all_reported_checkpoints", "get_checkpoint"):
            patch.setattr(ray.train, name, getattr(self, name))
        patch.setattr(teams, "get_device", lambda: torch.device("cpu"))

    def get_context(self):
        ranks = {"get_world_rank": 0, "get_world_size": 4, "get_local_rank": 0, "get_storage": self}
        return SimpleNamespace(**{name: lambda value=value: value for name, value in ranks.items()})

    def get_checkpoint(self):
        return Checkpoint(f"{self.storage}/images-1", fs.LocalFileSystem())

    def report(self, metrics, checkpoint, checkpoint_dir_name, checkpoint_upload_mode, checkpoint_upload_fn):
        self.calls.append((checkpoint_upload_mode, checkpoint_dir_name, metrics))
        self.waiting = lambda: checkpoint_upload_fn(checkpoint, checkpoint_dir_name)

    def get_all_reported_checkpoints(self, consistency_mode):
        self.calls.append(consistency_mode)
        if self.waiting:
            self.waiting()
        self.waiting = None

    def persist_current_checkpoint(self, checkpoint, name):
        return Checkpoint.from_directory(Path(checkpoint.path).rename(Path(self.storage, name)))


@pytest.fixture
def storage(tmp_path):
    return tmp_path / "storage"


@pytest.fixture
def team(monkeypatch, storage):
    storage.mkdir()
    known = Ray(monkeypatch, storage)
    said = []
    made = RayTeam(SimpleNamespace(role="metgan", folder="s3://bucket/train/metgan"), said.append)
    made.ray, made.said = known, said
    return made


@contextmanager
def written(folder, name):
    """A folder of the loop's with a file of a checkpoint; what is left in it goes with the block."""
    (folder / name).mkdir()
    (folder / name / "rank-0.pt").write_text(name)
    yield folder / name
    for left in (folder / name).iterdir():
        left.unlink()
    (folder / name).rmdir()


def test_training_goes_on_while_a_checkpoint_is_stored_and_the_next_one_waits_for_it(team, storage, tmp_path):
    committed = CheckpointConsistencyMode.COMMITTED
    for name in ("images-1", "images-2"):
        with written(tmp_path, name) as folder:
            team.keep(folder, name, {"images": name})
        assert not (storage / name).exists()
    assert (storage / "images-1" / "rank-0.pt").read_text() == "images-1"
    first, second = ((CheckpointUploadMode.ASYNC, name, {"images": name}) for name in ("images-1", "images-2"))
    assert team.ray.calls == [committed, first, committed, second]
    with written(tmp_path, "images-3") as folder:
        team.keep(folder, "images-3", {}, wait=True)  # somebody begins with it
    assert (storage / "images-3" / "rank-0.pt").read_text() == "images-3"
    assert team.last_checkpoint() == "s3://bucket/train/metgan/images-1"


def test_a_checkpoint_that_cannot_be_stored_is_a_line_that_names_it(team, storage, tmp_path):
    (storage / "images-1").mkdir()
    (storage / "images-1" / "other").touch()
    line = r"metgan: checkpoint images-1 cannot be stored \(OSError: .*not empty"
    with written(tmp_path, "images-1") as folder, pytest.raises(OSError, match=line):
        team.keep(folder, "images-1", {}, wait=True)
    (said,) = team.said
    assert said.startswith("metgan: checkpoint images-1 cannot be stored (OSError: ")
    assert said.endswith("; it restarts if it may")


def test_files_that_are_not_there_are_left_out(tmp_path):
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    for name in ("state.pt", "rank-0.pt", "rank-1.pt"):
        (tmp_path / "from" / name).write_text(name)
    fetch(str(tmp_path / "from"), {}, ("state.pt", "rank-1.pt", "rank-7.pt"), tmp_path / "to")
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == ["rank-1.pt", "state.pt"]


@pytest.mark.slow
def test_the_last_upload_of_a_training_by_ray_may_fail_it(ray_cluster, segmentors, tmp_path):
    """In its place lies a file, which no folder can be made of."""
    recipe = Recipe(
        method=MetGANRecipe(width=0.05, segmentor_width=0.05),
        training=Training(batch_size=2, epochs=100, max_steps=2, max_failures=0, validate_tiles=1),
        scaling=Scaling(workers=1),
    )
    own = {role: segmentors[f"method__{role}"] for role in ("segmentor", "judge")}
    failing = assignment(tmp_path, "failing", recipe, write_set(tmp_path / "tiles").uri, **own)
    failing = replace(failing, role="metgan")
    Path(failing.folder).mkdir(parents=True)
    Path(failing.folder, "images-000000004").touch()
    said = []
    with pytest.raises(Exception) as caught:  # Ray's own, which a job looks into
        run_training(failing, said.append)
    cause = understood(caught.value)
    assert str(cause).startswith("metgan: checkpoint images-000000004 cannot be stored (")
    assert "\n" not in str(cause)
    assert any(line.startswith("metgan: checkpoint images-000000004 cannot be stored (") for line in said)
    assert not Path(failing.folder, "trained.json").exists()
