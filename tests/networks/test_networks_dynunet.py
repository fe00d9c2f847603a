"""DynUNet is laid out as nnU-Net's, in 2D and 3D, and supervises its coarser levels in training alone."""

import pytest
import torch

from metgan_dist.networks.dynunet import DynUNet, dynunet_layout


@pytest.mark.parametrize(
    ("edges", "levels"),
    [((64, 64), 5), ((128, 128), 6), ((256, 256), 7), ((512, 512), 8), ((1024, 1024), 8), ((16, 64, 64), 5)],
)
def test_axes_are_halved_until_four_pixels_are_left(edges, levels):
    steps = dynunet_layout(edges).strides
    assert len(steps) == levels
    assert steps[0] == (1,) * len(edges)
    for axis, edge in enumerate(edges):
        halvings = sum(step[axis] == 2 for step in steps)
        assert edge / 2**halvings >= 4
        assert halvings == levels - 1 or edge / 2**halvings == 4


def test_tiles_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match="cannot be halved"):
        dynunet_layout((7, 7))


def test_channels_are_nnunets():
    with torch.device("meta"):
        network = DynUNet(1, 1, (256, 256))
    assert list(network.network.filters) == [32, 64, 128, 256, 512, 512, 512]
    with torch.device("meta"):
        volume = DynUNet(1, 1, (64, 64, 64))
    assert list(volume.network.filters) == [32, 64, 128, 256, 320]
    assert network.divisor == (64, 64)


@pytest.mark.parametrize(("edges", "supervised"), [((64, 64), 3), ((16, 16), 1), ((8, 16, 16), 1)])
def test_logits_have_the_size_of_the_image_and_every_parameter_learns(edges, supervised):
    torch.manual_seed(0)
    network = DynUNet(1, 2, edges, width=1 / 16)
    image = torch.randn(2, 1, *edges)
    outputs = network.supervised(image)
    assert [tuple(logits.shape) for logits in outputs] == [(2, 2, *edges)] * supervised
    torch.stack(outputs).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    network.eval()
    assert len(network.supervised(image)) == 1
    torch.testing.assert_close(network(image), network.supervised(image)[0])
    with pytest.raises(ValueError, match="multiples of"):
        network(torch.randn(1, 1, *(edge + 2 for edge in edges)))


def test_thick_slices_are_not_halved_until_the_plane_is_as_coarse():
    """crossMoDA: 1.5 mm slices of 0.4 mm pixels."""
    with torch.device("meta"):
        network = DynUNet(1, 2, (40, 224, 224), spacing=(1.5, 0.4, 0.4))
        even = DynUNet(1, 2, (40, 224, 224))
    assert (network.divisor, even.divisor) == ((8, 32, 32), (8, 32, 32))
    first = [unit.network.input_block.conv1.conv.weight.shape for unit in (network, even)]
    assert first == [(32, 1, 1, 3, 3), (32, 1, 3, 3, 3)]
    assert network.network.downsamples[0].conv1.conv.stride == (1, 2, 2)
    assert even.network.downsamples[0].conv1.conv.stride == (2, 2, 2)
    torch.manual_seed(0)
    narrow = DynUNet(1, 2, (8, 32, 32), spacing=(4, 1, 1), width=1 / 16)
    assert narrow.divisor == (2, 8, 8)
    outputs = narrow.supervised(torch.randn(2, 1, 8, 32, 32))
    assert [tuple(one.shape) for one in outputs] == [(2, 2, 8, 32, 32)] * 2
