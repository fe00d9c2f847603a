"""PatchGAN: size, receptive field and the order of condition and image."""

import pytest
import torch

from metgan_dist.networks.patchgan import STROKE, PatchGAN, PatchGANFeatures, shortest_edge


def receptive_field(discriminator, edge):
    """Edge of the square of input pixels that one logit's gradient reaches."""
    # Statistics over the whole image would let every logit see every pixel; the field is that of the convolutions.
    layers = [m for m in discriminator.model if not isinstance(m, torch.nn.InstanceNorm2d)]
    image = torch.randn(1, 1, edge, edge, dtype=torch.float64, requires_grad=True)
    logits = torch.nn.Sequential(*layers).double()(image)
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    rows, columns = torch.nonzero(image.grad[0, 0], as_tuple=True)
    assert rows.min() > 0
    assert rows.max() < edge - 1
    return int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1


def test_paper_discriminator_has_the_authors_parameter_count():
    with torch.device("meta"):
        assert sum(p.numel() for p in PatchGAN().parameters()) == 2_762_689


@pytest.mark.parametrize(("layers", "base", "field"), [(3, 64, 70), (2, 32, 34)])
def test_one_logit_sees_the_papers_patch(layers, base, field):
    torch.manual_seed(0)
    assert receptive_field(PatchGAN(layers=layers, base=base, width=1 / 8), 160) == (field, field)


@pytest.mark.parametrize("condition", [0, 1, 12])
def test_stroke_discriminator_has_166625_parameters_and_no_condition_gives_the_papers_888898(condition):
    with torch.device("meta"):
        count = sum(p.numel() for p in PatchGAN(condition_channels=condition, **STROKE).parameters())
    assert count == 166_625 + 512 * condition
    assert (888_898 - 166_625) % 512 != 0


def test_stroke_discriminator_is_strided_and_normed_throughout_and_sees_46_pixels():
    torch.manual_seed(0)
    assert receptive_field(PatchGAN(width=1 / 8, **STROKE), 160) == (46, 46)
    discriminator = PatchGAN(width=1 / 8, **STROKE)
    kinds = [type(layer).__name__ for layer in discriminator.model]
    assert kinds == ["Conv2d", "InstanceNorm2d", "LeakyReLU"] * 3 + ["Conv2d"]
    strides = [layer.stride[0] for layer in discriminator.model if isinstance(layer, torch.nn.Conv2d)]
    assert strides == [2, 2, 2, 1]
    assert discriminator(torch.randn(2, 1, 128, 128)).shape == (2, 1, 15, 15)
    least = shortest_edge(STROKE["layers"], STROKE["unstrided"])
    assert discriminator(torch.randn(1, 1, least, least)).shape == (1, 1, 1, 1)


def test_features_are_what_each_layer_hands_on_and_end_with_the_logits():
    torch.manual_seed(0)
    plain = PatchGAN(condition_channels=2, width=1 / 8, **STROKE)
    giving = PatchGANFeatures(condition_channels=2, width=1 / 8, **STROKE)
    giving.load_state_dict(plain.state_dict())
    image, condition = torch.randn(2, 1, 64, 64), torch.randn(2, 2, 64, 64)
    (features,) = giving(image, condition)
    assert [tuple(one.shape[1:]) for one in features] == [(4, 32, 32), (8, 16, 16), (16, 8, 8), (1, 7, 7)]
    assert torch.equal(features[-1], plain(image, condition))
    x = torch.cat([condition, image], dim=1)
    for number, layer in enumerate(plain.model):
        x = layer(x)
        if number in (2, 5, 8):
            assert torch.equal(features[number // 3], x)


def test_paper_256_tile_gives_30_by_30_logits_and_channels_of_the_paper():
    discriminator = PatchGAN()
    convolutions = [m for m in discriminator.model if isinstance(m, torch.nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [64, 128, 256, 512, 1]
    assert [c.stride[0] for c in convolutions] == [2, 2, 2, 1, 1]
    assert PatchGAN(width=1 / 16)(torch.randn(1, 1, 256, 256)).shape == (1, 1, 30, 30)
    small = PatchGAN(layers=2, base=32)
    assert [m.out_channels for m in small.model if isinstance(m, torch.nn.Conv2d)] == [32, 64, 128, 1]


def test_norms_have_no_parameters_and_neither_end_is_normalised():
    modules = list(PatchGAN().model)
    norms = [m for m in modules if isinstance(m, torch.nn.InstanceNorm2d)]
    assert len(norms) == 3
    assert not any(norm.affine or norm.track_running_stats for norm in norms)
    assert isinstance(modules[1], torch.nn.LeakyReLU)
    assert isinstance(modules[-1], torch.nn.Conv2d)


def test_real_and_fake_meet_the_condition_in_the_same_order():
    torch.manual_seed(0)
    discriminator = PatchGAN(condition_channels=2, width=1 / 8)
    condition, image = torch.randn(1, 2, 64, 64), torch.randn(1, 1, 64, 64)
    expected = discriminator.model(torch.cat([condition, image], dim=1))
    assert torch.equal(discriminator(image, condition), expected)
    with pytest.raises(ValueError, match="2 channels expected, got 0"):
        discriminator(image)
    with pytest.raises(ValueError, match="0 channels expected, got 2"):
        PatchGAN(width=1 / 8)(image, condition)


def test_batch_of_two_has_the_mean_gradient_of_its_images():
    torch.manual_seed(0)
    discriminator = PatchGAN(width=1 / 8).double()
    images = torch.randn(2, 1, 64, 64, dtype=torch.float64)

    def gradient(batch):
        discriminator.zero_grad()
        (discriminator(batch) - 1).square().mean().backward()
        return [parameter.grad.clone() for parameter in discriminator.parameters()]

    joint, first, second = gradient(images), gradient(images[:1]), gradient(images[1:])
    for both, one, other in zip(joint, first, second, strict=True):
        torch.testing.assert_close(both, (one + other) / 2, rtol=1e-9, atol=1e-12)


def test_three_dimensional_discriminator_runs():
    assert PatchGAN(width=1 / 16, dimensions=3, layers=2)(torch.randn(1, 1, 32, 32, 32)).shape[:2] == (1, 1)


@pytest.mark.parametrize("edges", [(24, 32, 32), (32, 40, 40)])
def test_in_bfloat16_gradients_of_small_images_are_those_of_the_loss(edges):
    """A kernel that is longer than what it sees has no gradient of its own in oneDNN's bfloat16."""
    torch.manual_seed(0)
    net, image = PatchGAN(width=0.25, dimensions=len(edges)), torch.rand(2, 1, *edges) * 2 - 1
    gradients = []
    for enabled in (False, True, True):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = net(image)
        logits.float().square().mean().backward()
        gradients.append([layer.weight.grad.clone() for layer in net.model if hasattr(layer, "kernel_size")])
    true, *others = gradients
    for other in others:
        for one, two in zip(true, other, strict=True):
            assert (one - two).norm() < 0.5 * one.norm()
