"""The U-Net is the authors' network, in 2D and 3D."""

import pytest
import torch

from metgan_dist.networks.unet import UNet


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_segmentor_has_the_authors_parameter_count():
    with torch.device("meta"):
        assert count(UNet(1, 1)) == 35_371_441


def test_merges_add_exactly_the_convolutions_that_read_them():
    with torch.device("meta"):
        merged = UNet(1, 1, merge={4: 128, 3: 128, 2: 32, 1: 16})
    assert count(merged) == 35_602_993
    assert count(merged) - 35_371_441 == 9 * (128 * 128 + 128 * 64 + 32 * 24 + 16 * 24)


def test_decoder_gives_the_papers_channels_and_sizes():
    network = UNet(1, 1, width=1 / 8).eval()
    shapes = []
    for stage in network.decoder:
        stage.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape[1:])))
    network(torch.randn(1, 1, 128, 192))
    assert shapes == [(64, 4, 6), (32, 8, 12), (16, 16, 24), (8, 32, 48), (3, 64, 96), (3, 128, 192)]


@pytest.mark.parametrize("edge", [128, 192])
def test_output_keeps_the_size_of_the_input(edge):
    assert UNet(1, 3, width=1 / 16)(torch.randn(1, 1, edge, edge)).shape == (1, 3, edge, edge)


def test_three_dimensional_network_runs_and_trains():
    network = UNet(1, 2, width=1 / 16, dimensions=3)
    output = network(torch.randn(2, 1, 64, 64, 64))
    assert output.shape == (2, 2, 64, 64, 64)
    output.square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_merged_features_reach_the_output_at_every_level():
    torch.manual_seed(0)
    merge = {4: 5, 2: 3, 0: 2}
    network = UNet(1, 1, width=1 / 16, merge=merge)
    features = {level: torch.randn(2, n, 128 >> level, 128 >> level, requires_grad=True) for level, n in merge.items()}
    network(torch.randn(2, 1, 128, 128), features).square().sum().backward()
    assert all(feature.grad.abs().max() > 0 for feature in features.values())


def test_wrong_sizes_and_missing_features_are_refused_not_cropped():
    with pytest.raises(ValueError, match="multiples of 64"):
        UNet(1, 1, width=1 / 16)(torch.randn(1, 1, 128, 96))
    with pytest.raises(ValueError, match=r"levels \[1\] expected, got \[\]"):
        UNet(1, 1, width=1 / 16, merge={1: 2})(torch.randn(1, 1, 128, 128))
    with pytest.raises(ValueError, match="merge levels"):
        UNet(1, 1, width=1 / 16, merge={6: 2})
    with pytest.raises(ValueError, match="dimensions must be 2 or 3"):
        UNet(1, 1, dimensions=1)
