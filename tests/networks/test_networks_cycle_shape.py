"""Paper 5's networks: parameters layer by layer, what a voxel sees, any size, and gradients that are computed again."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from metgan_dist.networks.cycle_shape import SkipGenerator, SkipSegmentor, SkipUNet
from metgan_dist.networks.initialise import initialise_he
from metgan_dist.networks.padding import cropped, padded
from metgan_dist.networks.patchgan import PatchGAN
from metgan_dist.networks.recompute import recompute_blocks

PAPER_EDGES = (86, 112, 112)
# Input and output channels of every convolution in the order of computation, with its kernel's edge.
GENERATOR = [
    *((1, 16, 3), (16, 16, 3)),
    *((16, 32, 3), (32, 32, 3), (32, 32, 3)),  # the first of stride 2
    *((32, 64, 3), (64, 64, 3), (64, 64, 3)),
    *((64, 128, 3), (128, 128, 3), (128, 128, 3)),
    *((128, 64, 3), (64 + 64, 64, 3), (64, 64, 3)),  # enlarged; with the skip; again
    *((64, 32, 3), (32 + 32, 32, 3), (32, 32, 3)),
    *((32, 16, 3), (16 + 16, 16, 3), (16, 16, 3)),
    (16, 1, 3),
]
SEGMENTOR = [
    *((1, 16, 3), (16, 16, 3)),
    *((16, 32, 3), (32, 32, 3)),
    *((32, 64, 3), (64, 64, 3)),
    *((64, 128, 3), (128, 128, 3)),
    *((128 + 64, 64, 3), (64, 64, 3)),
    *((64 + 32, 32, 3), (32, 32, 3)),
    *((32 + 16, 16, 3), (16, 16, 3)),
    (16, 6, 1),
]
DISCRIMINATOR = [(1, 64, 4), (64, 128, 4), (128, 256, 4), (256, 512, 4), (512, 1, 4)]


def convolutions(network):
    """(in, out, kernel, has a bias) of each convolution in the order in which an image passes them."""
    seen = []

    def note(layer, _inputs, _output):
        seen.append((layer.in_channels, layer.out_channels, layer.kernel_size[0], layer.bias is not None))

    hooks = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]
    axes = 3 if any(isinstance(m, nn.Conv3d) for m in network.modules()) else 2
    with torch.no_grad():
        network(torch.zeros(1, 1, *[24] * axes, device="meta"))
    for hook in hooks:
        hook.remove()
    return seen


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def expected(table, dimensions, biased):
    """Parameters of a table of layers; `biased` says which of them have a bias."""
    return sum(i * o * k**dimensions + o * biased(at) for at, (i, o, k) in enumerate(table))


def last_alone(table):
    return lambda at: at == len(table) - 1


# Parameters


@pytest.mark.parametrize(
    ("build", "table", "biased", "totals"),
    [
        (SkipGenerator, GENERATOR, last_alone(GENERATOR), {3: 2_185_057, 2: 728_353}),
        (lambda **options: SkipSegmentor(1, 6, **options), SEGMENTOR, lambda _: True, {3: 1_459_670, 2: 487_094}),
        (PatchGAN, DISCRIMINATOR, lambda _: True, {3: 11_047_873, 2: 2_762_689}),
    ],
)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_layers_and_parameters_are_those_of_the_table(build, table, biased, totals, dimensions):
    with torch.device("meta"):
        network = build(dimensions=dimensions)
    assert convolutions(network) == [(*layer, biased(at)) for at, layer in enumerate(table)]
    assert count(network) == expected(table, dimensions, biased) == totals[dimensions]


def test_norms_stand_in_the_generator_alone_and_have_no_parameters():
    generator, segmentor = SkipGenerator(width=1 / 8), SkipSegmentor(width=1 / 8)
    norms = [m for m in generator.modules() if isinstance(m, nn.InstanceNorm3d)]
    assert len(norms) == len(GENERATOR) - 1
    assert not any(norm.affine or norm.track_running_stats for norm in norms)
    assert not any("Norm" in type(m).__name__ for m in segmentor.modules())
    assert sum(isinstance(m, nn.MaxPool3d) for m in segmentor.modules()) == 3
    strides = [m.stride[0] for m in generator.modules() if isinstance(m, nn.Conv3d)]
    assert strides.count(2) == 3
    for network in (generator, segmentor):
        enlargements = [m for m in network.modules() if isinstance(m, nn.Upsample)]
        assert [(m.mode, m.scale_factor) for m in enlargements] == [("nearest", 2.0)] * 3
        assert not any(isinstance(m, nn.ConvTranspose3d) for m in network.modules())


def test_width_scales_all_channels_but_the_images():
    with torch.device("meta"):
        for network in (SkipGenerator(2, 3, width=0.5), SkipSegmentor(2, 3, width=0.5)):
            layers = [m for m in network.modules() if isinstance(m, nn.Conv3d)]
            assert layers[0].in_channels == 2
            assert {layer.out_channels for layer in layers} == {3, 8, 16, 32, 64}
            assert layers[-1].out_channels == 3


# What a voxel sees


class Linear(nn.Module):
    """In the place of max-pooling: a mean, through which a gradient reaches all voxels and not the largest alone."""

    def __init__(self, dimensions):
        super().__init__()
        self.pool = {2: functional.avg_pool2d, 3: functional.avg_pool3d}[dimensions]

    def forward(self, x):
        return self.pool(x, 2)


def receptive_field(network, edges, at):
    """First and last voxel along the last axis that the output at `at` depends on, by its gradient."""
    network = copy.deepcopy(network).double()
    for name, module in list(network.named_modules()):
        parent = network.get_submodule(name.rpartition(".")[0])
        if isinstance(module, nn.InstanceNorm2d | nn.InstanceNorm3d | nn.ReLU | nn.LeakyReLU):
            # Statistics over the whole image would let every voxel see every other.
            setattr(parent, name.rpartition(".")[2], nn.Identity())
        elif isinstance(module, nn.MaxPool2d | nn.MaxPool3d):
            setattr(parent, name.rpartition(".")[2], Linear(len(edges)))
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.01)  # all of one sign, so that no two ways cancel
    image = torch.zeros(1, 1, *edges, dtype=torch.float64, requires_grad=True)
    output = network.logits(image) if isinstance(network, SkipUNet) else network(image)
    output[(0, 0, *(length // 2 for length in output.shape[2:-1]), at)].backward()
    seen = image.grad[0, 0].abs().flatten(0, -2).amax(0).nonzero().flatten()
    return int(seen.min()), int(seen.max())


@pytest.mark.parametrize("edges", [(16, 240), (16, 16, 240)])
def test_a_voxel_of_the_generator_sees_115_voxels(edges):
    # From an output voxel at a multiple of 8, in steps to the coarser grid and back; [-4, 4] of the fine grid is
    # [-2, 2] of the next, and [-5, 4] there comes from [-11, 9] through a convolution of stride 2:
    #   1/1: last, two, enlarged: 4                                   [-4, 4] -> 1/2 [-2, 2]
    #   1/2: two, enlarged: 3                                         [-5, 5] -> 1/4 [-3, 2]
    #   1/4: 3                                                        [-6, 5] -> 1/8 [-3, 2]
    #   1/8: two                                     [-5, 4]; stride 2 -> 1/4 [-11, 9]
    #   1/4: two                                    [-13, 11]; stride 2 -> 1/2 [-27, 23]
    #   1/2: two                                    [-29, 25]; stride 2 -> 1/1 [-59, 51]
    #   1/1: two                                    [-61, 53]
    network = SkipGenerator(width=1 / 8, dimensions=len(edges))
    assert receptive_field(network, edges, 120) == (120 - 61, 120 + 53)


@pytest.mark.parametrize("edges", [(16, 240), (16, 16, 240)])
def test_a_voxel_of_the_segmentor_sees_92_voxels(edges):
    #   1/1: two                                                      [-2, 2] -> 1/2 [-1, 1]
    #   1/2: two                                                      [-3, 3] -> 1/4 [-2, 1]
    #   1/4: two                                                      [-4, 3] -> 1/8 [-2, 1]
    #   1/8: two                                        [-4, 3]; pooled -> 1/4 [-8, 7]
    #   1/4: two                                      [-10, 9]; pooled -> 1/2 [-20, 19]
    #   1/2: two                                     [-22, 21]; pooled -> 1/1 [-44, 43]
    #   1/1: two                                     [-46, 45]
    network = SkipSegmentor(width=1 / 8, dimensions=len(edges))
    assert receptive_field(network, edges, 120) == (120 - 46, 120 + 45)


def test_a_logit_of_the_discriminator_sees_a_sub_volume_of_70_voxels():
    first, last = receptive_field(PatchGAN(width=1 / 32, dimensions=3), (32, 32, 160), 9)
    assert last - first + 1 == 70


# Any size


@pytest.mark.parametrize("edges", [PAPER_EDGES, (24, 40), (9, 23), (33, 16, 10)])
def test_what_comes_out_has_the_size_of_what_goes_in(edges):
    torch.manual_seed(0)
    image = torch.rand(1, 2, *edges) * 2 - 1
    with torch.no_grad():
        made = SkipGenerator(2, 3, width=1 / 8, dimensions=len(edges))(image)
        logits = SkipSegmentor(2, 6, width=1 / 4, dimensions=len(edges))(image)
    assert made.shape == (1, 3, *edges)
    assert made.abs().max() <= 1
    assert logits.shape == (1, 6, *edges)


def test_86_is_reflected_to_88_and_the_middle_is_given_back():
    torch.manual_seed(0)
    image = torch.randn(1, 1, *PAPER_EDGES)
    wide = padded(image, 8)
    assert wide.shape == (1, 1, 88, 112, 112)
    assert torch.equal(wide[:, :, 1:87], image)
    assert torch.equal(wide[:, :, 0], image[:, :, 1])  # mirrored at the outermost plane, which is not doubled
    assert torch.equal(wide[:, :, 87], image[:, :, 84])
    assert torch.equal(cropped(wide, PAPER_EDGES), image)
    odd = torch.randn(1, 1, 5, 19)
    assert torch.equal(cropped(padded(odd, 8), (5, 19)), odd)
    assert padded(wide, 8) is wide
    with pytest.raises(ValueError, match="too short to be reflected to multiples of 8"):
        padded(torch.zeros(1, 1, 3, 16), 8)


def test_a_volume_that_fits_is_not_touched_by_the_padding():
    """Edges of multiples of 8 give what the layers alone give."""
    torch.manual_seed(0)
    network, image = SkipSegmentor(1, 3, width=1 / 4, dimensions=2), torch.randn(1, 1, 16, 24)
    x, skips = image, []
    for level in network.encoder:
        x = level(x)
        skips.append(x)
    for stage, skip in zip(network.decoder, skips[2::-1], strict=True):
        x = stage.convolutions(torch.cat([functional.interpolate(x, scale_factor=2, mode="nearest"), skip], 1))
    assert torch.equal(network(image), network.output(x))


def test_tanh_is_float32_under_bfloat16():
    torch.manual_seed(0)
    network, image = SkipGenerator(width=1 / 4, dimensions=2), torch.rand(1, 1, 32, 32) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):
        half = network(image)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, network(image), atol=0.1, rtol=0.1)


# First weights


def test_a_signal_keeps_its_size_through_a_segmentor_without_norms():
    torch.manual_seed(0)
    network = initialise_he(SkipSegmentor(1, 6, dimensions=2))
    logits = network(torch.rand(1, 1, 64, 64) * 2 - 1)
    assert 0.1 < logits.std() < 10
    first = network.encoder[1][1][0]
    assert first.weight.std().item() == pytest.approx((2 / (16 * 9)) ** 0.5, rel=0.05)
    assert not first.bias.any()


# Gradient checkpointing


def gradients(network, image, weight):
    """Gradients of all parameters and of the image."""
    image = image.clone().requires_grad_(True)
    network.zero_grad(set_to_none=True)
    (network(image) * weight).sum().backward()
    return [image.grad, *(parameter.grad for parameter in network.parameters())]


@pytest.mark.parametrize("build", [SkipGenerator, SkipSegmentor])
def test_levels_that_are_computed_again_give_the_same_gradients_bit_for_bit(build):
    torch.manual_seed(0)
    network, image = build(1, 2, width=1 / 4), torch.rand(1, 1, 22, 16, 16) * 2 - 1
    weight = torch.randn(1, 2, 22, 16, 16)
    plain = gradients(network, image, weight)
    passes = []
    levels = [*network.encoder, *network.decoder]
    for level in levels:
        level.register_forward_pre_hook(lambda *_: passes.append(1))
    recompute_blocks(network)
    again = gradients(network, image, weight)
    assert len(passes) == 2 * len(levels)  # each once more
    for mine, theirs in zip(again, plain, strict=True):
        assert torch.equal(mine, theirs)


def test_a_fixed_segmentor_that_is_computed_again_passes_the_gradient_on():
    """As in the generators' turn: no parameter learns, the image does."""
    torch.manual_seed(0)
    network = SkipSegmentor(1, 2, width=1 / 4, dimensions=2).requires_grad_(False)
    image = torch.rand(1, 1, 16, 16, requires_grad=True)
    network(image).square().sum().backward()
    plain, image.grad = image.grad, None
    recompute_blocks(network)
    network(image).square().sum().backward()
    assert torch.equal(image.grad, plain)
