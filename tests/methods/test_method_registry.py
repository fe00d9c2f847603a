"""Recipes name methods; what they build is the same on every worker, and what cannot train is refused early."""

import pytest
import torch

from metgan_dist.errors import UserError
from metgan_dist.methods import (
    METHODS,
    build_method,
    build_segmentor_network,
    check_named_segmentors,
    check_tile_size,
    method_class,
)
from metgan_dist.methods.metgan import MetGAN
from metgan_dist.methods.segmentor import Segmentor
from metgan_dist.recipe import Recipe


def recipe(method=None, training=None, **sections):
    method = {"width": 1 / 16, "segmentor_width": 1 / 16} | (method or {})
    return Recipe.model_validate({"method": method, "training": training or {}} | sections)


def test_recipe_reaches_the_method():
    settings = recipe(
        {
            "alpha1": 2,
            "alpha2": 3,
            "alpha3": 4,
            "alpha4": 5,
            "adversarial": "hinge",
            "segmentation_loss": "l1",
            "pool": 7,
        },
        {"learning_rate": 1e-3},
        data={"classes": 3},
    )
    method = build_method(settings, build_segmentor_network(settings))
    assert isinstance(method, MetGAN)
    weights = method.weights
    assert (weights.adversarial, weights.cycle, weights.segmentation, weights.pair) == (2, 3, 4, 5)
    assert (method.adversarial, method.segmentation_loss, method.classes) == ("hinge", "l1", 3)
    assert [pool.size for pool in method.pools.values()] == [7, 7]
    assert {player.learning_rate for player in method.players()} == {1e-3}
    assert method.networks["segmentor"].unet.output.out_channels == 2


def test_default_recipe_is_the_paper():
    with torch.device("meta"):
        settings = Recipe()
        segmentor = build_segmentor_network(settings)
        assert sum(p.numel() for p in segmentor.parameters()) == 35_371_441
    weights = recipe().method
    assert (weights.alpha1, weights.alpha2, weights.alpha3, weights.alpha4) == (1, 10, 100, 10)


def test_unknown_method_is_named_with_the_known_ones():
    with pytest.raises(UserError, match=r"^method\.name: no method 'pix3pix'; did you mean pix2pix\?.* metgan, "):
        method_class("pix3pix")


def test_segmentor_is_built_by_its_name_with_its_own_learning_rate():
    method = build_method(recipe({"name": "segmentor", "segmentor_learning_rate": 5e-4}))
    assert isinstance(method, Segmentor)
    assert method.players()[0].learning_rate == 5e-4


def test_workers_and_domains_draw_differently_from_their_pools():
    method = build_method(recipe({"alpha3": 0, "pool": 2}))
    draws = set()
    for seed in (0, 1):
        method.seed_pools(seed)
        for pool in method.pools.values():
            draws.add(tuple(torch.rand(4, generator=pool.random).tolist()))
    assert len(draws) == 4


@pytest.mark.parametrize("edges", [128, 192, (256, 256), (128, 320)])
def test_multiples_of_64_are_accepted(edges):
    check_tile_size(recipe(), edges)


@pytest.mark.parametrize(("edges", "advice"), [(300, "256 or 320"), ((32, 32), "64 or 128"), ((128, 100), "64 or 128")])
def test_other_sizes_are_refused_with_the_field_and_what_fits(edges, advice):
    with pytest.raises(UserError, match=rf"^tiles\.size: .*multiple of 64; use {advice}"):
        check_tile_size(recipe(), edges)
    with pytest.raises(UserError, match=r"^tiles\.resize: "):
        check_tile_size(recipe(tiles={"resize": 100}), 100)


def test_one_tile_of_64_is_refused_because_batch_norm_would_fail_and_two_are_not():
    with pytest.raises(UserError, match=r"^tiles\.size: .*BatchNorm"):
        check_tile_size(recipe(), 64)
    generator = build_method(recipe({"alpha3": 0})).networks["generator"]
    label = torch.zeros(1, 64, 64, dtype=torch.int64)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        generator(torch.zeros(1, 1, 64, 64), generator.encode_label(label))
    check_tile_size(recipe(training={"batch_size": 2}), 64)
    check_tile_size(recipe(scaling={"workers": 2}), 64)
    check_tile_size(recipe(), (64, 128))


def test_registry_cannot_be_changed_at_run_time():
    with pytest.raises(TypeError):
        METHODS["mine"] = MetGAN


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ({"name": "pix2pix", "segmentor": "runs/own"}, "method.segmentor: pix2pix is trained without a segmentor"),
        ({"name": "metgan", "alpha3": 0, "segmentor": "runs/own"}, "method.segmentor: metgan is trained without a"),
        ({"name": "metgan", "segmentor": "runs/own", "judge": "runs/judge"}, None),
        ({"name": "lesion_wgan", "segmentor": "runs/own"}, "method.segmentor: lesion_wgan is trained without a"),
        ({"name": "lesion_wgan", "judge": "runs/judge"}, "method.judge: no segmentor looks at what lesion_wgan makes"),
        ({"name": "segmentor", "judge_source": "runs/judge"}, "method.judge_source: no segmentor looks at"),
    ],
)
def test_a_segmentor_or_judge_that_is_named_and_not_used_is_refused(method, line, mistake):
    if line is None:
        check_named_segmentors(recipe(method))
        return
    with mistake(line):
        check_named_segmentors(recipe(method))


def test_a_segmentor_that_a_variant_of_the_losses_needs_is_used():
    without, with_it = (recipe({"alpha3": alpha3, "segmentor": "runs/own"}) for alpha3 in (0, 100))
    check_named_segmentors(without, [with_it])
