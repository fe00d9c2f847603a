"""ResNet-9: size, reflection, norms that have no parameters, images that do not mix in a batch."""

import pytest
import torch
from torch.nn import functional

from metgan_dist.networks.resnet_9 import ResidualBlock, ResNet9, reflected


def build(channels=(1, 1), **options):
    torch.manual_seed(0)
    return ResNet9(*channels, width=1 / 16, **options)


def test_one_channel_network_has_the_authors_parameter_count():
    with torch.device("meta"):
        assert sum(p.numel() for p in ResNet9(1, 1).parameters()) == 11_365_633


def test_blocks_and_base_are_what_they_say():
    def count(**options):
        with torch.device("meta"):
            return sum(p.numel() for p in ResNet9(1, 1, **options).parameters())

    assert count(blocks=9) - count(blocks=6) == 3 * 2 * (9 * 256 * 256 + 256)
    assert count(base=32) == count(width=0.5)


@pytest.mark.parametrize(("edges", "channels"), [((64, 64), (1, 1)), ((8, 12), (3, 2)), ((100, 36), (2, 1))])
def test_image_keeps_its_size_and_lies_within_the_range(edges, channels):
    image = build(channels)(torch.randn(2, channels[0], *edges) * 3)
    assert image.shape == (2, channels[1], *edges)
    assert image.abs().max() <= 1


@pytest.mark.parametrize("edges", [(64, 66), (4, 64)])
def test_edges_that_do_not_fit_are_refused(edges):
    with pytest.raises(ValueError, match="must be multiples of 4, at least 8"):
        build()(torch.zeros(1, 1, *edges))


def test_output_is_the_tanh_of_the_residual():
    network, image = build(), torch.randn(1, 1, 16, 16)
    assert torch.equal(network(image), network.residual(image).tanh())


def test_the_border_is_reflected():
    torch.manual_seed(0)
    layer, image = reflected(2, 3, 7), torch.randn(1, 2, 12, 16)
    padded = functional.pad(image, (3, 3, 3, 3), mode="reflect")
    torch.testing.assert_close(layer(image), functional.conv2d(padded, layer.weight, layer.bias))
    modes = [(m.padding_mode, m.stride) for m in build().modules() if isinstance(m, torch.nn.Conv2d)]
    assert [mode for mode, stride in modes if stride == (1, 1)] == ["reflect"] * (1 + 2 * 9 + 1)


def test_block_adds_its_normalised_branch_to_the_input():
    torch.manual_seed(0)
    block, x = ResidualBlock(4), torch.randn(2, 4, 8, 8)

    def normalised(y):
        mean, variance = y.mean(dim=(2, 3), keepdim=True), y.var(dim=(2, 3), keepdim=True, correction=0)
        return (y - mean) / torch.sqrt(variance + 1e-5)

    first, second = block.branch[0], block.branch[3]
    expected = x + normalised(second(normalised(first(x)).relu()))
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)


def test_gradient_reaches_every_parameter_and_norms_have_none():
    network = build()
    network(torch.randn(1, 1, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    norms = [m for m in network.modules() if isinstance(m, torch.nn.InstanceNorm2d)]
    assert len(norms) == 5 + 2 * 9
    assert not any(norm.affine or norm.track_running_stats for norm in norms)


def test_batch_of_two_has_the_mean_gradient_of_its_images():
    network = build(blocks=2).double()
    images = torch.randn(2, 1, 16, 16, dtype=torch.float64)

    def gradient(batch):
        network.zero_grad()
        network(batch).square().mean().backward()
        return [parameter.grad.clone() for parameter in network.parameters()]

    joint, first, second = gradient(images), gradient(images[:1]), gradient(images[1:])
    for both, one, other in zip(joint, first, second, strict=True):
        torch.testing.assert_close(both, (one + other) / 2, rtol=1e-9, atol=1e-12)


def test_tanh_is_float32_under_bfloat16():
    network, image = build(blocks=2), torch.randn(1, 1, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(image)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, network(image), atol=0.1, rtol=0.1)
