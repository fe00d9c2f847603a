"""SEAN's norm, styles and blocks against loops over images, regions and pixels written from their formulas."""

import copy
import math

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional

from metgan_dist.networks.region_style import MeanStyle, StyleEncoder, mix_styles, region_means
from metgan_dist.networks.sean import ClassLinear, SeanBlock, SeanNorm, convolve_regions
from metgan_dist.networks.sean_generator import SeanGenerator
from metgan_dist.networks.spade import SpadeNorm


def one_hot(label, classes):
    return functional.one_hot(label, classes).movedim(-1, 1).double()


def randomised(module):
    """Parameters that start at 0 (noise, blends, biases) would hide mistakes."""
    for parameter in module.parameters():
        parameter.data.normal_()
    return module


def styled_by_loop(norm, styles, label):
    """The image (N, S, H, W) that carries each region's transformed style, region by region."""
    images, classes, height, width = label.shape
    result = torch.zeros(images, norm.style.weight.shape[2], height, width, dtype=label.dtype)
    for n in range(images):
        for k in range(classes):
            region = label[n, k] == 1
            if region.any():
                vector = torch.relu(styles[n, k] @ norm.style.weight[k] + norm.style.bias[k])
                result[n][:, region] = vector[:, None].expand(-1, int(region.sum()))
    return result


@pytest.mark.parametrize("classes", [2, 5])
def test_norm_is_its_formula_region_by_region(classes):
    torch.manual_seed(0)
    norm = randomised(SeanNorm(3, classes, 6, hidden=4).double())
    x = torch.randn(2, 3, 8, 6, dtype=torch.float64)
    label = torch.randint(0, classes, (2, 16, 12))
    label[0] = label[0].clamp(max=classes - 2)  # the last class is empty in the first image
    styles = torch.randn(2, classes, 6, dtype=torch.float64)
    torch.manual_seed(7)
    result = norm(x, one_hot(label, classes), styles)
    torch.manual_seed(7)
    noise = torch.randn(2, 1, 8, 6, dtype=torch.float64)

    small = one_hot(label[:, ::2, ::2], classes)  # nearest neighbour from 16 to 8 takes every second pixel
    painted = styled_by_loop(norm, styles, small)
    hidden = functional.relu(functional.conv2d(small, norm.shared[0].weight, norm.shared[0].bias, padding=1))
    for channel in range(3):
        noisy = x[:, channel] + norm.noise[channel] * noise[:, 0]
        normalised = (noisy - noisy.mean()) / (noisy.var(correction=0) + 1e-5).sqrt()
        modulation = {}
        for name in ("gamma", "beta"):
            of_style, of_label = getattr(norm, f"style_{name}"), getattr(norm, name)
            share = 1 / (1 + math.exp(-getattr(norm, f"blend_{name}").item()))
            from_style = functional.conv2d(painted, of_style.weight, of_style.bias, padding=1)[:, channel]
            from_label = functional.conv2d(hidden, of_label.weight, of_label.bias, padding=1)[:, channel]
            modulation[name] = share * from_style + (1 - share) * from_label
        expected = normalised * (1 + modulation["gamma"]) + modulation["beta"]
        torch.testing.assert_close(result[:, channel], expected, rtol=1e-9, atol=1e-9)


def test_gradients_are_those_of_the_image_that_is_never_made():
    torch.manual_seed(0)
    norm = randomised(SeanNorm(3, 4, 6, hidden=4).double())
    label = one_hot(torch.randint(0, 4, (2, 5, 7)), 4)
    wanted = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    gradients = []
    for painted in (False, True):
        styles = torch.linspace(-1, 1, 48, dtype=torch.float64).view(2, 4, 6).requires_grad_()
        norm.zero_grad()
        if painted:
            result = norm.style_gamma(styled_by_loop(norm, styles, label))
        else:
            result = convolve_regions(norm.style_gamma, functional.relu(norm.style(styles)), label)
        (result * wanted).sum().backward()
        parameters = (*norm.style.parameters(), *norm.style_gamma.parameters())
        gradients.append([styles.grad, *(p.grad.clone() for p in parameters)])
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_class_linear_is_one_linear_layer_per_class():
    torch.manual_seed(0)
    layer = randomised(ClassLinear(5, 4, 3))
    x = torch.randn(2, 5, 4)
    for k in range(5):
        torch.testing.assert_close(layer(x)[:, k], functional.linear(x[:, k], layer.weight[k].T, layer.bias[k]))


def test_class_linear_starts_from_xaviers_deviation():
    torch.manual_seed(0)
    layer = ClassLinear(2, 512, 512)
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 1024), rel=0.01)
    layer.initialise(gain=0.02)
    assert layer.weight.std().item() == pytest.approx(0.02 * math.sqrt(2 / 1024), rel=0.01)
    assert not layer.bias.any()


def test_style_and_label_start_with_equal_shares():
    torch.manual_seed(0)
    norm = SeanNorm(3, 2, 6, hidden=4).double().eval()
    x, label = torch.randn(1, 3, 8, 8).double(), one_hot(torch.randint(0, 2, (1, 8, 8)), 2)
    for name in ("style_gamma", "style_beta"):
        getattr(norm, name).weight.data.zero_()
        getattr(norm, name).bias.data.zero_()
    normalised, spade = norm.normalise(x), SpadeNorm.forward(norm, x, label)
    torch.testing.assert_close(norm(x, label, torch.randn(1, 2, 6).double()), (normalised + spade) / 2)


def test_noise_comes_in_training_only_and_before_the_normalisation():
    torch.manual_seed(0)
    norm = SeanNorm(3, 2, 0, hidden=4)
    x, label = torch.randn(2, 3, 8, 8), torch.ones(2, 2, 8, 8)
    torch.testing.assert_close(norm(x, label), SpadeNorm.forward(norm, x, label))  # its scale starts at 0
    norm.noise.data.fill_(1000.0)
    assert not torch.equal(norm(x, label), norm(x, label))
    hidden = norm.shared(label)
    normalised = (norm(x, label) - norm.beta(hidden)) / (1 + norm.gamma(hidden))
    torch.testing.assert_close(normalised.var(dim=(0, 2, 3), correction=0), torch.ones(3))
    norm.eval()
    assert torch.equal(norm(x, label), norm(x, label))


def test_style_of_one_region_changes_nothing_outside_its_reach():
    torch.manual_seed(0)
    norm = SeanNorm(3, 2, 6, hidden=4).eval()
    label = torch.zeros(1, 2, 16, 16)
    label[:, 0, :, :8] = label[:, 1, :, 8:] = 1
    x, styles = torch.randn(1, 3, 16, 16), torch.randn(1, 2, 6)
    other = styles.clone()
    other[:, 1] += 1
    changed = (norm(x, label, styles) - norm(x, label, other)).abs().sum(dim=1)[0] > 0
    assert not changed[:, :7].any()  # the 3x3 convolution reaches one pixel into the neighbour
    assert changed[:, 8:].all()


def test_style_of_an_empty_region_has_no_influence():
    torch.manual_seed(0)
    norm = SeanNorm(3, 3, 6, hidden=4).eval()
    label = one_hot(torch.randint(0, 2, (1, 8, 8)), 3).float()
    x, styles = torch.randn(1, 3, 8, 8), torch.randn(1, 3, 6)
    other = styles.clone()
    other[:, 2] = 100.0
    assert torch.equal(norm(x, label, styles), norm(x, label, other))
    with pytest.raises(ValueError, match="styles are missing"):
        norm(x, label)


@pytest.mark.parametrize(("in_channels", "out_channels", "norms"), [(8, 8, 2), (8, 4, 3)])
def test_block_reaches_every_parameter(in_channels, out_channels, norms):
    torch.manual_seed(0)
    block = SeanBlock(in_channels, out_channels, 3, 6, hidden=8)
    assert sum(isinstance(module, SeanNorm) for module in block.modules()) == norms
    label = one_hot(torch.randint(0, 3, (2, 8, 8)), 3).float()
    result = block(torch.randn(2, in_channels, 8, 8), label, torch.randn(2, 3, 6))
    assert result.shape == (2, out_channels, 8, 8)
    result.square().sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_style_encoder_averages_over_each_region_of_the_label():
    torch.manual_seed(0)
    encoder = StyleEncoder(3, 4, width=1 / 32).double()
    image = torch.rand(2, 3, 16, 24, dtype=torch.float64) * 2 - 1
    label = torch.randint(0, 3, (2, 16, 24))
    label[1, label[1] == 1] = 0
    label[1, 5, 7] = 1  # a lesion of one pixel, which no even grid point meets
    styles = encoder(image, label)
    assert styles.shape == (2, 4, encoder.style) == (2, 4, 16)
    assert styles.abs().max() <= 1
    features = encoder.model(image)
    assert features.shape[2:] == (8, 12)
    full = features.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    for n in range(2):
        for k in range(4):
            region = label[n] == k
            expected = full[n][:, region].mean(dim=1) if region.any() else torch.zeros(16, dtype=torch.float64)
            torch.testing.assert_close(styles[n, k], expected)
    assert styles[1, 1].abs().max() > 0
    assert not styles[:, 3].any()


def spade_norm(channels, classes):
    """Label to 128 hidden channels, and these to gamma and beta."""
    return 9 * classes * 128 + 128 + 2 * (9 * 128 * channels + channels)


def sean_norm(channels, classes, style):
    """SPADE's, noise per channel, and: a linear layer per class, style to gamma and beta, two blends."""
    of_style = classes * (512 * 512 + 512) + 2 * (9 * 512 * channels + channels) + 2
    return spade_norm(channels, classes) + channels + style * of_style


def sean_trunk(classes, image_channels):
    total, incoming = 0, 1024
    for number, outgoing in enumerate((1024, 1024, 1024, 512, 256, 128, 64)):
        middle, styled = min(incoming, outgoing), number < 6
        total += sean_norm(incoming, classes, styled) + sean_norm(middle, classes, styled)
        total += 9 * incoming * middle + middle + 9 * middle * outgoing + outgoing
        if incoming != outgoing:
            total += sean_norm(incoming, classes, styled) + incoming * outgoing
        incoming = outgoing
    return total + 9 * 64 * image_channels + image_channels


def style_encoder(channels):
    return 9 * (channels * 32 + 32 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 512


def test_parameters_at_paper_size_are_those_counted_by_hand():
    def count(network):
        return sum(p.numel() for p in network.parameters())

    with torch.device("meta"):
        assert count(StyleEncoder()) == style_encoder(1) == 1_567_520
        of_label = 9 * 2 * 1024 + 1024
        assert count(SeanGenerator()) == sean_trunk(2, 1) + of_label == 197_851_167
        of_latent = 256 * 1024 * 8 * 8 + 1024 * 8 * 8
        vae = SeanGenerator(latent=256, edges=(256, 256))
        assert count(vae) == sean_trunk(2, 1) + of_latent == 214_674_463
        # Faces: three channels, nineteen classes. The publication's network has 266.9 million, 480 of them biases
        # that InstanceNorm removes.
        faces = count(SeanGenerator(3, 19)) + count(StyleEncoder(3, 19))
        assert faces == sean_trunk(19, 3) + 9 * 19 * 1024 + 1024 + style_encoder(3) == 266_907_361 - 480


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("shape", [(64, 64), (96, 32)])
def test_generator_makes_images_of_any_size_channels_and_classes(channels, classes, shape):
    torch.manual_seed(0)
    generator = SeanGenerator(channels, classes, width=1 / 64)
    encoder = StyleEncoder(channels, classes, width=1 / 64)
    label = torch.randint(0, classes, (2, *shape))
    styles = encoder(torch.rand(2, channels, *shape) * 2 - 1, label)
    image = generator(label, styles)
    assert image.shape == (2, channels, *shape)
    assert image.abs().max() <= 1
    vae = SeanGenerator(channels, classes, width=1 / 64, latent=5, edges=shape)
    assert vae(label, styles, torch.randn(2, 5)).shape == (2, channels, *shape)


def test_generator_refuses_what_does_not_fit():
    generator, label = SeanGenerator(width=1 / 64), torch.zeros(1, 64, 64, dtype=torch.int64)
    styles = torch.zeros(1, 2, generator.style)
    with pytest.raises(ValueError, match=r"styles \(N, 2, 8\) expected"):
        generator(label, styles[:, :1])
    with pytest.raises(ValueError, match="latent vector of None"):
        generator(label, styles, torch.zeros(1, 5))
    with pytest.raises(ValueError, match="multiples of 32"):
        generator(label[:, :48], styles)
    with pytest.raises(ValueError, match="needs the edges"):
        SeanGenerator(width=1 / 64, latent=5)
    vae = SeanGenerator(width=1 / 64, latent=5, edges=(64, 64))
    with pytest.raises(ValueError, match="latent vector of 5"):
        vae(label, styles)
    with pytest.raises(ValueError, match="labels of 32 times"):
        vae(torch.zeros(1, 96, 64, dtype=torch.int64), styles, torch.zeros(1, 5))


def test_only_the_last_block_takes_no_style():
    norms = [module for module in SeanGenerator(width=1 / 32).trunk.modules() if isinstance(module, SeanNorm)]
    assert [norm.styled for norm in norms] == [True] * 15 + [False] * 3


def test_region_means_stay_float32_under_autocast_and_refuse_mismatched_sizes():
    features = torch.randn(1, 3, 32, 32).bfloat16()
    label = one_hot(torch.randint(0, 2, (1, 64, 64)), 2)
    with torch.autocast("cpu", torch.bfloat16):
        means = region_means(features, label)
    assert means.dtype == torch.float32
    exact = region_means(features.double(), label)
    torch.testing.assert_close(means.double(), exact, atol=1e-6, rtol=1e-5)
    encoder = StyleEncoder(1, 2, width=1 / 32)
    with pytest.raises(ValueError, match="same edges"):
        encoder(torch.zeros(1, 1, 16, 16), torch.zeros(1, 32, 32, dtype=torch.int64))
    with pytest.raises(ValueError, match="multiples of 4"):
        encoder(torch.zeros(1, 1, 18, 18), torch.zeros(1, 18, 18, dtype=torch.int64))


def test_mean_style_counts_each_class_by_its_regions():
    mean = MeanStyle(3, 2, half_life=math.inf)
    first = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]], [[5.0, 6.0], [0.0, 0.0], [0.0, 0.0]]])
    mean.update(first, torch.tensor([[[0, 1]], [[0, 0]]]))
    second = torch.tensor([[[0.0, 0.0], [-1.0, 0.0], [0.0, 0.0]]])
    mean.update(second, torch.tensor([[[1, 1]]]))
    # class 0: two regions, (1, 2) and (5, 6); class 1: two, (3, 4) and (-1, 0); class 2: none
    expected = torch.tensor([[3.0, 4.0], [1.0, 2.0], [0.0, 0.0]])
    assert torch.equal(mean(4), expected.expand(4, 3, 2))


def test_mean_style_forgets_half_per_half_life():
    mean = MeanStyle(1, 1, half_life=4)
    label = torch.zeros(2, 1, 1, dtype=torch.int64)
    for value in (1.0, 5.0, 7.0):
        mean.update(torch.full((2, 1, 1), value), label)
    weights = [2 * 0.5 ** (images / 4) for images in (4, 2, 0)]
    expected = sum(w * v for w, v in zip(weights, (1.0, 5.0, 7.0), strict=True)) / sum(weights)
    assert mean(1).item() == pytest.approx(expected)


def test_mean_style_stands_still_in_eval_mode_and_travels_in_the_state():
    mean = MeanStyle(2, 3)
    styles = torch.randn(4, 2, 3)
    mean.update(styles, torch.randint(0, 2, (4, 8, 8)))
    copy = MeanStyle(2, 3)
    copy.load_state_dict(mean.state_dict())
    assert torch.equal(copy(1), mean(1))
    with pytest.raises(RuntimeError, match="training mode"):
        mean.eval().update(styles, torch.zeros(4, 8, 8, dtype=torch.int64))


def test_mean_style_is_that_of_the_whole_batch_on_every_rank(monkeypatch):
    torch.manual_seed(0)
    batches = [(torch.randn(4, 2, 3), torch.randint(0, 2, (4, 1, 2))) for _ in range(3)]
    batches[0][1][1::2] = 0  # on rank 1 the second class is empty at first
    alone, ranks = MeanStyle(2, 3, half_life=8), [MeanStyle(2, 3, half_life=8) for _ in range(2)]
    for styles, label in batches:
        alone.update(styles, label)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    for styles, label in batches:
        sent = []
        monkeypatch.setattr(dist, "all_reduce", lambda tensor, sent=sent: sent.append(tensor.clone()))
        for rank in range(2):  # without effect: only what each rank puts into the sum
            copy.deepcopy(ranks[rank]).update(styles[rank::2], label[rank::2])
        monkeypatch.setattr(dist, "all_reduce", lambda tensor, sent=sent: tensor.copy_(sent[0] + sent[1]))
        for rank in range(2):
            ranks[rank].update(styles[rank::2], label[rank::2])
    for mean in ranks:
        torch.testing.assert_close(mean.state_dict(), alone.state_dict())
    assert torch.equal(ranks[0](1), ranks[1](1))


def test_mixing_moves_the_chosen_regions_only():
    a, b = torch.zeros(2, 3, 4), torch.arange(24.0).view(2, 3, 4)
    assert torch.equal(mix_styles(a, b, [0, 1, 2]), b)
    half = mix_styles(a, b, [1], 0.5)
    assert torch.equal(half[:, 1], b[:, 1] / 2)
    assert torch.equal(half[:, [0, 2]], a[:, [0, 2]])
    per_image = mix_styles(a, b, [0, 2], torch.tensor([0.0, 0.25]))
    assert torch.equal(per_image[0], a[0])
    assert torch.equal(per_image[1, [0, 2]], b[1, [0, 2]] / 4)
    assert torch.equal(mix_styles(a, b[:1], [2])[1, 2], b[0, 2])
    assert torch.equal(mix_styles(a, b, []), a)
    with pytest.raises(ValueError, match=r"regions \[3\] must be classes 0..2"):
        mix_styles(a, b, [3])
    with pytest.raises(ValueError, match="same classes"):
        mix_styles(a, b[:, :2], [0])
