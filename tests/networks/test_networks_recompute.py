"""Blocks that are computed again in the backward pass: the same gradients and buffers, less that is kept."""

import copy

import pytest
import torch
from owned import owned
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from metgan_dist.methods import METHODS, build_method, build_segmentor_network, enter_stage, method_class
from metgan_dist.networks.recompute import Recomputable, recompute_blocks
from metgan_dist.networks.spectral import spectral_convolution
from metgan_dist.networks.unet import UNet
from metgan_dist.recipe import Recipe
from metgan_dist.training.step import Stepper

CPU = torch.device("cpu")


class Block(Recomputable):
    """A convolution with spectral norm, BatchNorm and dropout: whatever a second computation could change."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            spectral_convolution(3, 3, kernel_size=3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5)
        )

    def forward(self, x):
        return self.layers(x)


def learned(blocks, again):
    """Gradients, buffers and the next random number after a block was used twice before one backward pass."""
    blocks = copy.deepcopy(blocks)
    if again:
        recompute_blocks(blocks)
    torch.manual_seed(3)
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    (blocks(x).square().mean() + blocks(2 * x).abs().mean()).backward()
    gradients = [x.grad, *(parameter.grad for parameter in blocks.parameters())]
    return gradients, dict(blocks.named_buffers()), torch.rand(1)


def test_gradients_buffers_and_random_numbers_are_those_of_one_computation():
    torch.manual_seed(0)
    blocks = nn.Sequential(Block(), Block())
    (kept, buffers, drawn), (again, same_buffers, same_drawn) = (learned(blocks, again) for again in (False, True))
    assert all(torch.equal(one, other) for one, other in zip(kept, again, strict=True))
    assert buffers.keys() == same_buffers.keys()
    assert all(torch.equal(buffers[name], same_buffers[name]) for name in buffers)
    assert buffers["0.layers.1.num_batches_tracked"] == 2
    assert torch.equal(drawn, same_drawn)


def test_a_graph_may_be_gone_through_twice():
    torch.manual_seed(0)
    block = Block()
    recompute_blocks(block)
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    value = block(x).square().mean()
    first = torch.autograd.grad(value, x, retain_graph=True)[0]
    before = copy.deepcopy(block.state_dict())
    assert torch.equal(first, torch.autograd.grad(value, x)[0])
    torch.testing.assert_close(block.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_what_lies_within_the_blocks_is_not_kept(dimensions):
    kept = {}
    for again in (False, True):
        torch.manual_seed(0)
        network = UNet(1, 1, width=1 / 16, levels=(24, 64, 128), dimensions=dimensions)
        if again:
            recompute_blocks(network)
        sizes = []
        with saved_tensors_hooks(lambda tensor, sizes=sizes: sizes.append(tensor.numel()) or tensor, lambda x: x):
            network(torch.randn(1, 1, *[16] * dimensions)).mean()
        kept[again] = sum(sizes)
    # Each level and stage holds two or three convolutions, norms and activations.
    assert kept[True] < kept[False] / 3


def recipe(name, edges, **method):
    return Recipe.model_validate(
        {
            "tiles": {"kind": "crop" if len(edges) == 3 else "slice", "size": edges},
            "method": {
                **owned(name, width=1 / 16, segmentor_width=1 / 16, latent=4, pool=2, perceptual=0),
                **method,
            },
        }
    )


def stepped(settings, again):
    """Loss terms and the state of all networks after two steps."""
    training = settings.training.model_copy(update={"checkpoint_gradients": again})
    settings = settings.model_copy(update={"training": training})
    torch.manual_seed(0)
    needs = "segmentor" in method_class(settings.method.name).needs(settings)
    stepper = Stepper(build_method(settings, build_segmentor_network(settings) if needs else None), CPU)
    torch.manual_seed(1)
    edges, reports = settings.tiles.shape, []
    for _ in range(2):
        images = {role: torch.rand(2, 1, *edges) * 2 - 1 for role in ("anatomy", "tumour")}
        reports.append(stepper.step([{**images, "label": torch.randint(0, 2, (2, *edges))}]))
    return reports, stepper.method.state_dict()


@pytest.mark.parametrize(
    ("name", "edges", "method"),
    [
        ("metgan", (64, 64), {}),
        ("metgan", (8, 16, 16), {"alpha1": 0}),  # too thin for discriminators
        ("pix2pix", (64, 64), {"width": 1 / 4}),  # wide enough for dropout to matter
        ("cyclegan", (24, 24, 24), {"backbone": "resnet-9"}),
        ("spade", (64, 64), {}),
        ("sean", (64, 64), {}),  # draws noise in its blocks
        ("sifa", (64, 64), {}),
        ("redgan", (64, 64), {}),
        ("lesion_wgan", (8, 16, 16), {"width": 1 / 8}),
        ("segmentor", (8, 32, 32), {}),
        ("segmentor", (32, 64), {"segmentor_network": "resnet-34"}),
    ],
)
def test_steps_are_the_same_bit_for_bit(name, edges, method):
    settings = recipe(name, edges, **method)
    (kept, state), (again, same_state) = (stepped(settings, again) for again in (False, True))
    assert [{term: float(value) for term, value in step.items()} for step in kept] == [
        {term: float(value) for term, value in step.items()} for step in again
    ]
    assert [key for key in state if not torch.equal(state[key], same_state[key])] == []


def test_the_field_reaches_every_method():
    for name in METHODS:
        for again in (False, True):
            settings = recipe(name, (64, 64))
            training = settings.training.model_copy(update={"checkpoint_gradients": again})
            settings = settings.model_copy(update={"training": training})
            method = build_method(settings)
            for stage in method.stages(settings):
                enter_stage(method, settings, stage)
            blocks = [module for module in method.modules() if isinstance(module, Recomputable)]
            assert blocks
            assert {block.recompute for block in blocks} == {again}
