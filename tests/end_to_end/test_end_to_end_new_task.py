"""A task and a method that no file of the package knows: entered where all are, they go the whole way by themselves.

The task is to restore images that were squeezed; the method does so in 3D, in two stages. Neither training nor
evaluation is told anything of them.
"""

from pathlib import Path

import pytest
import torch
from tile_sets import write_crops
from torch import nn
from user import run_here

from metgan_dist import methods, tasks
from metgan_dist.methods.method import Method, Player, Stage
from metgan_dist.recipe import MethodRecipe
from metgan_dist.recipe import methods as sections
from metgan_dist.scores.column import Column
from metgan_dist.scores.scored import TileScorer
from metgan_dist.tasks import Task
from metgan_dist.tasks.pictures import loaded
from metgan_dist.tasks.task import ALL
from metgan_dist.tiles.stream import tile_batches
from metgan_dist.trained import load_method


class Restoration(Task):
    """Of tumour images alone, with no label and no judge; scored by the mean error of what is restored."""

    name = "restoration"
    fields = ("tumour",)
    columns = (Column("restored_mae", "Restored MAE", "min", 4),)

    def scorer(self, sample, wanted=ALL):
        return TileScorer(2, show=wanted.show)

    def score(self, sample, scorer, batch, maker):
        restored = maker.translate(batch)
        error = (restored - batch["tumour"]).abs().flatten(1).mean(dim=1)
        scorer.add(batch, {"restored_mae": error.double().cpu().numpy()}, restored)

    def summary(self, scored):
        return scored["generated"].summary()

    def line(self, split, scores):
        return f"{split}: restored to {scores['generated']['restored_mae']:.4f}"

    def given(self, rows):
        return loaded(self.tiles, rows, {"tumour": "tumour"})


class Restoring(Method):
    """Two layers, of which the second learns first, alone."""

    task = "restoration"
    dimensions = (3,)
    inference = ("squeeze", "stretch")

    @classmethod
    def from_recipe(cls, recipe, segmentor=None, perceptual=None):
        return cls({name: nn.Conv3d(1, 1, 3, padding=1) for name in ("squeeze", "stretch")})

    @classmethod
    def criterion(cls, recipe):
        return ("restored_mae", "min")

    @classmethod
    def stages(cls, recipe):
        return (Stage("stretching", ("stretcher",), epochs=1, decay_from=1.0), Stage("both"))

    def players(self):
        return tuple(Player(f"{name.rstrip('e')}er", (name,), 1e-2, (0.9, 0.99)) for name in self.inference)

    def losses(self, player, batch, made):
        return {"restored": (self._restored(batch) - batch["tumour"]).abs().mean()}, {}

    def translate(self, batch):
        with torch.no_grad():
            return self._restored(batch)

    def pictures(self, batch):
        return {"tumour": batch["tumour"], "generated": self.translate(batch)}

    def _restored(self, batch):
        return self.networks["stretch"](self.networks["squeeze"](batch["tumour"]))


@pytest.fixture
def entered(monkeypatch):
    """The line of each in its room."""
    monkeypatch.setattr(sections, "SECTIONS", {**sections.SECTIONS, "restoring": MethodRecipe})
    monkeypatch.setattr(methods, "METHODS", {**methods.METHODS, "restoring": Restoring})
    monkeypatch.setattr(tasks, "TASKS", {**tasks.TASKS, "restoration": Restoration})


def test_a_new_task_and_method_train_in_stages_are_validated_scored_compared_and_drawn(tmp_path, entered, ray_cluster):
    tiles = write_crops(tmp_path / "tiles", splits=("train",) * 4 + ("val", "val", "test", "test"))
    fields = {"tiny": False, "data__path": tiles.uri, "method__name": "restoring", "scaling__workers": 0}
    fields |= {"training__batch_size": 2, "training__epochs": 3, "training__validate_every": 4}
    done = run_here("train_metgan", tmp_path, tracking__run="mine", **fields)
    assert done.code == 0, done.out + done.err
    assert "restoring 1/2 stretching  validation at 4 images: restored_mae" in done.out
    assert "restoring 2/2 both  validation at 16 images: restored_mae" in done.out
    assert "judge" not in done.out  # the task has none, so none is trained
    result, storage = done.result, tmp_path / "mine"
    method = load_method(result["artefacts"]["best_checkpoint"])[0]
    (batch,) = tile_batches(tiles, tiles.positions("test"), 2)
    error = float((method.translate(batch) - batch["tumour"]).abs().mean())
    scores = result["scores"]["test"]
    assert (scores["tiles"], scores["generated"]["restored_mae"]) == (2, pytest.approx(error, rel=1e-5))
    assert f"test: restored to {error:.4f}" in done.out
    assert result["scores"]["validation"].keys() == {"restored_mae"}
    assert {path.name for path in (storage / "grids").iterdir()} >= {"test.png", "restoring-00000016.png"}
    compared = run_here("evaluate", tmp_path, "--runs", "mine", tiny=False, scaling__workers=0, tracking__run="table")
    assert compared.code == 0, compared.out + compared.err
    assert compared.result["scores"]["test"] == {"restoring": {"restored_mae": pytest.approx(error, rel=1e-5)}}
    assert "Restored MAE ↓" in Path(tmp_path, "table", "table.md").read_text()
    assert Path(tmp_path, "table", "grid.png").stat().st_size > 0
