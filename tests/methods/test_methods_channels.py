"""Anatomy and tumour images with different numbers of channels: what each method makes of them, and who refuses."""

import pytest
import torch
from owned import owned
from turns import FiveFeatures, batch, check_trains, optimisers, play_all

from metgan_dist.errors import UserError
from metgan_dist.methods import METHODS, build_method, build_segmentor_network, method_class
from metgan_dist.methods.segmentor import normalise_by_local_maximum
from metgan_dist.networks.metgen import MetGen
from metgan_dist.recipe import Recipe

NAMES = {1: "a", 2: ["a", "b"]}


def recipe(name, anatomy, tumour, **method):
    settings = {**owned(name, width=1 / 32, segmentor_width=1 / 16, latent=4, pool=2), **method}
    if name.startswith("cyclegan"):
        settings.setdefault("identity", 0)
    data = {"anatomy": NAMES[anatomy], "tumour": {1: "t", 2: ["t", "u"]}[tumour]}
    return Recipe.model_validate({"data": data, "tiles": {"size": [64]}, "method": settings})


def build(settings):
    chosen, tumour = method_class(settings.method.name), settings.data.channel_numbers[1]
    segmentor = build_segmentor_network(settings) if "segmentor" in chosen.needs(settings) else None
    perceptual = FiveFeatures(tumour) if "vgg19" in chosen.needs(settings) else None
    return build_method(settings, segmentor, perceptual)


def inputs(anatomy, tumour):
    both = batch(channels=2)
    return {**both, "anatomy": both["anatomy"][:, :anatomy], "tumour": both["tumour"][:, :tumour]}


@pytest.mark.parametrize(("anatomy", "tumour"), [(2, 1), (1, 2)])
@pytest.mark.parametrize("name", sorted(set(METHODS) - {"sifa", "lesion_wgan", "singan"}))
def test_each_method_trains_and_translates_between_different_numbers_of_channels(name, anatomy, tumour):
    method, data = build(recipe(name, anatomy, tumour)), inputs(anatomy, tumour)
    check_trains(method, data)
    made = method.eval().translate(data)
    if name == "segmentor":
        assert made.shape == (2, 64, 64)
        return
    assert made.shape == data["tumour"].shape
    shown = method.pictures(data)
    assert (shown["anatomy"].shape[1], shown["generated"].shape[1], shown["real"].shape[1]) == (anatomy, tumour, tumour)
    cycled = method.cycle(data, made)
    assert cycled is None or cycled.shape == data["anatomy"].shape == shown["cycled"].shape


@pytest.mark.parametrize(("name", "field"), [("cyclegan", "method.identity: 5"), ("sifa", "method.name: sifa")])
def test_what_needs_equal_numbers_refuses_others_before_any_work(name, field):
    settings = recipe(name, 2, 1, **({"identity": 5.0} if name == "cyclegan" else {}))
    for refuses in (method_class(name).check, build_method):
        with pytest.raises(UserError, match=field) as caught:
            refuses(settings)
        assert "\n" not in str(caught.value)
        assert "2 channel(s)" in str(caught.value)
    equal = recipe(name, 2, 2, **({"identity": 5.0} if name == "cyclegan" else {}))
    method_class(name).check(equal)
    method = build(equal)
    terms = play_all(method, inputs(2, 2), optimisers(method))
    assert all(value.isfinite() for player in terms.values() for value in player.values())


def test_each_channel_is_brought_to_its_own_brightest_pixel():
    image = torch.tensor([[[[-1.0, 1.0]], [[-1.0, -0.8]]]])
    torch.testing.assert_close(normalise_by_local_maximum(image), torch.tensor([[[[0.0, 1.0]], [[0.0, 1.0]]]]))


def test_more_channels_cost_a_generator_the_weights_of_its_first_or_last_convolution():
    def count(*channels):
        with torch.device("meta"):
            return sum(p.numel() for p in MetGen(*channels).parameters())

    assert count(1, 1) == 39_745_905
    assert count(2, 1) - count(1, 1) == 24 * 9  # 3x3, no bias
    assert count(1, 2) - count(1, 1) == 24 + 1  # 1x1 with a bias
