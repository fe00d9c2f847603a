"""U-Net-256: size, halvings that follow the image, dropout as a choice, an innermost block of a single pixel."""

import pytest
import torch

from metgan_dist.networks.unet_256 import EnlargingStage, UNet256, downs_of


def build(downs=5, channels=(1, 1), **options):
    torch.manual_seed(0)
    return UNet256(*channels, width=1 / 16, downs=downs, **options)


def test_one_channel_network_has_the_authors_parameter_count():
    with torch.device("meta"):
        assert sum(p.numel() for p in UNet256(1, 1).parameters()) == 54_407_809


def test_each_down_less_saves_one_512_block_each_way():
    def count(downs):
        with torch.device("meta"):
            return sum(p.numel() for p in UNet256(1, 1, downs=downs).parameters())

    # One convolution 512 -> 512 and one 1024 -> 512, each with a norm of 2 x 512.
    block = 16 * (512 * 512 + 1024 * 512) + 2 * 2 * 512
    assert [count(downs + 1) - count(downs) for downs in (5, 6, 7)] == [block] * 3


@pytest.mark.parametrize(
    ("edges", "downs"),
    [((256, 256), 8), ((512, 256), 8), ((1024, 1024), 8), ((128, 256), 7), ((192, 256), 6), ((96, 32), 5)],
)
def test_downs_follow_the_edge_that_halves_least_often(edges, downs):
    assert downs_of(*edges) == downs
    assert downs_of(*reversed(edges)) == downs


@pytest.mark.parametrize("edges", [(16, 256), (256, 300), (0, 0), (33, 64)])
def test_edges_that_do_not_halve_five_times_are_refused(edges):
    with pytest.raises(ValueError, match="must be multiples of 32"):
        downs_of(*edges)


@pytest.mark.parametrize("downs", [4, 9])
def test_downs_outside_the_range_are_refused(downs):
    with pytest.raises(ValueError, match=rf"within 5\.\.8, not {downs}"):
        build(downs)


def test_an_edge_of_another_size_is_refused_with_its_divisor():
    with pytest.raises(ValueError, match=r"\(64, 96\) must be multiples of 64"):
        build(downs=6)(torch.zeros(1, 1, 64, 96))


@pytest.mark.parametrize(("edges", "channels"), [((256, 256), (1, 1)), ((64, 128), (3, 2)), ((32, 96), (1, 4))])
def test_image_keeps_its_size_and_lies_within_the_range(edges, channels):
    network = build(downs_of(*edges), channels)
    image = network(torch.randn(2, channels[0], *edges) * 3)
    assert image.shape == (2, channels[1], *edges)
    assert image.abs().max() <= 1


def test_only_the_last_convolution_has_a_bias_and_ends_have_no_norm():
    network = build(downs=8)
    biases = [name for name, module in network.named_modules() if getattr(module, "bias", None) is not None]
    assert [name for name in biases if "norm" not in name] == ["output"]
    normed = [isinstance(norm, torch.nn.BatchNorm2d) for norm in network.norms]
    assert normed == [False, *[True] * 6, False]


@pytest.mark.parametrize(("downs", "stages"), [(8, 3), (7, 3), (6, 2), (5, 1)])
def test_dropout_sits_in_the_innermost_stages_of_512_channels(downs, stages):
    with torch.device("meta"):
        network = UNet256(1, 1, downs=downs)
    assert [stage.dropout for stage in network.decoder] == [True] * stages + [False] * (downs - 1 - stages)
    assert all(stage.up.out_channels == 512 for stage in network.decoder if stage.dropout)


def test_dropout_is_noise_in_training_and_at_inference_only_on_request():
    network, image = build(downs=7), torch.randn(1, 1, 128, 128)
    network(image)
    network.eval()
    assert torch.equal(network(image), network(image))
    network.stochastic = True
    assert not torch.equal(network(image), network(image))
    assert build(stochastic=True).stochastic
    assert not build().stochastic


def test_dropout_halves_and_doubles_as_published():
    network = build(downs=5).eval()
    stage, x = network.decoder[0], torch.randn(2, network.encoder[-1].out_channels, 8, 8)
    kept, noisy = stage(x, False), stage(x, True)
    dropped = noisy == 0
    assert 0.45 < dropped.float().mean() < 0.55
    torch.testing.assert_close(noisy[~dropped], 2 * kept[~dropped])


def test_one_image_whose_innermost_block_is_one_pixel_trains_every_parameter():
    network = build(downs=8)
    network(torch.randn(1, 1, 256, 256)).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    # A BatchNorm over this single pixel would have put it to zero, with no gradient.
    assert gradients["encoder.7.weight"].abs().max() > 0


@pytest.mark.parametrize("stage", range(4))
def test_every_skip_reaches_the_output(stage):
    network = build(downs=5).eval()
    level, seen = 3 - stage, []
    network.norms[level].register_forward_hook(
        lambda module, inputs, output: output.retain_grad() or seen.append(output)
    )
    # With this stage silent, nothing that was encoded deeper counts, and the skip beside it is the only way.
    network.decoder[stage].register_forward_hook(lambda module, inputs, output: output * 0)
    network(torch.randn(1, 1, 64, 64)).sum().backward()
    assert seen[0].grad.abs().max() > 0
    assert network.encoder[level + 1].weight.grad.abs().max() == 0


def test_tanh_is_float32_under_bfloat16():
    network, image = build(downs=6).eval(), torch.randn(1, 1, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(image)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, network(image), atol=0.05, rtol=0.05)
    assert network.double()(image.double()).dtype == torch.float64


# Paper 4's form


def stroke(channels=(1, 1), downs=5, **options):
    return build(downs, channels, resizing=True, **options)


@pytest.mark.parametrize("further", [0, 1, 11])
def test_stroke_generator_has_the_count_of_the_appendix_and_1024_for_each_further_channel(further):
    with torch.device("meta"):
        network = UNet256(1 + further, 1, downs=downs_of(128, 128), resizing=True)
    assert sum(p.numel() for p in network.parameters()) == 41_819_521 + 1024 * further


def test_stroke_generator_is_laid_out_as_in_the_appendix():
    with torch.device("meta"):
        network = UNet256(1, 1, downs=7, resizing=True)
    assert [one.out_channels for one in network.encoder] == [64, 128, 256, 512, 512, 512, 512]
    assert {(one.kernel_size, one.stride) for one in network.encoder} == {((4, 4), (2, 2))}
    ups = [stage.up.convolution for stage in network.decoder]
    assert [one.out_channels for one in ups] == [512, 512, 512, 256, 128, 64]
    assert [one.in_channels for one in ups] == [512, 1024, 1024, 1024, 512, 256]
    assert {(one.kernel_size, one.stride) for one in ups} == {((4, 4), (1, 1))}
    assert [type(norm).__name__ for norm in network.norms] == ["InstanceNorm2d"] * 6 + ["Identity"]
    assert all(not stage.norm.affine and stage.dropout == 0.5 for stage in network.decoder)
    assert not any(isinstance(module, torch.nn.ConvTranspose2d) for module in network.modules())


def test_stroke_stage_is_the_appendix_sequence_worked_out_by_itself():
    torch.manual_seed(0)
    stage, x = EnlargingStage(3, 4, dropout=0.5), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    stage = stage.double()
    up = torch.where(x < 0, 0.2 * x, x).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    padded = torch.nn.functional.pad(up, (1, 2, 1, 2))
    y = torch.nn.functional.conv2d(padded, stage.up.convolution.weight, stage.up.convolution.bias)
    y = torch.where(y < 0, 0.2 * y, y)
    expected = (y - y.mean((2, 3), keepdim=True)) / (y.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(stage(x, False), expected)
    assert not torch.allclose(stage(x, True), expected)


def test_stroke_generator_of_one_innermost_pixel_trains_every_parameter_that_a_norm_does_not_take_away():
    network = stroke(downs=7, channels=(3, 1))
    image = network(torch.randn(1, 3, 128, 128))
    assert image.shape == (1, 1, 128, 128)
    assert image.abs().max() <= 1
    image.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    # InstanceNorm would have put the single pixel of the innermost features to zero.
    assert gradients["encoder.6.weight"].abs().max() > 0


def test_stroke_dropout_is_noise_in_training_and_at_inference_only_on_request():
    network, image = stroke(), torch.randn(1, 1, 32, 32)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))
    network.stochastic = True
    assert not torch.equal(network(image), network(image))
    quiet = stroke(dropout=0.0)
    assert torch.equal(quiet(image), quiet(image))
