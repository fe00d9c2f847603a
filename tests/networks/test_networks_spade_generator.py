"""SPADE's generator and VAE encoder: parameter count, structure, normalisation by region, sizes, initial weights."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from metgan_dist.networks.image_encoder import ImageEncoder
from metgan_dist.networks.initialise import initialise_xavier
from metgan_dist.networks.spade import SpadeBlock, SpadeNorm
from metgan_dist.networks.spade_generator import STROKE, SpadeGenerator, SpadeTrunk
from metgan_dist.networks.spectral import raw_weight, spectral_convolution

NARROW = 1 / 32


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def counted_blocks(widths, classes):
    """Parameters of the residual blocks between these numbers of channels, from their description."""

    def spade(features):
        return convolution(classes, 128) + 2 * convolution(128, features)

    def block(incoming, outgoing):
        middle = min(incoming, outgoing)
        count = spade(incoming) + convolution(incoming, middle) + spade(middle) + convolution(middle, outgoing)
        shortcut = spade(incoming) + convolution(incoming, outgoing, kernel=1, bias=False)
        return count + (shortcut if incoming != outgoing else 0)

    return sum(block(one, other) for one, other in itertools.pairwise(widths))


def convolution(incoming, outgoing, kernel=3, bias=True):
    return incoming * outgoing * kernel**2 + (outgoing if bias else 0)


def counted_by_hand(channels, classes):
    """Parameters of the paper's generator, from its description."""
    blocks = counted_blocks([1024, 1024, 1024, 1024, 512, 256, 128, 64], classes)
    return convolution(classes, 1024) + blocks + convolution(64, channels)


@pytest.mark.parametrize(
    ("channels", "classes", "count"), [(1, 2, 92_028_481), (3, 36, 93_048_003), (3, 151, 96_492_483)]
)
def test_paper_generator_has_the_parameters_that_its_description_adds_up_to(channels, classes, count):
    with torch.device("meta"):
        generator = SpadeGenerator(channels, classes)
    assert parameters(generator) == counted_by_hand(channels, classes) == count


@pytest.mark.parametrize(("classes", "count"), [(2, 2_725_417), (7, 2_806_057)])
def test_stroke_generator_has_the_parameters_that_the_appendix_adds_up_to(classes, count):
    with torch.device("meta"):
        generator = SpadeGenerator(1, classes, latent=128, edges=(128, 128), layout=STROKE)
    dense = (128 + 1) * 4 * 4 * 128
    by_hand = dense + counted_blocks([128, 128, 64, 32, 16, 8], classes) + convolution(8, 1)
    assert parameters(generator) == by_hand == count


def test_stroke_generator_upsamples_after_each_block():
    torch.manual_seed(0)
    generator = SpadeGenerator(1, 3, latent=128, edges=(128, 128), layout=STROKE, width=1 / 4)
    seen = []
    for block in generator.trunk.blocks:
        block.register_forward_hook(lambda _, given, made: seen.append((given[0].shape[2], made.shape[1])))
    generator.trunk.image.register_forward_hook(lambda _, given, made: seen.append((given[0].shape[2], made.shape[1])))
    image = generator(torch.randint(0, 3, (2, 128, 128)), torch.randn(2, 128))
    assert image.shape == (2, 1, 128, 128)
    assert image.abs().max() <= 1
    assert seen == [(4, 32), (8, 16), (16, 8), (32, 4), (64, 2), (128, 1)]


def test_vae_replaces_the_first_convolution_by_a_linear_layer_that_follows_the_tile():
    with torch.device("meta"):
        plain = SpadeGenerator()
        for edges, places in [((256, 256), 64), ((64, 96), 6)]:
            generator = SpadeGenerator(latent=256, edges=edges)
            assert generator.first.out_features == 1024 * places
            assert parameters(generator) == parameters(plain) - (2 * 1024 * 9 + 1024) + 257 * 1024 * places
    with pytest.raises(ValueError, match="edges"):
        SpadeGenerator(latent=256)


def test_blocks_work_at_the_papers_resolutions_and_widths():
    torch.manual_seed(0)
    generator = SpadeGenerator(1, 2, width=NARROW)
    seen = []
    for block in generator.trunk.blocks:
        block.register_forward_hook(lambda _, given, made: seen.append((given[0].shape[2], made.shape[1])))
    generator(torch.randint(0, 2, (1, 64, 64)))
    assert seen == [(2, 32), (4, 32), (4, 32), (8, 16), (16, 8), (32, 4), (64, 2)]


@pytest.mark.parametrize(("channels", "classes", "edges"), [(1, 2, (32, 32)), (3, 5, (64, 32)), (2, 3, (96, 160))])
def test_any_channels_classes_and_multiples_of_32(channels, classes, edges):
    torch.manual_seed(0)
    label = torch.randint(0, classes, (2, *edges))
    image = SpadeGenerator(channels, classes, width=NARROW)(label)
    assert image.shape == (2, channels, *edges)
    assert image.abs().max() <= 1
    vae = SpadeGenerator(channels, classes, width=NARROW, latent=7, edges=edges)
    assert vae(label, torch.randn(2, 7)).shape == (2, channels, *edges)


def test_wrong_sizes_and_a_missing_latent_vector_are_refused():
    plain = SpadeGenerator(width=NARROW)
    vae = SpadeGenerator(width=NARROW, latent=4, edges=(32, 64))
    label = torch.zeros(1, 32, 64, dtype=torch.int64)
    with pytest.raises(ValueError, match="multiples of 32"):
        plain(label[:, :, :48])
    with pytest.raises(ValueError, match="pixels expected"):
        vae(label[:, :, :32], torch.zeros(1, 4))
    with pytest.raises(ValueError, match="4 numbers expected, got None"):
        vae(label)
    with pytest.raises(ValueError, match="None numbers expected"):
        plain(label, torch.zeros(1, 4))


def test_coarse_start_of_the_vae_lays_the_vector_out_channel_by_channel():
    torch.manual_seed(0)
    vae = SpadeGenerator(width=NARROW, latent=3, edges=(32, 64))
    started = []
    vae.trunk.register_forward_hook(lambda _, given, made: started.append(given[0]))
    z = torch.randn(1, 3)
    vae(torch.zeros(1, 32, 64, dtype=torch.int64), z)
    expected = vae.first(z).view(1, 32, 1, 2)
    assert torch.equal(started[0], expected)


def test_trunk_takes_further_channels_and_tells_blocks_their_level():
    levels = []

    def block(incoming, outgoing, level):
        levels.append(level)
        return SpadeBlock(incoming, outgoing, 2, hidden=8)

    trunk = SpadeTrunk(1, block, width=NARROW, extra=5)
    assert levels == [5, 4, 4, 3, 2, 1, 0]
    assert trunk(torch.randn(1, 32 + 5, 1, 1).expand(2, -1, 1, 1), torch.ones(2, 2, 32, 32)).shape == (2, 1, 32, 32)


def test_spade_gives_each_region_the_scale_and_shift_of_its_class():
    """Where a pixel sees one class alone, each 3x3 convolution is a sum over its kernel; so, a loop over regions."""
    torch.manual_seed(0)
    norm = SpadeNorm(3, 4, hidden=6).double()
    label = torch.zeros(2, 16, 16, dtype=torch.int64)
    for number, (rows, columns) in enumerate([(0, 0), (0, 8), (8, 0), (8, 8)]):
        label[0, rows : rows + 8, columns : columns + 8] = number
        label[1, rows : rows + 8, columns : columns + 8] = 3 - number
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64) * 2 + 1
    result = norm(x, nn.functional.one_hot(label, 4).movedim(-1, 1).double())

    normalised = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    checked = 0
    for image in range(2):
        for region in range(4):
            inside = label[image] == region
            # Two 3x3 convolutions look two pixels far: keep what is further from other regions and from the border.
            outside = nn.functional.pad(~inside, (2, 2, 2, 2), value=True).float()[None, None]
            inside = nn.functional.max_pool2d(outside, 5, stride=1)[0, 0] == 0
            hidden = (norm.shared[0].weight[:, region].sum((1, 2)) + norm.shared[0].bias).relu()
            gamma = norm.gamma.weight.sum((2, 3)) @ hidden + norm.gamma.bias
            beta = norm.beta.weight.sum((2, 3)) @ hidden + norm.beta.bias
            expected = normalised[image][:, inside] * (1 + gamma[:, None]) + beta[:, None]
            torch.testing.assert_close(result[image][:, inside], expected)
            checked += int(inside.sum())
    assert checked == 2 * 4 * 16


def spectral_convolutions(network):
    return [m for m in network.modules() if isinstance(m, nn.Conv2d) and parametrize.is_parametrized(m)]


def test_spectral_norms_come_to_one():
    torch.manual_seed(0)
    generator = SpadeGenerator(width=NARROW)
    label = torch.randint(0, 2, (2, 32, 32))
    with torch.no_grad():
        for _ in range(150):
            generator(label)
    found = spectral_convolutions(generator)
    assert len(found) == 7 * 2 + 4
    for convolution in found:
        largest = torch.linalg.svdvals(convolution.weight.detach().flatten(1))[0]
        torch.testing.assert_close(largest, torch.tensor(1.0), atol=2e-4, rtol=0)


class Precision(nn.Module):
    """Parametrisation that leaves a weight as it is and notes whether autocast is on while it is worked out."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, weight):
        self.seen.append(torch.is_autocast_enabled("cpu"))
        return weight


def test_spectral_convolution_under_autocast_is_one_of_half_precision_with_an_exact_weight():
    torch.manual_seed(0)
    convolution = spectral_convolution(4, 6, kernel_size=4, stride=2, padding=2).eval()
    precision = Precision()
    parametrize.register_parametrization(convolution, "weight", precision)
    x = torch.randn(2, 4, 9, 9)
    exact = nn.functional.conv2d(x, convolution.weight, convolution.bias, stride=2, padding=2)
    torch.testing.assert_close(convolution(x), exact)
    weight = convolution.weight.detach().clone()
    precision.seen.clear()
    with torch.autocast("cpu", torch.bfloat16):
        half = convolution(x)
        expected = nn.functional.conv2d(x, weight, convolution.bias, stride=2, padding=2)
    assert precision.seen == [False]
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, expected)


def test_image_is_in_float32_under_autocast():
    torch.manual_seed(0)
    generator, label = SpadeGenerator(width=NARROW).eval(), torch.randint(0, 2, (1, 32, 32))
    exact = generator(label)
    with torch.autocast("cpu", torch.bfloat16):
        image = generator(label)
    assert image.dtype == torch.float32
    torch.testing.assert_close(image, exact, rtol=0, atol=0.03)


def test_initial_weights_are_xaviers_with_gain_a_fiftieth():
    torch.manual_seed(0)
    generator = SpadeGenerator(1, 2, width=1 / 4, latent=64, edges=(64, 64))
    names = set(dict(generator.named_parameters()))
    initialise_xavier(generator).eval()
    assert set(dict(generator.named_parameters())) == names
    block = generator.trunk.blocks[0]
    for weight, fans in [
        (block.norm_0.gamma.weight, (32 + 256) * 9),
        (block.conv_0.parametrizations.weight.original, (256 + 256) * 9),
        (generator.first.weight, 64 + 1024),
    ]:
        assert weight.std().item() == pytest.approx(0.02 * math.sqrt(2 / fans), rel=0.02)
        assert abs(weight.mean().item()) < 0.02 * weight.std().item()
    assert not any(p.any() for name, p in generator.named_parameters() if name.endswith("bias"))


def test_spectral_norm_fits_a_weight_that_was_filled_anew():
    torch.manual_seed(0)
    convolution = spectral_convolution(16, 16, kernel_size=3).eval()
    with raw_weight(convolution):
        assert isinstance(convolution.weight, nn.Parameter)
        nn.init.normal_(convolution.weight, 0, 0.02)
    # Fifteen power iterations from a random start: within a few per cent, where a stale estimate is off by half.
    assert 0.95 < torch.linalg.svdvals(convolution.weight.detach().flatten(1))[0].item() < 1.05
    plain = nn.Conv2d(1, 1, 1)
    with raw_weight(plain):
        pass
    assert not parametrize.is_parametrized(plain)


def test_encoder_halves_256_pixels_six_times_and_has_the_papers_size():
    with torch.device("meta"):
        encoder = ImageEncoder(1, (256, 256))
    widths = 64, 128, 256, 512, 512, 512
    by_hand = sum(i * o * 9 for i, o in zip((1, *widths), widths, strict=False))
    by_hand += 2 * (512 * 4 * 4 + 1) * 256
    assert [m.out_channels for m in encoder.modules() if isinstance(m, nn.Conv2d)] == list(widths)
    assert parameters(encoder) == by_hand == 10_462_272


@pytest.mark.parametrize(
    ("edges", "halvings"), [((32, 32), 3), ((64, 64), 4), ((128, 64), 4), ((128, 128), 5), ((320, 288), 6)]
)
def test_encoder_leaves_at_least_four_pixels_of_any_image(edges, halvings):
    torch.manual_seed(0)
    encoder = ImageEncoder(2, edges, latent=5, width=NARROW)
    mean, log_variance = encoder(torch.randn(3, 2, *edges))
    assert mean.shape == log_variance.shape == (3, 5)
    assert len(spectral_convolutions(encoder)) == halvings


def test_encoder_judges_each_image_alone():
    torch.manual_seed(0)
    encoder = ImageEncoder(1, (32, 32), latent=5, width=NARROW).double().eval()
    images = torch.randn(3, 1, 32, 32, dtype=torch.float64)
    for joint, alone in zip(encoder(images), encoder(images[1:2]), strict=True):
        torch.testing.assert_close(joint[1:2], alone)
    assert (encoder(images)[0][0] - encoder(images)[0][1]).abs().max() > 1e-3


def test_encoder_refuses_images_too_small_for_a_variance():
    with pytest.raises(ValueError, match="at least 8"):
        ImageEncoder(1, (4, 32))
