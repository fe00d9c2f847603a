"""MetGAN in 3D, on crops of a phantom: it steps, validates, saves, and goes on as if it had never stopped."""

from io import BytesIO

import numpy as np
import pytest
import torch
from alone import Killed, assignment, killed_at, state
from PIL import Image
from tile_sets import write_crops
from untrained import write_untrained

from metgan_dist.errors import UserError
from metgan_dist.figures import most_label
from metgan_dist.methods import build_method
from metgan_dist.methods.segmentor import judge_recipe, segmentor_recipe
from metgan_dist.recipe import Recipe
from metgan_dist.tasks import pictures, task_of
from metgan_dist.tasks.held_out import score_held_out
from metgan_dist.tiles.stream import tile_batches, tile_stream
from metgan_dist.trained import check_segmentor, load_method
from metgan_dist.training.launch import run_training

CPU = torch.device("cpu")
SPLITS = ("train",) * 4 + ("val", "val", "test", "test")


def recipe(**training):
    settings = {
        **{"batch_size": 2, "epochs": 100, "max_steps": 4, "checkpoint_every": 4, "validate_every": 4},
        **{"validate_tiles": 2, "ema_half_life": 4, "augment": "affine", "precision": "fp32"},
    }
    return Recipe.model_validate(
        {
            "data": {"label": "metastases"},
            "tiles": {"kind": "crop", "size": [24, 32, 32]},
            "method": {"width": 0.05, "segmentor_width": 0.05},
            "training": {**settings, **training},
            "scaling": {"workers": 0},
        }
    )


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    return write_crops(tmp_path_factory.mktemp("crops"), splits=SPLITS)


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    """Checkpoints of an untrained segmentor (the paper's U-Net) and judge (DynUNet)."""
    folder = tmp_path_factory.mktemp("judges")
    makers = {"segmentor": segmentor_recipe, "judge": judge_recipe}
    return {name: write_untrained(folder / name, make(recipe())) for name, make in makers.items()}


@pytest.fixture(scope="module")
def assign(tiles, judges, tmp_path_factory):
    """Assigns the training, in this process, to a run folder of its own."""
    folder = tmp_path_factory.mktemp("runs")
    return lambda name, **training: assignment(folder, name, recipe(**training), tiles.uri, **judges)


def test_it_goes_on_bit_for_bit_where_it_was_killed_also_when_blocks_are_computed_again(assign, monkeypatch, capsys):
    whole = run_training(assign("whole"), print)
    assert whole.images == 8
    assert {"mae", "ssim", "cycle_mae"} <= {name.removeprefix("validation/") for name in whole.last_scores}
    broken = assign("broken", checkpoint_gradients=True)
    with monkeypatch.context() as patch:
        killed_at(patch, 8)
        with pytest.raises(Killed):
            run_training(broken, print)
    continued = run_training(broken, print)
    assert "continuing from 4 of 8 images" in capsys.readouterr().out
    torch.testing.assert_close(state(continued), state(whole), rtol=0, atol=0)
    assert continued.score == whole.score
    before, after = (load_method(uri)[0].state_dict() for uri in (whole.last, continued.last))
    assert before["networks.generator.anatomy_path.output.weight"].dim() == 5
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_crops_are_scored_and_shown_where_they_hold_most_label(tiles, monkeypatch):
    method, judge = (build_method(make(recipe())).eval() for make in (lambda own: own, judge_recipe))
    said = []
    task = task_of(method, tiles, {"judge": judge})
    results = score_held_out(task, method, CPU, said.append)
    assert results["test"]["tiles"] == 2
    assert {"mae", "ssim", "psnr", "cycle_mae"} <= results["test"]["generated"].keys()
    assert results["test"]["identity"]["mae"] > 0
    asked = {}
    drawn = pictures.image_grid
    monkeypatch.setattr(pictures, "image_grid", lambda columns, **more: asked.update(more) or drawn(columns, **more))
    rows = tiles.positions("val")
    picture = np.asarray(Image.open(BytesIO(task.grid(method, rows, CPU))))
    assert picture.ndim == 3
    labels = [tiles.load(int(row))["label"] for row in rows]
    assert asked["through"] == [most_label(label) for label in labels]
    assert all(label[voxel] > 0 for label, voxel in zip(labels, asked["through"], strict=True))


def test_the_stream_bends_crops_by_the_seed_and_the_place_alone(tiles):
    own = recipe()
    plain, bent = (
        list(tile_stream(tiles, recipe(augment=how), batch_size=2, stop=8, here=True)) for how in ("flips", "affine")
    )
    for first, second in zip(plain, bent, strict=True):
        assert torch.equal(first["tile"], second["tile"])
        assert not torch.equal(first["anatomy"], second["anatomy"])
    again = list(tile_stream(tiles, own, batch_size=2, start=4, stop=8, here=True))
    for batch, same in zip(again, bent[2:], strict=True):
        assert all(torch.equal(batch[role], same[role]) for role in batch)
    (whole,) = tile_batches(tiles, bent[0]["tile"].tolist(), 2)
    assert not torch.equal(whole["anatomy"], bent[0]["anatomy"])


def test_a_segmentor_of_2d_tiles_is_no_judge_of_crops(tmp_path, judges):
    flat = Recipe.model_validate({"method": {"name": "segmentor", "segmentor_width": 0.05}, "tiles": {"size": [64]}})
    uri = write_untrained(tmp_path / "flat", flat)
    with pytest.raises(UserError, match=r"^method\.judge: .*trained on 2D tiles, tiles\.kind crop gives 3D ones$"):
        check_segmentor("method.judge", uri, recipe())
    assert check_segmentor("method.judge", judges["judge"], recipe()) == judges["judge"]
    tiles = recipe().tiles.model_copy(update={"size": (24, 32, 40)})
    other = recipe().model_copy(update={"tiles": tiles})
    with pytest.raises(UserError, match=r"^method\.segmentor: .*must be multiples of \(8, 32, 32\)$"):
        check_segmentor("method.segmentor", judges["segmentor"], other)
