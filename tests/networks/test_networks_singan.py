"""SinGAN's generator and critic of a scale: the counts that follow from the paper, what they see, what they add to."""

import pytest
import torch

from metgan_dist.networks.initialise import initialise
from metgan_dist.networks.singan import ScaleCritic, ScaleGenerator, width_at

IN_2D, IN_3D = {32: 28_609, 64: 112_513, 128: 446_209}, {32: 85_057, 64: 336_001, 128: 1_335_553}


@pytest.mark.parametrize(("dimensions", "counts"), [(2, IN_2D), (3, IN_3D)])
@pytest.mark.parametrize("kind", [ScaleGenerator, ScaleCritic])
def test_parameters_of_a_scale_at_one_channel(kind, dimensions, counts):
    for width, count in counts.items():
        assert sum(p.numel() for p in kind(1, width, dimensions).parameters()) == count


def test_channels_double_every_four_scales_up_to_128():
    assert [width_at(scale) for scale in range(14)] == [32] * 4 + [64] * 4 + [128] * 6
    assert [width_at(scale, 0.25) for scale in (0, 4, 8)] == [8, 16, 32]
    assert width_at(0, 0.01) == 2


@pytest.mark.parametrize("edges", [(25, 31), (13, 14, 15)])
def test_the_critic_sees_eleven_pixels_and_the_generator_keeps_the_size(edges):
    torch.manual_seed(0)
    critic, generator = (kind(2, 4, len(edges)).eval() for kind in (ScaleCritic, ScaleGenerator))
    image = torch.randn(1, 2, *edges, requires_grad=True)
    found = critic(image)
    assert found.shape == (1, 1, *(edge - 10 for edge in edges))
    found.flatten()[0].backward()
    reached = image.grad[0, 0].nonzero().amax(dim=0)
    assert reached.tolist() == [10] * len(edges)
    assert generator(image.detach(), torch.randn(1, 2, *edges)).shape == image.shape


def test_the_generator_adds_to_what_it_is_given_by_at_most_one():
    torch.manual_seed(0)
    generator, coarser, noise = ScaleGenerator(1, 4, 2), torch.rand(2, 1, 12, 12), torch.randn(2, 1, 12, 12)
    # Without an amplitude it sees no noise.
    assert torch.equal(generator.eval()(coarser, noise), generator(coarser, None))
    generator.amplitude.fill_(0.5)
    fed = torch.nn.functional.pad(coarser + 0.5 * noise, (5,) * 4)
    torch.testing.assert_close(generator(coarser, noise), coarser + generator.layers(fed).tanh())
    with torch.no_grad():
        generator.layers[-1].bias.fill_(100.0)
    torch.testing.assert_close(generator(coarser, noise), coarser + 1)


def test_the_coarsest_scale_keeps_its_fixed_noise_and_others_their_amplitude():
    torch.manual_seed(0)
    coarsest, finer = initialise(ScaleGenerator(2, 4, 2, (25, 30))), ScaleGenerator(2, 4, 2)
    assert coarsest.fixed.shape == (1, 1, 25, 30)
    assert 0.9 < coarsest.fixed.std() < 1.1
    assert coarsest.amplitude == 1
    assert finer.fixed is None
    assert "fixed" not in finer.state_dict()
    finer.amplitude.fill_(0.03)
    again = ScaleGenerator(2, 4, 2)
    again.load_state_dict(finer.state_dict())
    assert again.amplitude == finer.amplitude
