"""3D convolutions lie as a CPU takes them, and compute what they did."""

import copy

import torch
from torch import nn

from metgan_dist.networks.cycle_shape import SkipGenerator
from metgan_dist.networks.layout import lay_out


def last(weight):
    return weight.is_contiguous(memory_format=torch.channels_last_3d) and not weight.is_contiguous()


def test_3d_convolutions_of_stride_1_have_their_channels_last():
    network = nn.Sequential(
        nn.Conv3d(2, 4, 3), nn.Conv3d(4, 4, 3, stride=2), nn.ConvTranspose3d(4, 2, 3), nn.Sequential(nn.Conv3d(2, 3, 3))
    )
    before = [weight.detach().clone() for weight in network.parameters()]
    parameters = list(network.parameters())
    lay_out(network)
    assert [last(weight) for weight in network.parameters() if weight.dim() == 5] == [True, False, False, True]
    for weight, value, own in zip(network.parameters(), before, parameters, strict=True):
        assert torch.equal(weight, value)
        assert weight is own  # an optimiser knows it


def test_images_are_left_alone():
    network = nn.Conv2d(2, 4, 3)
    lay_out(network)
    assert network.weight.is_contiguous()


def test_the_order_goes_through_a_network_and_changes_nothing_but_rounding():
    torch.manual_seed(0)
    network = SkipGenerator(width=0.25).double()
    laid = copy.deepcopy(network)
    lay_out(laid)
    images = [torch.randn(2, 1, 16, 16, 16, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    images[1].data.copy_(images[0])
    made = [one(image) for one, image in zip((network, laid), images, strict=True)]
    torch.testing.assert_close(*made)
    for result in made:
        (result**2).sum().backward()
    torch.testing.assert_close(images[0].grad, images[1].grad)
    for one, other in zip(network.parameters(), laid.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
