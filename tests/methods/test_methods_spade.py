"""SPADE and SPADE+VAE: players, terms, translation and samples."""

import copy

import pytest
import torch
from owned import owned
from torch import nn
from turns import FiveFeatures, batch, optimisers, play_all, unreached

from metgan_dist.methods.adversarial_features import feature_matching, kl_divergence, perceptual_loss
from metgan_dist.methods.label_to_image import FeatureWeights
from metgan_dist.methods.spade import Spade
from metgan_dist.networks.spade import one_hot_label
from metgan_dist.recipe import Recipe

NARROW = 1 / 32


def build(vae=False, channels=1, classes=2, edge=64, **options):
    torch.manual_seed(0)
    options.setdefault("perceptual", FiveFeatures(channels))
    return Spade(vae=vae, channels=channels, classes=classes, edges=(edge, edge), width=NARROW, latent=8, **options)


def test_players_learn_at_two_time_scales_and_the_encoder_with_the_generator():
    for vae, networks in [(False, ("generator",)), (True, ("generator", "encoder"))]:
        generator, discriminator = build(vae, learning_rate=2e-4).players()
        assert (generator.name, generator.networks) == ("generator", networks)
        assert (discriminator.name, discriminator.networks) == ("discriminator", ("discriminator",))
        assert (generator.learning_rate, discriminator.learning_rate) == (1e-4, 4e-4)
        assert generator.betas == discriminator.betas == (0.0, 0.9)


@pytest.mark.parametrize("vae", [False, True])
def test_every_parameter_has_a_gradient_by_the_adversarial_term_alone(vae):
    assert unreached(build(vae, weights=FeatureWeights(0.0, 0.0), kl=0.0), batch()) == []


def test_terms_are_those_of_the_publication_with_its_weights():
    method, data = build(weights=FeatureWeights(3.0, 5.0)).eval(), batch()
    terms, made = method.losses("generator", data, {})
    fake = method.networks["generator"](data["label"])
    label = nn.functional.one_hot(data["label"], 2).movedim(-1, 1).float()
    judge, vgg = method.networks["discriminator"], method.networks["vgg"]
    on_fake, on_real = judge(fake, label), judge(data["tumour"], label)
    expected = {
        "adversarial": -(on_fake[0][-1].mean() + on_fake[1][-1].mean()) / 2,
        "feature_matching": 3 * feature_matching(on_fake, on_real),
        "perceptual": 5 * perceptual_loss(vgg, fake, data["tumour"]),
    }
    assert list(terms) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-4, atol=1e-6)
    assert torch.equal(made["tumour"], fake)
    assert not made["tumour"].requires_grad

    terms, images = method.losses("discriminator", data, made)
    hinge = [(1 - r[-1]).relu().mean() + (1 + f[-1]).relu().mean() for r, f in zip(on_real, on_fake, strict=True)]
    assert list(terms) == ["adversarial"]
    assert images == {}
    torch.testing.assert_close(terms["adversarial"], sum(hinge) / 2, rtol=1e-4, atol=1e-6)


def test_fake_and_real_go_through_the_discriminator_in_one_batch_in_its_own_turn():
    method, data = build(), batch()
    calls = []
    method.networks["discriminator"].register_forward_hook(lambda _, given, made: calls.append(len(given[0])))
    _, made = method.losses("generator", data, {})
    method.losses("discriminator", data, made)
    assert calls == [2, 2, 4]  # the generator's turn asks about real ones apart, without gradients


def test_discriminator_turn_leaves_the_generator_alone():
    method, data = build(), batch()
    _, made = method.losses("generator", data, {})
    method.networks["generator"].register_forward_hook(lambda *_: pytest.fail("the generator was called"))
    method.losses("discriminator", data, made)


def test_discriminator_on_a_batch_of_two_has_the_mean_gradient_of_its_tiles():
    method, data = build().double().eval(), batch()
    data = {name: value.double() if value.is_floating_point() else value for name, value in data.items()}
    fake = method.translate(data)

    def gradient(rows):
        method.zero_grad()
        terms, _ = method.losses("discriminator", {k: v[rows] for k, v in data.items()}, {"tumour": fake[rows]})
        sum(terms.values()).backward()
        return [parameter.grad.clone() for parameter in method.networks["discriminator"].parameters()]

    joint, first, second = gradient(slice(0, 2)), gradient(slice(0, 1)), gradient(slice(1, 2))
    for both, one, other in zip(joint, first, second, strict=True):
        torch.testing.assert_close(both, (one + other) / 2, rtol=1e-9, atol=1e-12)
    assert max(both.abs().max() for both in joint) > 0


def test_vae_draws_z_around_the_encoders_mean_and_weighs_its_divergence():
    method, data = build(vae=True, kl=0.25).eval(), batch()
    encoder = method.networks["encoder"]
    with torch.no_grad():
        encoder.mean.bias.copy_(torch.arange(8.0))
        encoder.log_variance.bias.fill_(-1.0)
    drawn = []
    method.networks["generator"].register_forward_hook(lambda _, given, made: drawn.append(given[1].detach()))
    torch.manual_seed(5)
    terms, _ = method.losses("generator", data, {})
    torch.manual_seed(5)
    mean, log_variance = encoder(data["tumour"])
    torch.testing.assert_close(drawn[0], mean + (log_variance / 2).exp() * torch.randn(2, 8))
    torch.testing.assert_close(terms["kl"], 0.25 * kl_divergence(mean, log_variance))
    assert list(terms) == ["adversarial", "feature_matching", "perceptual", "kl"]


@pytest.mark.parametrize("vae", [False, True])
def test_translation_depends_on_the_label_alone_whatever_the_batch_and_the_random_state(vae):
    method, data = build(vae).eval(), batch()
    torch.manual_seed(3)
    first = method.translate(data)
    torch.manual_seed(4)
    others = {**data, "anatomy": -data["anatomy"], "tumour": data["tumour"] * 0.5}
    assert torch.equal(method.translate(others), first)
    alone = method.translate({name: value[1:] for name, value in data.items()})
    torch.testing.assert_close(alone, first[1:])
    assert not torch.equal(first[:1], first[1:])
    assert torch.equal(method.translate({"label": data["label"]}), first)


def test_samples_differ_from_each_other_and_repeat_with_their_seed():
    method, data = build(vae=True).eval(), batch()
    with torch.no_grad():  # as a trained one, which heeds z; initial weights are too small for a visible difference
        method.networks["generator"].first.weight.normal_()
    first = method.sample(data, 3, torch.Generator().manual_seed(1))
    assert first.shape == (2, 3, 1, 64, 64)
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert (first[:, one] - first[:, other]).abs().flatten(1).mean(1).min() > 1e-5
    assert torch.equal(method.sample(data, 3, torch.Generator().manual_seed(1)), first)
    assert not torch.equal(method.sample(data, 3, torch.Generator().manual_seed(2)), first)
    torch.manual_seed(7)
    free = method.sample(data, 2)
    torch.manual_seed(7)
    assert torch.equal(method.sample(data, 2), free)


def test_vgg_is_left_out_where_its_weight_is_0():
    without = build(weights=FeatureWeights(10, 0))
    assert "vgg" not in without.networks
    assert list(without.losses("generator", batch(), {})[0]) == ["adversarial", "feature_matching"]


def test_pictures_are_named_in_order():
    data = batch(classes=3)
    assert list(build(classes=3).pictures(data)) == ["anatomy", "label", "generated", "real"]
    columns = build(vae=True, classes=3).pictures(data)
    assert list(columns) == ["anatomy", "label", "generated", "real", "reconstructed"]


@pytest.mark.parametrize(("channels", "classes", "edge"), [(3, 5, 32), (2, 2, 96)])
@pytest.mark.parametrize("vae", [False, True])
def test_any_channels_classes_and_sizes(vae, channels, classes, edge):
    method, data = build(vae, channels, classes, edge), batch(2, channels, classes, (edge, edge))
    terms, made = method.losses("generator", data, {})
    terms |= method.losses("discriminator", data, made)[0]
    assert made["tumour"].shape == data["tumour"].shape
    assert all(term.isfinite() for term in terms.values())


@pytest.mark.parametrize("name", ["spade", "spade_vae"])
def test_recipe_names_its_variant_sizes_and_weights(name):
    recipe = Recipe.model_validate(
        {
            "data": {"classes": 4},
            "tiles": {"size": 96, "resize": 128},
            "method": owned(name, width=NARROW, latent=6, kl=0.5, feature_matching=7, perceptual=3),
            "training": {"learning_rate": 1e-3},
        }
    )
    torch.manual_seed(0)
    vgg = FiveFeatures()
    method = Spade.from_recipe(recipe, perceptual=vgg)
    assert ("encoder" in method.networks) == method.vae == (name == "spade_vae")
    assert method.weights == FeatureWeights(7, 3)
    assert (method.classes, method.networks["vgg"]) == (4, vgg)
    assert [player.learning_rate for player in method.players()] == [5e-4, 2e-3]
    if method.vae:
        assert method.kl == 0.5
        assert method.networks["generator"].first.in_features == 6
        assert method.networks["generator"].first.out_features == 1024 * NARROW * 16
    data = batch(1, classes=4, edges=(128, 128))
    assert method.translate(data).shape == (1, 1, 128, 128)
    assert Spade.criterion(recipe) == ("label_fidelity", "max")
    assert "vgg19" in Spade.needs(recipe)
    free = recipe.model_copy(update={"method": recipe.method.model_copy(update={"perceptual": 0.0})})
    assert "vgg19" not in Spade.needs(free)
    assert "segmentor" not in Spade.needs(recipe)


def paints(vae, seed, steps=40):
    """The error after a training as a share of the one before it, and the contrast of label and background, of 1."""
    torch.manual_seed(seed)
    label = torch.zeros(2, 32, 32, dtype=torch.int64)
    label[0, 4:16, 4:16] = label[1, 16:28, 10:26] = 1
    inside = label.unsqueeze(1) == 1
    tumour = inside.float() - 0.5 + 0.1 * torch.sin(torch.linspace(-12, 12, 32))
    data = {"anatomy": tumour, "label": label, "tumour": tumour}
    method = Spade(vae=vae, edges=(32, 32), width=1 / 16, latent=8, perceptual=FiveFeatures(), learning_rate=2e-3)
    adams, images = optimisers(method), [method.eval().translate(data)]
    for _ in range(steps):
        play_all(method.train(), data, adams)
    images.append(method.eval().translate(data))
    before, after = ((image - tumour).abs().mean().item() for image in images)
    return after / before, (images[1][inside].mean() - images[1][~inside].mean()).item()


@pytest.mark.parametrize("vae", [False, True])
def test_learns_to_paint_labels_in_the_tumours_grey(vae):
    error, contrast = paints(vae, seed=0)
    assert error < 0.7
    assert contrast > 0.2


def test_the_generators_turn_judges_real_and_generated_images_by_one_weight_and_learns_from_the_generated_alone():
    method, data = build(weights=FeatureWeights(10.0, 0.0)).train(), batch()
    judge = method.networks["discriminator"]
    twin = copy.deepcopy(judge)
    weights, learning = [], []
    judge.scales[0].stages[1][0].register_forward_hook(lambda module, _inputs, _output: weights.append(module.weight))
    judge.register_forward_pre_hook(lambda _module, _inputs: learning.append(torch.is_grad_enabled()))
    method.losses("generator", data, {})
    assert learning == [False, True]
    assert torch.equal(*weights)
    twin(data["tumour"], one_hot_label(data["label"], 2, torch.float32))
    for (name, mine), other in zip(judge.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(mine, other), name  # one step of the power iteration, not one for each call
