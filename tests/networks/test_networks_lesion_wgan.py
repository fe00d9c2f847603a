"""The networks of lesion masks against a layer table of their own, and what they promise."""

import pytest
import torch

from metgan_dist.networks.lesion_wgan import MaskCritic, MaskGenerator, doublings

# (name, output channels, edges of its output, parameters) of each layer at 32 x 128 x 128 and two classes.
GENERATOR = [
    ("dense", 512, (1, 4, 4), 128 * 8192 + 8192),
    ("steps.0.convolution", 256, (1, 4, 4), 512 * 256 * 27),
    ("steps.1.convolution", 128, (2, 8, 8), 256 * 128 * 27),
    ("steps.2.convolution", 64, (4, 16, 16), 128 * 64 * 27),
    ("steps.3.convolution", 32, (8, 32, 32), 64 * 32 * 27),
    ("steps.4.convolution", 16, (16, 64, 64), 32 * 16 * 27),
    ("output", 2, (32, 128, 128), 16 * 2 * 27 + 2),
]
NORMS = 2 * (256 + 128 + 64 + 32 + 16)
CRITIC = [
    ("convolutions.0", 32, (16, 64, 64), 2 * 32 * 64 + 32),
    ("convolutions.1", 64, (8, 32, 32), 32 * 64 * 64 + 64),
    ("convolutions.2", 128, (4, 16, 16), 64 * 128 * 64 + 128),
    ("convolutions.3", 256, (2, 8, 8), 128 * 256 * 64 + 256),
    ("convolutions.4", 512, (1, 4, 4), 256 * 512 * 64 + 512),
    ("dense", 1, (), 512 * 16 + 1),
]


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def shapes(network, names, given):
    """The shape of what each of these layers makes, by name."""
    seen = {}
    for name in names:
        network.get_submodule(name).register_forward_hook(
            lambda _module, _given, made, name=name: seen.update({name: tuple(made.shape[1:])})
        )
    with torch.no_grad():
        seen[""] = tuple(network(given).shape)
    return seen


def test_generator_has_the_layers_of_the_table():
    network = MaskGenerator(2, (32, 128, 128))
    assert {name: parameters(network.get_submodule(name)) for name, *_ in GENERATOR} == {
        name: count for name, _, _, count in GENERATOR
    }
    assert parameters(network) == sum(count for *_, count in GENERATOR) + NORMS == 5_772_610
    seen = shapes(network, [name for name, *_ in GENERATOR], torch.zeros(1, 128))
    assert seen.pop("dense") == (512 * 16,)
    assert seen.pop("") == (1, 2, 32, 128, 128)
    assert seen == {name: (channels, *edges) for name, channels, edges, _ in GENERATOR[1:]}


def test_critic_has_the_layers_of_the_table():
    network = MaskCritic(2, (32, 128, 128))
    assert {name: parameters(network.get_submodule(name)) for name, *_ in CRITIC} == {
        name: count for name, _, _, count in CRITIC
    }
    assert parameters(network) == sum(count for *_, count in CRITIC) == 11_154_401
    seen = shapes(network, [name for name, *_ in CRITIC], torch.zeros(1, 2, 32, 128, 128))
    assert seen.pop("") == (1,)
    assert seen == {name: (channels, *edges) for name, channels, edges, _ in CRITIC}


@pytest.mark.parametrize(
    ("edges", "times"),
    [
        ((32, 128, 128), (5, 5, 5)),
        ((16, 64, 64), (4, 4, 4)),
        ((8, 16, 16), (2, 2, 2)),
        ((12, 64, 64), (2, 4, 4)),
        ((8, 8), (1, 1)),
        ((256, 256), (5, 5)),
        ((40, 96, 96), (3, 4, 4)),
    ],
)
def test_masks_of_other_sizes_take_fewer_steps_and_come_out_whole(edges, times):
    assert doublings(edges) == times
    generator, critic = MaskGenerator(3, edges, latent=4, width=1 / 32), MaskCritic(3, edges, width=1 / 32)
    assert len(generator.steps) == len(critic.convolutions) == max(times)
    mask = generator(torch.randn(2, 4))
    assert mask.shape == (2, 3, *edges)
    assert critic(mask).shape == (2,)


def test_masks_are_probabilities_and_a_mask_does_not_depend_on_those_beside_it():
    torch.manual_seed(0)
    generator, critic = MaskGenerator(2, (8, 16, 16), latent=4, width=1 / 8), MaskCritic(2, (8, 16, 16), width=1 / 8)
    z = torch.randn(3, 4)
    masks = generator(z)
    torch.testing.assert_close(masks.sum(dim=1), torch.ones(3, 8, 16, 16))
    assert masks.min() >= 0
    assert (masks[0] - masks[1]).abs().max() > 0.01  # the latent vector is not forgotten
    torch.testing.assert_close(generator(z[:1]), masks[:1])
    torch.testing.assert_close(critic(masks[:1]), critic(masks)[:1])


def test_width_scales_the_channels():
    half = MaskGenerator(2, (32, 128, 128), width=0.5)
    assert [step.convolution.out_channels for step in half.steps] == [128, 64, 32, 16, 8]
    assert [c.out_channels for c in MaskCritic(2, (32, 128, 128), width=0.5).convolutions] == [16, 32, 64, 128, 256]


def test_half_precision_gives_probabilities_in_float32():
    generator = MaskGenerator(2, (8, 16, 16), latent=4, width=1 / 8)
    with torch.autocast("cpu", torch.bfloat16):
        masks = generator(torch.randn(2, 4))
    assert masks.dtype == torch.float32
    torch.testing.assert_close(masks.sum(dim=1), torch.ones(2, 8, 16, 16))
