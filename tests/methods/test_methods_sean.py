"""SEAN and SEAN+VAE: the terms, the styles and their mean, editing, samples."""

import copy
import math

import pytest
import torch
from owned import owned
from torch import nn
from turns import FiveFeatures, batch, optimisers, play, unreached

from metgan_dist.methods.adversarial_features import feature_matching, kl_divergence, perceptual_loss
from metgan_dist.methods.label_to_image import FeatureWeights
from metgan_dist.methods.sean import Sean
from metgan_dist.networks.sean import ClassLinear, SeanNorm
from metgan_dist.recipe import Recipe


def build(vae=False, channels=1, classes=2, edges=(64, 64), width=1 / 32, **options):
    torch.manual_seed(0)
    options.setdefault("weights", FeatureWeights(10.0, 0.0))
    return Sean(vae=vae, channels=channels, classes=classes, edges=edges, width=width, latent=8, **options)


def vivid(method):
    """Weights of the size of trained ones, with which styles, labels and z leave their mark on an image."""
    for module in method.networks["generator"].modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and not hasattr(module, "parametrizations"):
            nn.init.xavier_normal_(module.weight)
        elif isinstance(module, ClassLinear):
            module.initialise()
    nn.init.normal_(method.networks["mean_style"].total)
    method.networks["mean_style"].regions.fill_(1)
    return method


def test_styles_are_trained_with_the_generator():
    for vae, more in ((False, ()), (True, ("encoder",))):
        generator, discriminator = build(vae).players()
        assert generator.networks == ("generator", "style_encoder", "mean_style", *more)
        assert discriminator.networks == ("discriminator",)
        assert (generator.learning_rate, discriminator.learning_rate) == (1e-4, 4e-4)
        assert generator.betas == discriminator.betas == (0.0, 0.9)
    assert list(build().networks["mean_style"].parameters()) == []


@pytest.mark.parametrize("vae", [False, True])
def test_every_parameter_has_a_gradient_by_the_adversarial_term_alone_and_without_foreground(vae):
    method, data = build(vae, weights=FeatureWeights(0.0, 0.0), kl=0.0), batch()
    data["label"][:] = 0  # an absent class takes part all the same
    assert unreached(method, data) == []


def test_generator_sees_styles_of_the_real_image_and_pays_the_publications_terms():
    method, data = build(weights=FeatureWeights(3.0, 5.0), perceptual=FiveFeatures()).eval(), batch()
    terms, made = method.losses("generator", data, {})
    networks = method.networks
    fake = networks["generator"](data["label"], networks["style_encoder"](data["tumour"], data["label"]))
    label = nn.functional.one_hot(data["label"], 2).movedim(-1, 1).float()
    on_fake, on_real = networks["discriminator"](fake, label), networks["discriminator"](data["tumour"], label)
    expected = {
        "adversarial": -(on_fake[0][-1].mean() + on_fake[1][-1].mean()) / 2,
        "feature_matching": 3 * feature_matching(on_fake, on_real),
        "perceptual": 5 * perceptual_loss(networks["vgg"], fake, data["tumour"]),
    }
    assert list(terms) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-4, atol=1e-6)
    assert torch.equal(made["tumour"], fake)
    assert not made["tumour"].requires_grad


def test_vae_pays_for_what_z_tells_of_the_image():
    method, data = build(vae=True, kl=0.5).eval(), batch()
    terms, _ = method.losses("generator", data, {})
    expected = 0.5 * kl_divergence(*method.networks["encoder"](data["tumour"]))
    assert list(terms) == ["adversarial", "feature_matching", "kl"]
    torch.testing.assert_close(terms["kl"], expected)


def test_discriminator_has_three_layers_of_stride_2_on_two_scales():
    discriminator = build().networks["discriminator"]
    features = discriminator(torch.zeros(1, 1, 64, 64), torch.zeros(1, 2, 64, 64))
    assert [[feature.shape[-1] for feature in scale] for scale in features] == [[33, 17, 9, 10], [17, 9, 5, 6]]


def test_mean_style_is_that_of_the_styles_by_class():
    method = build(classes=3)
    encoder, mean = method.networks["style_encoder"], method.networks["mean_style"]
    mean.half_life = math.inf
    expected, seen = torch.zeros(3, encoder.style), [0, 0, 0]
    for seed, classes in ((1, 3), (2, 2), (3, 1)):  # the third class is in the first batch only
        data = batch(classes=classes, seed=seed)
        method.losses("generator", data, {})
        styles = method.encode_styles(data["tumour"], data["label"])
        for n in range(2):
            for k in range(3):
                if (data["label"][n] == k).any():
                    expected[k] += styles[n, k]
                    seen[k] += 1
    assert seen == [6, 4, 2]
    expected /= torch.tensor(seen).unsqueeze(1)
    torch.testing.assert_close(method.mean_styles(4), expected.expand(4, 3, -1))


def test_mean_style_stands_still_in_eval_mode_and_in_the_discriminators_turn():
    method, data = build(), batch()
    _, made = method.losses("generator", data, {})
    before = copy.deepcopy(method.networks["mean_style"].state_dict())
    method.losses("discriminator", batch(seed=2), made)
    method.eval()
    method.losses("generator", batch(seed=2), {})
    method.translate(batch(seed=2))
    torch.testing.assert_close(method.networks["mean_style"].state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("vae", [False, True])
def test_translation_needs_the_label_only_and_is_the_same_each_time_and_in_any_batch(vae):
    method, data = vivid(build(vae, classes=3)).eval(), batch(n=3, classes=3)
    for module in method.modules():
        if isinstance(module, SeanNorm):
            nn.init.ones_(module.noise)
    image = method.translate({"label": data["label"]})
    assert torch.equal(image, method.translate(data))
    torch.testing.assert_close(image[1:2], method.translate({"label": data["label"][1:2]}))
    assert torch.equal(image, method.generate_from_styles(data["label"], method.mean_styles(3)))
    assert not torch.allclose(image[0], image[1], atol=1e-3)


def test_style_of_one_region_is_carried_to_another_image():
    method, data = vivid(build()).eval(), batch()
    label = torch.zeros(2, 64, 64, dtype=torch.int64)
    label[:, :, 32:] = 1
    own = method.encode_styles(data["tumour"], label)
    assert own.shape == (2, 2, 16)
    exchanged = method.mix_styles(own, own.flip(0), regions=[1])
    assert torch.equal(exchanged[:, 0], own[:, 0])
    assert torch.equal(exchanged[:, 1], own.flip(0)[:, 1])
    plain, moved = (method.generate_from_styles(label, styles) for styles in (own, exchanged))
    assert not torch.equal(plain[..., 32:], moved[..., 32:])
    assert torch.equal(method.generate_from_styles(label, method.mix_styles(own, own.flip(0), [1], 0.0)), plain)


def test_style_encoder_reads_each_region_apart():
    method, data = build().eval(), batch()
    label = torch.zeros(2, 64, 64, dtype=torch.int64)
    label[:, 40:, 40:] = 1
    bright = data["tumour"].clone()
    bright[:, :, 48:, 48:] += torch.randn(2, 1, 16, 16)
    difference = (method.encode_styles(bright, label) - method.encode_styles(data["tumour"], label)).abs()
    assert (difference[:, 1].mean(dim=1) > 2 * difference[:, 0].mean(dim=1)).all()


def test_vae_samples_are_reproduced_by_their_seed_and_differ_otherwise():
    method, data = vivid(build(vae=True)).eval(), batch()
    first, again, other = (method.sample(data, 3, torch.Generator().manual_seed(seed)) for seed in (4, 4, 5))
    assert first.shape == (2, 3, 1, 64, 64)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)
    assert not torch.allclose(first[:, 0], first[:, 1], atol=1e-3)
    torch.manual_seed(6)
    unseeded = method.sample(data, 1)
    torch.manual_seed(6)
    assert torch.equal(unseeded, method.sample(data, 1))


def test_sample_is_the_generator_at_its_z_in_the_mean_styles():
    method, data = vivid(build(vae=True)).eval(), batch()
    draws = torch.randn(2, 2, 8, generator=torch.Generator().manual_seed(3))
    images = method.sample(data, 2, torch.Generator().manual_seed(3))
    for number in range(2):
        expected = method.generate_from_styles(data["label"], method.mean_styles(2), draws[number])
        assert torch.equal(images[:, number], expected)


def test_without_vae_there_is_no_z():
    method, data = build(), batch()
    with pytest.raises(ValueError, match="latent vector of None"):
        method.generate_from_styles(data["label"], method.mean_styles(2), torch.zeros(2, 8))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("vae", [False, True])
def test_any_channels_classes_and_sizes_that_are_multiples_of_32(channels, classes, vae):
    method = build(vae, channels, classes, edges=(96, 64), width=1 / 64)
    data, made = batch(1, channels, classes, edges=(96, 64)), {}
    for player in method.players():
        terms, images = method.losses(player.name, data, made)
        made |= images
        assert all(term.isfinite() for term in terms.values())
    assert made["tumour"].shape == data["tumour"].shape


def test_pictures_show_the_mean_styles_and_the_images_own():
    method, data = vivid(build(vae=True)).eval(), batch()
    pictures = method.pictures(data)
    assert list(pictures) == ["anatomy", "label", "generated", "real", "reconstructed"]
    assert torch.equal(pictures["generated"], method.translate(data))
    styles, z = method.encode_styles(data["tumour"], data["label"]), method.networks["encoder"](data["tumour"])[0]
    assert torch.equal(pictures["reconstructed"], method.generate_from_styles(data["label"], styles, z))


def test_mean_styles_stay_float32_under_autocast():
    method, data = build(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        method.losses("generator", data, {})
    assert {buffer.dtype for buffer in method.networks["mean_style"].buffers()} == {torch.float32}
    exact = method.encode_styles(data["tumour"], data["label"]).mean(dim=0)
    torch.testing.assert_close(method.mean_styles()[0], exact, atol=0.02, rtol=0)


@pytest.mark.parametrize("name", ["sean", "sean_vae"])
def test_recipe_gives_the_method(name):
    recipe = Recipe.model_validate(
        {
            "data": {"classes": 3},
            "tiles": {"size": [64]},
            "method": owned(name, width=1 / 32, latent=5, kl=0.2, feature_matching=4, perceptual=2),
            "training": {"learning_rate": 1e-3},
        }
    )
    method = Sean.from_recipe(recipe, perceptual=FiveFeatures())
    assert method.vae == ("encoder" in method.networks) == (name == "sean_vae")
    assert (method.classes, method.learning_rate) == (3, 1e-3)
    if method.vae:
        assert (method.latent, method.kl) == (5, 0.2)
    assert method.weights == FeatureWeights(4, 2)
    assert (Sean.criterion(recipe), "segmentor" in Sean.needs(recipe)) == (("label_fidelity", "max"), False)
    assert method.eval().translate({"label": batch(classes=3)["label"]}).shape == (2, 1, 64, 64)


class Pixels(nn.Module):
    """Stands for VGG19 where the perceptual loss is to be that of the pixels."""

    def forward(self, image):
        return [image] * 5


def tells_styles_apart(seed, steps=50):
    """What is left of the loss, and the smallest contrast, of 1 and with its sign, that a tile's own styles give.

    One label, bright on dark in the first tile and dark on bright in the second; then the styles are exchanged.
    """
    torch.manual_seed(seed)
    label = torch.zeros(2, 32, 32, dtype=torch.int64)
    label[:, 8:24, 8:24] = 1
    image = (label.unsqueeze(1) - 0.5) * torch.tensor([1.0, -1.0]).view(2, 1, 1, 1) + 0.05 * torch.randn(2, 1, 32, 32)
    data = {"anatomy": image, "tumour": image, "label": label}
    weights = FeatureWeights(0.0, 10.0)
    method = Sean(edges=(32, 32), width=1 / 16, weights=weights, perceptual=Pixels(), learning_rate=2e-2)
    generator, adam = method.players()[0], optimisers(method)["generator"]
    losses = [play(method, generator, data, {}, adam)[0]["perceptual"].item() for _ in range(steps)]
    styles, contrasts = method.eval().encode_styles(image, label), []
    for given, signs in ((styles, (1, -1)), (styles.flip(0), (-1, 1))):
        made = method.generate_from_styles(label, given)
        for n, sign in enumerate(signs):
            contrasts.append(sign * (made[n, 0][label[n] == 1].mean() - made[n, 0][label[n] == 0].mean()).item())
    return losses[-1] / losses[0], min(contrasts)


def test_learns_what_only_the_styles_can_tell_and_carries_it_over():
    loss, contrast = tells_styles_apart(seed=0)
    assert loss < 0.7
    assert contrast > 0.25
