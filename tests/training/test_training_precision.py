"""`training.precision`: what auto means, and that a run goes on exactly whichever precision and device wrote it."""

import pytest
import torch
from toys import image

from metgan_dist.methods import build_method
from metgan_dist.recipe import Recipe
from metgan_dist.recipe.methods.pix2pix import Pix2PixRecipe
from metgan_dist.training import precision
from metgan_dist.training.checkpoint import restore, save_rank, save_state
from metgan_dist.training.precision import autocast_dtype, resolved
from metgan_dist.training.step import Stepper

CPU = torch.device("cpu")
EDGES = (256, 256)
RECIPE = Recipe(method=Pix2PixRecipe(width=0.05))


def test_auto_is_bfloat16_on_a_cpu_that_multiplies_in_it_and_float32_elsewhere(monkeypatch):
    for native, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(precision, "_native_bf16", lambda _device, native=native: native)
        assert resolved("auto", CPU) == expected
        assert (resolved("fp32", CPU), resolved("bf16", CPU)) == ("fp32", "bf16")
        assert autocast_dtype("auto", CPU) == (torch.bfloat16 if native else None)


def test_a_cpu_counts_as_one_that_multiplies_in_bfloat16_by_its_instructions(monkeypatch):
    for amx, avx in ((False, False), (True, False), (False, True)):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda avx=avx: avx)
        assert resolved("auto", CPU) == ("bf16" if amx or avx else "fp32")


def stepper(autocast):
    torch.manual_seed(0)
    return Stepper(build_method(RECIPE), CPU, autocast=autocast)


def weights(machine):
    return [weight.detach().clone() for weight in machine.method.networks.parameters()]


@pytest.mark.parametrize("saved_in", [None, torch.bfloat16])
@pytest.mark.parametrize("goes_on_in", [None, torch.bfloat16])
def test_adam_goes_on_exactly_from_a_checkpoint_of_either_precision(saved_in, goes_on_in, tmp_path):
    first = stepper(saved_in)
    first.step([image(0, EDGES)])
    save_state(tmp_path, first, RECIPE, {"images": 1})
    save_rank(tmp_path, first, 0)
    second = stepper(goes_on_in)
    restore(tmp_path, second, 0)
    for one, other in zip(weights(first), weights(second), strict=True):
        assert torch.equal(one, other)
    # The same gradients on both sides, so that what differs is Adam alone.
    for name, optimiser in second.optimisers.items():
        mine = [p for group in first.optimisers[name].param_groups for p in group["params"]]
        theirs = [p for group in optimiser.param_groups for p in group["params"]]
        for number, (one, other) in enumerate(zip(mine, theirs, strict=True)):
            random = torch.Generator().manual_seed(number)
            gradient = torch.randn(one.shape, generator=random)
            one.grad, other.grad = torch.empty_like(one).copy_(gradient), torch.empty_like(other).copy_(gradient)
        first.optimisers[name].step()
        optimiser.step()
    for one, other in zip(weights(first), weights(second), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_fused_adam_moves_weights_as_the_plain_one(autocast):
    fused, plain = stepper(autocast), stepper(autocast)
    for optimiser in plain.optimisers.values():
        for group in optimiser.param_groups:
            group["fused"] = False
    for machine in (fused, plain):
        torch.manual_seed(0)  # dropout
        machine.step([image(0, EDGES)])
    for one, other in zip(weights(fused), weights(plain), strict=True):
        # A first step of Adam moves a weight by up to 2e-4, whatever the gradient: one of another weight would show.
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
