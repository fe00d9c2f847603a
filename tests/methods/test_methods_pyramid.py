"""What a trained SinGAN makes: samples by seed, the reconstruction, pastes harmonised from a scale on, enlargements."""

import pytest
import torch
from test_methods_singan import EDGES, entered, picture, recipe

from metgan_dist.networks.resize import resize


@pytest.fixture(scope="module")
def pyramid():
    """Of three scales, whose generators do something that is not too much; two channels."""
    method = entered(recipe(data={"anatomy": "", "tumour": ["t1", "t2"]})).eval()
    torch.manual_seed(0)
    for generator in method.generators[1:]:
        generator.amplitude.fill_(0.1)
    for generator in method.generators:
        torch.nn.init.normal_(generator.layers[-1].weight, 0.0, 0.3)
    return method.pyramid


def image(edges=EDGES):
    return picture(edges, 2)["tumour"][0]


def test_samples_follow_from_their_seeds_alone_at_every_scale(pyramid):
    torch.manual_seed(5)
    first = pyramid.sample([7, 3, 7])
    torch.manual_seed(6)
    alone = pyramid.sample([3])
    assert [tuple(own.shape) for own in first] == [(3, 2, *edges) for edges in pyramid.scales.edges]
    for own, single in zip(first, alone, strict=True):
        torch.testing.assert_close(own[0], own[2], rtol=0, atol=0)
        torch.testing.assert_close(own[1:2], single, rtol=0, atol=1e-5)
        assert (own[0] - own[1]).abs().max() > 0.1 * own[0].abs().max()
        assert own.abs().max() <= 1


def test_samples_may_have_another_size(pyramid):
    wide = pyramid.sample([0], (28, 60))
    assert [tuple(own.shape[2:]) for own in wide] == list(pyramid.scales.of_image((28, 60)))
    assert wide[-1].shape[2:] == (28, 60)


def test_the_reconstruction_is_made_of_the_fixed_noise_alone(pyramid):
    made = pyramid.reconstruct()
    by_hand = pyramid.generators[0](torch.zeros(1, 2, *pyramid.scales.edges[0]), pyramid.generators[0].fixed)
    torch.testing.assert_close(made[0], by_hand.clamp(-1, 1))
    for scale, generator in enumerate(pyramid.generators[1:], start=1):
        by_hand = generator(resize(by_hand, pyramid.scales.edges[scale]), None)
        torch.testing.assert_close(made[scale], by_hand.clamp(-1, 1))


@pytest.mark.parametrize("edges", [EDGES, (40, 33)])
def test_a_paste_goes_through_the_generators_from_its_scale_on(pyramid, edges):
    calls = []
    hooks = [
        generator.register_forward_hook(lambda *_, scale=scale: calls.append(scale))
        for scale, generator in enumerate(pyramid.generators)
    ]
    made = pyramid.harmonise(image(edges), 1, seed=4)
    for hook in hooks:
        hook.remove()
    assert calls == [1, 2]
    assert made.shape == (2, *edges)
    assert torch.equal(made, pyramid.harmonise(image(edges), 1, seed=4))
    assert not torch.equal(made, pyramid.harmonise(image(edges), 1, seed=5))


def test_generators_that_add_nothing_give_the_image_back_as_coarse_as_the_scale_below(pyramid):
    method = entered(recipe()).eval()
    for generator in method.generators:
        torch.nn.init.zeros_(generator.layers[-1].weight)
        torch.nn.init.zeros_(generator.layers[-1].bias)
    given = picture()["tumour"]
    coarse = resize(given, method.scales.edges[1])
    made = method.pyramid.harmonise(given[0], 2, seed=0)
    torch.testing.assert_close(made, resize(coarse, EDGES)[0].clamp(-1, 1))


@pytest.mark.parametrize("start", [0, 3, -1])
def test_a_start_scale_beyond_the_pyramid_is_refused(pyramid, start, mistake):
    with mistake(f"start scale {start}: the pyramid has scales 1 to 2 to start from"):
        pyramid.harmonise(image(), start, 0)


@pytest.mark.parametrize(("times", "calls"), [(2, 7), (1.1, 1)])
def test_super_resolution_repeats_the_finest_generator(pyramid, times, calls, mistake):
    """Scales of so small an image are nearer to each other than a step: ln 2 / ln (1 / 0.9) is 6.6."""
    seen = []
    hook = pyramid.generators[-1].register_forward_hook(lambda *_: seen.append(1))
    larger = pyramid.super_resolve(image(), times, 0)
    hook.remove()
    assert larger.shape == (2, round(28 * times), round(30 * times))
    assert torch.equal(larger, pyramid.super_resolve(image(), times, 0))
    with mistake("super-resolution by 1: give a factor above 1"):
        pyramid.super_resolve(image(), 1, 0)


def test_a_volume_is_harmonised_as_a_whole():
    method = entered(recipe((26, 27, 28))).eval()
    for generator in method.generators[1:]:
        generator.amplitude.fill_(0.1)
    made = method.pyramid.harmonise(torch.rand(1, 30, 26, 25), 1, 0)
    assert made.shape == (1, 30, 26, 25)
