"""SPADE against a loop over channels and pixels written from its formula."""

import math

import numpy as np
import torch

from metgan_dist.networks.spade import SpadeBlock, SpadeNorm


def convolve_at(image, weight, bias, row, column):
    """One output vector of a zero-padded 3x3 convolution, by loops. image (C, H, W), weight (O, C, 3, 3)."""
    channels, height, width = image.shape
    result = bias.copy()
    for i in range(3):
        for j in range(3):
            y, x = row + i - 1, column + j - 1
            if 0 <= y < height and 0 <= x < width:
                for channel in range(channels):
                    result += weight[:, channel, i, j] * image[channel, y, x]
    return result


def test_spade_is_its_formula_pixel_by_pixel():
    torch.manual_seed(0)
    norm = SpadeNorm(2, 3, hidden=4).double()
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    label = torch.nn.functional.one_hot(torch.randint(0, 3, (2, 8, 8)), 3).movedim(-1, 1).double()
    result = norm(x, label).detach().numpy()

    weights = {name: parameter.detach().numpy() for name, parameter in norm.named_parameters()}
    for n in range(2):
        small = label[n].numpy()[:, ::2, ::2]  # nearest neighbour from 8 to 4 takes every second pixel
        hidden = np.zeros((4, 4, 4))
        for row in range(4):
            for column in range(4):
                value = convolve_at(small, weights["shared.0.weight"], weights["shared.0.bias"], row, column)
                hidden[:, row, column] = np.maximum(value, 0)
        for row in range(4):
            for column in range(4):
                gamma = convolve_at(hidden, weights["gamma.weight"], weights["gamma.bias"], row, column)
                beta = convolve_at(hidden, weights["beta.weight"], weights["beta.bias"], row, column)
                for channel in range(2):
                    values = x[:, channel].numpy()
                    normalised = (values[n, row, column] - values.mean()) / math.sqrt(values.var() + 1e-5)
                    expected = normalised * (1 + gamma[channel]) + beta[channel]
                    assert abs(result[n, channel, row, column] - expected) < 1e-10


def test_regions_of_one_label_are_modulated_alike():
    torch.manual_seed(0)
    norm = SpadeNorm(3, 2, hidden=8)
    label = torch.zeros(1, 2, 32, 32)
    label[:, 0, :, :16], label[:, 1, :, 16:] = 1, 1
    x = torch.randn(1, 3, 1, 1).expand(1, 3, 32, 32) + torch.randn(1, 3, 32, 32) * 0
    result = norm(x, label)
    inside = (
        result[..., 4:28, 4:12],
        result[..., 4:28, 20:28],
    )  # away from borders and from the edge between the regions
    for region in inside:
        torch.testing.assert_close(region, region[..., :1, :1].expand_as(region))
    assert (inside[0].mean() - inside[1].mean()).abs() > 1e-3


def test_shortcut_is_learned_only_where_the_width_changes():
    assert not hasattr(SpadeBlock(8, 8, 2, hidden=8), "conv_shortcut")
    assert SpadeBlock(8, 4, 2, hidden=8).conv_shortcut.bias is None


def test_spectral_norm_holds_the_largest_singular_value_at_one():
    torch.manual_seed(0)
    block = SpadeBlock(6, 4, 2, hidden=8)
    label = torch.ones(2, 2, 8, 8)
    for _ in range(60):
        block(torch.randn(2, 6, 8, 8), label)
    for convolution in (block.conv_0, block.conv_1, block.conv_shortcut):
        largest = torch.linalg.svdvals(convolution.weight.detach().flatten(1))[0]
        torch.testing.assert_close(largest, torch.tensor(1.0), atol=1e-3, rtol=0)


def test_block_can_be_used_twice_before_one_backward():
    block = SpadeBlock(4, 4, 2, hidden=8)
    label = torch.ones(2, 2, 8, 8)
    (block(torch.randn(2, 4, 8, 8), label) - block(torch.randn(2, 4, 8, 8), label)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())
