"""One step of all players: what is made once in it, and what is made again."""

import pytest
import torch

from metgan_dist.methods import build_method
from metgan_dist.recipe import MethodRecipe, Recipe
from metgan_dist.training.step import Stepper

CPU = torch.device("cpu")


def pix2pix(**options):
    torch.manual_seed(0)
    return Stepper(build_method(Recipe(method=MethodRecipe(name="pix2pix", width=0.05))), CPU, **options)


def batch(seed):
    random = torch.Generator().manual_seed(seed)
    anatomy, tumour = (torch.rand(1, 1, 256, 256, generator=random) * 2 - 1 for _ in range(2))
    return {"anatomy": anatomy, "tumour": tumour, "label": (tumour[:, 0] > 0.9).long()}


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_pix2pix_makes_its_image_once_for_both_players(autocast):
    stepper = pix2pix(autocast=autocast)
    generator, judge = (stepper.method.networks[name] for name in ("generator", "discriminator_tumour"))
    made, judged = [], []
    generator.register_forward_hook(lambda _module, _inputs, image: made.append(image))
    judge.register_forward_pre_hook(lambda _module, inputs: judged.append(inputs[0]))
    before = [weight.detach().clone() for weight in generator.parameters()]
    stepper.step([batch(0)])
    assert len(made) == 1
    # The discriminator's turn (real and fake in one batch), then the generator's.
    assert torch.equal(judged[0][1:], made[0])
    assert not judged[0].requires_grad
    assert judged[1] is made[0]
    assert all(not torch.equal(*pair) for pair in zip(before, generator.parameters(), strict=True))


def test_pix2pix_holds_no_graphs_of_several_batches():
    stepper = pix2pix()
    made = []
    stepper.method.networks["generator"].register_forward_hook(
        lambda _module, _inputs, image: made.append(image.requires_grad)
    )
    stepper.step([batch(0), batch(1)])
    assert made == [False, False, True, True]
