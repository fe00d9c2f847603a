"""DynUNet is laid out as nnU-Net's, in 2D and 3D, and supervises its coarser levels in training alone."""

import pytest
import torch

from metgan_dist.networks.dynunet import DynUNet, strides


@pytest.mark.parametrize(
    ("edges", "levels"),
    [((64, 64), 5), ((128, 128), 6), ((256, 256), 7), ((512, 512), 8), ((1024, 1024), 8), ((16, 64, 64), 5)],
)
def test_axes_are_halved_until_four_pixels_are_left(edges, levels):
    steps = strides(edges)
    assert len(steps) == levels
    assert steps[0] == (1,) * len(edges)
    for axis, edge in enumerate(edges):
        halvings = sum(step[axis] == 2 for step in steps)
        assert edge / 2**halvings >= 4
        assert halvings == levels - 1 or edge / 2**halvings == 4


def test_tiles_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match="cannot be halved"):
        strides((7, 7))


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
