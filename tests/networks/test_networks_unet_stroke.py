"""Paper 4's U-Net: its count, its layout, what it is trained by, and sizes that it refuses."""

import pytest
import torch
from torch import nn

from metgan_dist.networks.unet_stroke import UNetStroke


def test_it_has_the_appendix_count_with_a_last_kernel_of_3():
    with torch.device("meta"):
        network = UNetStroke(1, 2)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == 5_646_242
    last = network.output
    assert count - sum(p.numel() for p in last.parameters()) + (last.in_channels + 1) * 2 == 5_645_410  # kernel 1


def test_levels_and_bottleneck_are_the_appendix():
    with torch.device("meta"):
        network = UNetStroke(1, 2)
    assert [level[0].out_channels for level in network.down] == [16, 32, 64, 128]
    assert network.bottleneck[0].out_channels == 256
    assert [up[0].out_channels for up in network.up] == [128, 64, 32, 16]
    assert {(up[0].kernel_size, up[0].stride) for up in network.up} == {((2, 2, 2), (2, 2, 2))}
    assert [type(layer).__name__ for layer in network.up[0]] == ["ConvTranspose3d", "BatchNorm3d", "ReLU"]
    block = ["Conv3d", "ReLU", "Dropout"] * 2
    for level in (*network.down, network.bottleneck, *network.merged):
        assert [type(layer).__name__ for layer in level] == block
    assert {module.p for module in network.modules() if isinstance(module, nn.Dropout)} == {0.02}


@pytest.mark.parametrize(("shape", "dimensions"), [((16, 32, 48), 3), ((32, 48), 2)])
def test_logits_have_the_size_of_the_image_and_every_parameter_a_gradient(shape, dimensions):
    torch.manual_seed(0)
    network = UNetStroke(2, 3, width=1 / 8, dimensions=dimensions)
    logits = network(torch.rand(2, 2, *shape))
    assert logits.shape == (2, 3, *shape)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_dropout_is_noise_in_training_alone():
    torch.manual_seed(0)
    network, image = UNetStroke(1, 2, width=1 / 4, dimensions=2), torch.rand(1, 1, 32, 32)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))


def test_a_signal_keeps_its_size_down_to_the_bottleneck():
    """No norm is there to restore it; from torch's own start it fades to a hundredth."""
    torch.manual_seed(0)
    network, seen = UNetStroke(1, 2, dimensions=2).eval(), []
    network.bottleneck.register_forward_hook(lambda module, given, made: seen.append(made.std() / given[0].std()))
    network.down[0].register_forward_hook(lambda module, given, made: seen.append(made.std() / given[0].std()))
    network(torch.randn(1, 1, 64, 64))
    assert all(0.3 < ratio < 3 for ratio in seen)


def test_an_edge_that_does_not_halve_four_times_is_refused():
    with pytest.raises(ValueError, match=r"\(24, 32, 32\) must be multiples of 16"):
        UNetStroke(1, 2, width=1 / 8)(torch.zeros(1, 1, 24, 32, 32))
