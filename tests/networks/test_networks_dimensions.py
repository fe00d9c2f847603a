"""Networks of two and three dimensions are one definition: sizes, counts worked out by hand, thin volumes."""

import math

import pytest
import torch

from metgan_dist.networks.dimensions import check_edges, halvings
from metgan_dist.networks.dynunet import DynUNet
from metgan_dist.networks.initialise import initialise
from metgan_dist.networks.label_path import LabelPath
from metgan_dist.networks.metgen import MetGen
from metgan_dist.networks.patchgan import PatchGAN, shortest_edge
from metgan_dist.networks.resnet_9 import ResNet9
from metgan_dist.networks.unet import UNet, centre_values, halvings_of
from metgan_dist.networks.unet_256 import UNet256, downs_of


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_edges_halve_without_a_remainder_and_no_more_than_asked():
    assert halvings((64, 96, 24, 7, 0), 6) == (6, 5, 3, 0, 0)
    assert halvings((256,), 3) == (3,)


@pytest.mark.parametrize(
    ("edges", "divisor", "least", "told"),
    [
        ((64, 66), 4, 1, r"\(64, 66\) must be multiples of 4$"),
        ((4, 64), 4, 8, "must be multiples of 4, at least 8$"),
        ((24, 64, 72), (8, 64, 64), 1, r"must be multiples of \(8, 64, 64\)$"),
        ((24, 64), (64, 64), 1, "must be multiples of 64$"),
    ],
)
def test_edges_that_do_not_fit_are_told(edges, divisor, least, told):
    with pytest.raises(ValueError, match=told):
        check_edges(edges, divisor, least)
    check_edges([16 * 64] * len(edges), divisor, least)


def test_a_kernel_with_a_third_axis_has_as_many_more_weights_and_nothing_else_is_new():
    with torch.device("meta"):
        flat, deep = UNet256(1, 1, downs=6), UNet256(1, 1, downs=6, dimensions=3)
        two, three = ResNet9(1, 1), ResNet9(1, 1, dimensions=3)
        patches, cubes = PatchGAN(1), PatchGAN(1, dimensions=3)
    # 4x4 and 4x4x4; norms of 2 x (64 .. 512, 512) down (the first and the innermost have none) and up; one bias.
    rest = 2 * (128 + 256 + 512 + 512) + 2 * (512 + 512 + 256 + 128 + 64) + 1
    assert count(deep) - rest == 4 * (count(flat) - rest)
    # 7 x 7 at both ends, 3 x 3 between; a bias each, and norms without parameters.
    ends, biases = 2 * 64, 64 + 128 + 256 + 9 * 2 * 256 + 128 + 64 + 1
    between = 2 * (64 * 128 + 128 * 256) + 9 * 2 * 256 * 256
    assert count(two) == 49 * ends + 9 * between + biases
    assert count(three) == 343 * ends + 27 * between + biases
    weights = 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512
    assert count(cubes) - count(patches) == (64 - 16) * weights


@pytest.mark.parametrize("edges", [(32, 32, 32), (32, 64, 96)])
def test_u_net_256_translates_volumes_within_the_range(edges):
    torch.manual_seed(0)
    network = UNet256(2, 3, width=1 / 16, downs=downs_of(*edges), dimensions=3)
    made = network(torch.randn(1, 2, *edges))
    assert made.shape == (1, 3, *edges)
    assert made.abs().max() <= 1
    made.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    with pytest.raises(ValueError, match="multiples of 32"):
        downs_of(24, 64, 64)


def test_resnet_9_translates_volumes_and_a_network_without_the_third_axis_is_the_flat_one():
    """A volume that is the same in all planes, kernels with weights in their middle plane alone: the flat image."""
    torch.manual_seed(0)
    flat, deep = (ResNet9(1, 1, width=1 / 16, blocks=2, dimensions=n) for n in (2, 3))
    initialise(flat, 0.2)
    for ours, theirs in zip(flat.parameters(), deep.parameters(), strict=True):
        with torch.no_grad():
            if theirs.dim() == 5:
                theirs.zero_()
                theirs[:, :, theirs.shape[2] // 2] = ours
            else:
                theirs.copy_(ours)
    image = torch.randn(1, 1, 16, 20)
    volume = image[:, :, None].expand(-1, -1, 8, -1, -1)
    # Transposed convolutions of stride 2 write every second plane; elsewhere no weight reaches, so only those count.
    residual = deep.model[:4](volume)
    torch.testing.assert_close(residual[:, :, 3], flat.model[:4](image), atol=1e-4, rtol=1e-4)
    assert deep(volume).shape == (1, 1, 8, 16, 20)


@pytest.mark.parametrize(
    ("edges", "often", "left"),
    [((64, 64), (6, 6), 1), ((128, 64), (6, 6), 2), ((24, 64, 128), (3, 6, 6), 3 * 2), ((64, 64, 64), (6, 6, 6), 1)],
)
def test_a_thin_axis_halves_as_often_as_it_can(edges, often, left):
    assert halvings_of(edges) == often
    assert centre_values(edges) == left
    seen = []
    network = UNet(1, 1, width=1 / 16, dimensions=len(edges), halvings=often).eval()
    network.centre.register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape[2:].numel()))
    assert network(torch.randn(1, 1, *edges)).shape == (1, 1, *edges)
    assert seen == [left]
    assert network.divisor == tuple(2**times for times in often)


def test_how_often_an_axis_halves_changes_no_weight():
    generators = []
    for often in (None, (3, 6, 6)):
        torch.manual_seed(0)
        generators.append(MetGen(width=1 / 16, dimensions=3, halvings=often))
    torch.testing.assert_close(generators[0].state_dict(), generators[1].state_dict(), rtol=0, atol=0)


def test_label_features_of_a_thin_volume_have_the_sizes_of_the_u_nets_levels():
    path = LabelPath(2, width=1 / 16, dimensions=3, merge_full_resolution=True, halvings=(3, 6, 6))
    features = path(torch.randint(0, 2, (1, 24, 64, 128)))
    sizes = {level: tuple(feature.shape[2:]) for level, feature in features.items()}
    assert sizes == {4: (3, 4, 8), 3: (3, 8, 16), 2: (6, 16, 32), 1: (12, 32, 64), 0: (24, 64, 128)}


def test_metgen_trains_on_thin_volumes_and_refuses_those_that_halve_less_often():
    torch.manual_seed(0)
    generator = MetGen(width=1 / 16, dimensions=3, halvings=(3, 5, 5))
    label = torch.randint(0, 2, (1, 24, 32, 32))
    made = generator(torch.randn(1, 1, 24, 32, 32), generator.encode_label(label))
    assert made.shape == (1, 1, 24, 32, 32)
    made.square().mean().backward()
    assert [name for name, p in generator.named_parameters() if p.grad is None] == []
    with pytest.raises(ValueError, match=r"multiples of \(8, 32, 32\)"):
        generator.encode_label(label[:, :20])


def test_dynunet_takes_the_tiles_that_it_is_laid_out_for_whichever_axis_halves_less_often():
    edges = (24, 32, 40)
    network = DynUNet(1, 1, edges, width=1 / 16)
    assert network.divisor == (4, 8, 8)
    assert network(torch.randn(1, 1, *edges)).shape == (1, 1, *edges)
    with pytest.raises(ValueError, match=r"multiples of \(4, 8, 8\)"):
        network(torch.randn(1, 1, 24, 36, 40))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_shortest_edge_of_a_patchgan_leaves_one_logit(dimensions):
    for layers in (2, 3):
        network, edge = PatchGAN(width=1 / 16, layers=layers, dimensions=dimensions), shortest_edge(layers)
        assert math.prod(network(torch.randn(1, 1, *[edge] * dimensions)).shape) == 1
        with pytest.raises((RuntimeError, ValueError)):
            network(torch.randn(1, 1, *[edge - 1] * dimensions))
