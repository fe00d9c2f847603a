"""The multi-scale discriminator: size, receptive fields, its pyramid, norms and the features it gives."""

import pytest
import torch
from torch import nn

from metgan_dist.networks.multiscale import MultiscaleDiscriminator


def receptive_field(scale, edge):
    """Edge of the square of input pixels that one logit's gradient reaches, through the convolutions alone."""
    image = torch.randn(1, 1, edge, edge, dtype=torch.float64, requires_grad=True)
    x = image
    for stage in scale.double().stages:
        layers = stage if isinstance(stage, nn.Sequential) else [stage]
        for layer in layers:
            if not isinstance(layer, nn.InstanceNorm2d):  # whose statistics let every logit see every pixel
                x = layer(x)
    x[0, 0, x.shape[2] // 2, x.shape[3] // 2].backward()
    rows, columns = torch.nonzero(image.grad[0, 0], as_tuple=True)
    assert rows.min() > 0
    assert rows.max() < edge - 1
    return int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1


def convolutions(scale):
    return [module for module in scale.modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize(("layers", "last_stride", "field"), [(4, 1, 70), (3, 1, 34), (3, 2, 46)])
def test_one_logit_of_the_first_scale_sees_the_patch_that_is_documented(layers, last_stride, field):
    torch.manual_seed(0)
    discriminator = MultiscaleDiscriminator(1, layers=layers, last_stride=last_stride, width=1 / 16)
    assert receptive_field(discriminator.scales[0], 160) == (field, field)


def test_spades_discriminator_has_the_layers_and_parameters_of_its_publication():
    with torch.device("meta"):
        discriminator = MultiscaleDiscriminator(1, condition_channels=2)
    first, *middle, last = 64, 128, 256, 512, 1
    by_hand = (3 * first * 16 + first) + sum(i * o * 16 for i, o in zip((first, *middle), middle, strict=False))
    by_hand += middle[-1] * last * 16 + last
    assert len(discriminator.scales) == 2
    for scale in discriminator.scales:
        layers = convolutions(scale)
        assert [layer.out_channels for layer in layers] == [64, 128, 256, 512, 1]
        assert [layer.stride[0] for layer in layers] == [2, 2, 2, 1, 1]
        assert sum(p.numel() for p in scale.parameters()) == by_hand == 2_763_841


def test_channels_stop_at_512_and_follow_the_width():
    deep = MultiscaleDiscriminator(1, layers=6, width=1 / 32).scales[0]
    assert [layer.out_channels for layer in convolutions(deep)] == [2, 4, 8, 16, 16, 16, 1]


def test_every_layers_features_are_given_and_the_logits_come_last():
    torch.manual_seed(0)
    discriminator = MultiscaleDiscriminator(2, condition_channels=3, width=1 / 16)
    outputs = discriminator(torch.randn(2, 2, 64, 96), torch.randn(2, 3, 64, 96))
    assert [tuple(feature.shape) for feature in outputs[0]] == [
        (2, 4, 33, 49),
        (2, 8, 17, 25),
        (2, 16, 9, 13),
        (2, 32, 10, 14),
        (2, 1, 11, 15),
    ]
    assert [tuple(feature.shape) for feature in outputs[1]][-1] == (2, 1, 7, 9)
    for scale, features in zip(discriminator.scales, outputs, strict=True):
        torch.testing.assert_close(scale.stages[-1](features[-2]), features[-1])


def test_second_scale_sees_means_of_three_by_three_pixels_without_the_padding():
    torch.manual_seed(0)
    discriminator = MultiscaleDiscriminator(1, width=1 / 16).eval()
    image = torch.randn(1, 1, 16, 16)
    small = torch.empty(1, 1, 8, 8)
    for row in range(8):
        for column in range(8):
            rows, columns = slice(max(2 * row - 1, 0), 2 * row + 2), slice(max(2 * column - 1, 0), 2 * column + 2)
            small[0, 0, row, column] = image[0, 0, rows, columns].mean()
    for given, expected in zip(discriminator(image)[1], discriminator.scales[1](small), strict=True):
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)


def test_inner_layers_have_both_norms_and_the_ends_have_none():
    for scale in MultiscaleDiscriminator(1, width=1 / 16).scales:
        first, *inner, last = scale.stages
        assert [type(layer) for layer in first] == [nn.Conv2d, nn.LeakyReLU]
        assert type(last) is nn.Conv2d
        for stage in inner:
            convolution, norm, activation = stage
            assert hasattr(convolution, "parametrizations")
            assert convolution.bias is None
            assert isinstance(norm, nn.InstanceNorm2d)
            assert not norm.affine
            assert not norm.track_running_stats
            assert activation.negative_slope == 0.2


def test_spectral_norms_come_to_one():
    torch.manual_seed(0)
    discriminator = MultiscaleDiscriminator(1, width=1 / 16)
    with torch.no_grad():
        for _ in range(100):
            discriminator(torch.randn(1, 1, 16, 16))
    for scale in discriminator.scales:
        for convolution in convolutions(scale)[1:-1]:
            largest = torch.linalg.svdvals(convolution.weight.detach().flatten(1))[0]
            torch.testing.assert_close(largest, torch.tensor(1.0), atol=1e-3, rtol=0)


def test_condition_comes_first_and_is_missed_when_it_is_missing():
    torch.manual_seed(0)
    discriminator = MultiscaleDiscriminator(1, condition_channels=2, width=1 / 16).eval()
    condition, image = torch.randn(1, 2, 32, 32), torch.randn(1, 1, 32, 32)
    expected = discriminator.scales[0](torch.cat([condition, image], dim=1))
    assert torch.equal(discriminator(image, condition)[0][-1], expected[-1])
    with pytest.raises(ValueError, match="2 channels expected, got 0"):
        discriminator(image)
    with pytest.raises(ValueError, match="0 channels expected, got 2"):
        MultiscaleDiscriminator(1, width=1 / 16)(image, condition)


def test_batch_of_two_has_the_mean_gradient_of_its_images():
    torch.manual_seed(0)
    discriminator = MultiscaleDiscriminator(1, width=1 / 16).double().eval()
    images = torch.randn(2, 1, 32, 32, dtype=torch.float64)

    def gradient(batch):
        discriminator.zero_grad()
        sum((scale[-1] - 1).square().mean() for scale in discriminator(batch)).backward()
        return [parameter.grad.clone() for parameter in discriminator.parameters()]

    joint, first, second = gradient(images), gradient(images[:1]), gradient(images[1:])
    for both, one, other in zip(joint, first, second, strict=True):
        assert both.abs().max() > 0
        torch.testing.assert_close(both, (one + other) / 2, rtol=1e-9, atol=1e-12)


def test_three_scales_and_three_dimensions_run():
    outputs = MultiscaleDiscriminator(1, scales=3, width=1 / 32, dimensions=3)(torch.randn(1, 1, 16, 16, 16))
    assert [scale[-1].shape[:2] for scale in outputs] == [(1, 1)] * 3
