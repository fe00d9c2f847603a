"""Checkpoints that a recipe names."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from owned import owned
from untrained import write_untrained

from metgan_dist.errors import DamagedFile, UserError
from metgan_dist.methods import build_method
from metgan_dist.recipe import Recipe
from metgan_dist.trained import check_segmentor, checkpoint_recipe, load_method, load_tensors
from metgan_dist.training.checkpoint import restore, save_state
from metgan_dist.training.step import Stepper


@pytest.fixture
def checkpoint(segmentors, tmp_path):
    """A segmentor's checkpoint of the test's own."""
    return Path(shutil.copytree(segmentors["method__segmentor"], tmp_path / "checkpoint"))


def test_a_segmentor_named_from_here_is_found_by_workers_elsewhere(segmentors, monkeypatch):
    named = Path(segmentors["method__segmentor"])
    monkeypatch.chdir(named.parent)
    assert check_segmentor("method.segmentor", named.name, Recipe()) == str(named)


def test_no_segmentor_where_one_was_named_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no checkpoint here"):
        check_segmentor("method.segmentor", str(tmp_path), Recipe())


@pytest.mark.parametrize("with_digest", [True, False])
def test_a_changed_byte_anywhere_in_the_weights_is_told(checkpoint, mistake, with_digest):
    state = checkpoint / "state.pt"
    if not with_digest:  # as earlier versions left it: torch's own checksums cover the tensors
        (checkpoint / "state.sha256").unlink()
    assert check_segmentor("method.segmentor", str(checkpoint), Recipe()) == str(checkpoint)
    content = state.read_bytes()
    weights = load_tensors(str(state))["networks"]["segmentor"]
    tensor = max(weights.values(), key=torch.numel).numpy().tobytes()
    first = content.index(tensor)
    places = np.random.default_rng(0).integers(
        *((0, len(content)) if with_digest else (first, first + len(tensor))), 10
    )
    for at in places:
        state.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with mistake(str(state), "not a readable checkpoint", "use another one", kind=DamagedFile):
            check_segmentor("method.segmentor", str(checkpoint), Recipe())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_told(checkpoint, mistake, value):
    state = load_tensors(str(checkpoint / "state.pt"))
    for tensor in state["networks"]["segmentor"].values():
        if tensor.is_floating_point():
            tensor.fill_(value)
    torch.save(state, checkpoint / "state.pt")
    (checkpoint / "state.sha256").unlink()
    with mistake(str(checkpoint / "state.pt"), "segmentor", "NaN or infinite", "use another checkpoint"):
        check_segmentor("method.segmentor", str(checkpoint), Recipe())


def test_what_a_worker_goes_on_with_is_compared_too(checkpoint, mistake):
    rank = checkpoint / "rank-0.pt"
    content = rank.read_bytes()
    rank.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with mistake(str(rank), "SHA-256", kind=DamagedFile):
        load_tensors(str(rank))


@pytest.mark.parametrize("name", ["segmentor", "pix2pix", "spade_vae"])
def test_a_checkpoint_from_when_a_recipe_had_the_fields_of_all_methods_still_opens(tmp_path, name):
    tree = {"method": owned(name, width=1 / 16, segmentor_width=0.05, latent=4), "tiles": {"size": [64]}}
    written = write_untrained(tmp_path / "checkpoint", Recipe.model_validate(tree))
    before, _ = load_method(written)
    stored = Path(written) / "recipe.yaml"
    recipe = yaml.safe_load(stored.read_text())
    others = {"alpha2": 10.0, "alpha4": 10.0, "kl": 0.05, "latent": 256, "shape": 1.0, "organs": []}
    recipe["method"] = {**others, **recipe["method"]}
    stored.write_text(yaml.safe_dump(recipe))
    method, read = load_method(written)
    assert read == checkpoint_recipe(written)
    assert read.method.model_dump() == Recipe.model_validate(tree).method.model_dump()
    torch.testing.assert_close(method.state_dict(), before.state_dict(), rtol=0, atol=0)


VOLUMES = {"data": {"classes": 2}, "tiles": {"kind": "crop", "size": [8, 8, 8]}}
SEGMENTOR = Recipe.model_validate({**VOLUMES, "method": {"name": "segmentor", "segmentor_width": 0.05}})


def _stepped(folder=None, *, contiguous=False):
    """A 3D segmentor after a step, or after another from its checkpoint, whose moments may lie in torch's own order."""
    torch.manual_seed(0)
    stepper = Stepper(build_method(SEGMENTOR), torch.device("cpu"))
    random = torch.Generator().manual_seed(1)
    batch = {"tumour": torch.rand(2, 1, 8, 8, 8, generator=random) * 2 - 1}
    batch["label"] = (batch["tumour"][:, 0] > 0.5).long()
    if folder is None:
        stepper.step([batch])
        return stepper
    first = _stepped()
    folder.mkdir()
    if contiguous:
        for optimiser in first.optimisers.values():
            for remembered in optimiser.state.values():
                remembered |= {name: value.contiguous() for name, value in remembered.items()}
    save_state(folder, first, SEGMENTOR, {"images": 2})
    restore(folder, stepper, 0)
    stepper.step([batch])
    return stepper


def test_moments_that_lie_in_another_order_than_the_weights_are_those_of_the_weights(tmp_path):
    """Of another device, or of an earlier version: Adam's fused step would take them in the order of memory."""
    weights = [_stepped(tmp_path / str(number), contiguous=bool(number)).method.state_dict() for number in range(2)]
    assert any(value.dim() == 5 and not value.is_contiguous() for value in weights[0].values())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
