"""Paper 4's translators: terms by hand, what they are given, latent vectors, and that they learn label maps."""

import copy

import pytest
import torch
from torch import nn
from turns import batch, one_turn_each, optimisers, play_all, unreached

from metgan_dist.errors import UserError
from metgan_dist.methods import build_method, check_methods, method_class
from metgan_dist.methods.adversarial_features import feature_matching
from metgan_dist.methods.pix2pix_stroke import Pix2PixStroke
from metgan_dist.methods.segmentor import judge_recipe, segmentor_recipe
from metgan_dist.methods.spade_stroke import SpadeStroke
from metgan_dist.recipe import Recipe, recipe_tree

CLASSES = 4


def pix2pix(**options):
    torch.manual_seed(0)
    return Pix2PixStroke(classes=CLASSES, edges=(64, 64), width=1 / 16, **options)


def spade(**options):
    torch.manual_seed(0)
    return SpadeStroke(classes=CLASSES, edges=(64, 64), width=1 / 4, latent=8, **options)


def data(**options):
    """Tumour image and label, and no anatomy."""
    return {name: value for name, value in batch(classes=CLASSES, **options).items() if name != "anatomy"}


def one_hot(label):
    return nn.functional.one_hot(label, CLASSES).movedim(-1, 1).float()


@pytest.mark.parametrize("build", [pix2pix, spade])
def test_they_train_translate_and_show_without_an_anatomy_image(build):
    method, given = build(), data()
    assert unreached(method, given) == []
    play_all(method, given, optimisers(method))
    assert list(method.eval().pictures(given)) == ["label", "generated", "real"]
    assert list(method.pictures(batch(classes=CLASSES))) == ["anatomy", "label", "generated", "real"]
    others = {**batch(classes=CLASSES), "tumour": -given["tumour"]}
    assert torch.equal(method.translate(others), method.translate({"label": given["label"]}))


@pytest.mark.parametrize(("weight", "pair"), [(1.0, 10.0), (0.5, 100.0)])
def test_pix2pix_terms_are_equation_1_with_its_lambda_and_the_discriminator_moves_first_at_half_its_loss(weight, pair):
    method, given = pix2pix(adversarial_weight=weight, pair=pair, dropout=0.0), data()
    assert [player.name for player in method.players()] == ["discriminator", "generator"]
    assert {(p.learning_rate, p.betas) for p in method.players()} == {(2e-4, (0.5, 0.999))}
    label = one_hot(given["label"])
    fake = method.networks["generator"](label)
    judge = method.networks["discriminator"]
    on_fake, on_real = judge(fake, label), judge(given["tumour"], label)
    terms, made = one_turn_each(method, given)
    log = -(torch.sigmoid(on_real).log().mean() + (1 - torch.sigmoid(on_fake)).log().mean())
    torch.testing.assert_close(terms["discriminator"]["tumour"], 0.5 * log, rtol=1e-4, atol=1e-6)
    expected = {
        "adversarial": weight * -torch.sigmoid(on_fake).log().mean(),
        "pair": pair * (fake - given["tumour"]).abs().mean(),
    }
    assert list(terms["generator"]) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(terms["generator"][name], value, rtol=1e-4, atol=1e-6)
    assert torch.equal(made["tumour"], fake)


def test_pix2pix_without_an_adversarial_weight_has_no_discriminator_and_without_any_weight_is_refused():
    method = pix2pix(adversarial_weight=0.0)
    assert [player.name for player in method.players()] == ["generator"]
    assert list(one_turn_each(method, data())[0]["generator"]) == ["pair"]
    recipe = Recipe.model_validate({"method": {"name": "pix2pix_stroke", "alpha1": 0, "alpha4": 0}})
    with pytest.raises(UserError, match=r"^method\.alpha1: both alpha1 and alpha4 are 0"):
        method_class("pix2pix_stroke").check(recipe)


def test_spade_terms_are_hinge_and_feature_matching_at_a_latent_vector_of_each_image():
    method, given = spade(), data()
    drawn = []
    method.networks["generator"].register_forward_hook(lambda _, inputs, made: drawn.append((inputs[1], made)))
    method.eval()
    terms, _ = method.losses("generator", given, {})
    z, fake = drawn[0]
    assert z.shape == (2, 8)
    assert not torch.equal(z[0], z[1])
    label = one_hot(given["label"])
    judge = method.networks["discriminator"]
    on_fake, on_real = judge(fake, label), judge(given["tumour"], label)
    assert len(on_fake) == 1
    assert len(on_fake[0]) == 4
    expected = {"adversarial": -on_fake[0][-1].mean(), "feature_matching": 10 * feature_matching(on_fake, on_real)}
    assert list(terms) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-4, atol=1e-6)


def test_one_latent_vector_for_all_slices_of_a_volume_gives_each_slice_what_it_alone_gets():
    method = spade().eval()
    with torch.no_grad():  # as a trained one, which heeds z
        method.networks["generator"].first.weight.normal_()
    label = data(n=5)["label"]
    z = method.latents(1, torch.Generator().manual_seed(3))
    assert z.shape == (1, 8)
    whole = method.translate({"label": label, "latent": z.expand(5, -1)})
    for slice_, image in zip(label, whole, strict=True):
        torch.testing.assert_close(method.translate({"label": slice_[None], "latent": z})[0], image)
    other = method.latents(1, torch.Generator().manual_seed(4))
    assert (method.translate({"label": label, "latent": other.expand(5, -1)}) - whole).abs().mean() > 1e-3
    assert pix2pix().latents(1) is None


@pytest.mark.parametrize(("build", "steps"), [(pix2pix, 40), (spade, 60)])
def test_they_learn_to_draw_what_the_label_says(build, steps):
    """Each class has an intensity of its own; held out is another arrangement of the classes."""
    levels = torch.tensor([-1.0, -0.3, 0.2, 0.9])

    def drawn(seed):
        generator = torch.Generator().manual_seed(seed)
        label = torch.randint(0, CLASSES, (4, 4, 4), generator=generator)
        label = label.repeat_interleave(16, 1).repeat_interleave(16, 2)
        return {"label": label, "tumour": levels[label][:, None]}

    method = build(learning_rate=2e-3)
    adams, held_out = optimisers(method), drawn(1_000)
    before = (copy.deepcopy(method).eval().translate(held_out) - held_out["tumour"]).abs().mean().item()
    for step in range(steps):
        play_all(method, drawn(step), adams)
    after = (method.eval().translate(held_out) - held_out["tumour"]).abs().mean().item()
    assert after < 0.6 * before, (before, after)


def test_the_papers_sizes_follow_from_a_recipe_of_the_name_alone():
    given = {"data": {"classes": 7}, "tiles": {"size": [128]}}
    recipes = {
        name: Recipe.model_validate({**given, "method": {"name": name}}) for name in ("pix2pix_stroke", "spade_stroke")
    }
    counts = {}
    for name, recipe in recipes.items():
        check_methods(recipe, recipe.tiles.shape)
        with torch.device("meta"):
            networks = method_class(name).from_recipe(recipe).networks
        counts[name] = {key: sum(p.numel() for p in network.parameters()) for key, network in networks.items()}
    discriminator = 166_625 + 512 * 7
    assert counts["pix2pix_stroke"] == {"generator": 41_819_521 + 6 * 1024, "discriminator": discriminator}
    assert counts["spade_stroke"] == {"generator": 2_806_057, "discriminator": discriminator}


@pytest.mark.parametrize("name", ["pix2pix_stroke", "spade_stroke"])
def test_crops_and_edges_that_do_not_halve_five_times_are_refused(name):
    tiles = {"tiles": {"kind": "crop", "size": [32, 64, 64]}}
    with pytest.raises(UserError, match=rf"^method\.name: {name} takes 2D tiles"):
        check_methods(Recipe.model_validate({**tiles, "method": {"name": name}}), (32, 64, 64))
    with pytest.raises(UserError, match=r"^tiles\.size: tiles of 48 pixels do not fit"):
        check_methods(Recipe.model_validate({"tiles": {"size": [48]}, "method": {"name": name}}), (48, 48))


def test_cyclegan_goes_from_a_label_picture_to_the_image_and_back_without_labels_and_without_identity():
    """Paper 4's CycleGAN: the label map is the image of the source, in as many channels as it has."""
    fields = {"name": "cyclegan", "identity": 0, "width": 1 / 32}
    channels = {"anatomy": ["grey matter", "white matter", "lesion"], "tumour": "dwi", "unpaired": True}
    recipe = Recipe.model_validate({"data": channels, "tiles": {"size": [64]}, "method": fields})
    check_methods(recipe, (64, 64))
    method, given = build_method(recipe), data()
    picture = one_hot(given.pop("label"))[:, 1:] * 2 - 1
    given = {"anatomy": picture, **given}
    assert unreached(method, given) == []
    terms = play_all(method, given, optimisers(method))
    assert set(terms["generators"]) == {"adversarial", "cycle"}
    assert method.eval().translate(given).shape == (2, 1, 64, 64)
    assert method.cycle(given, method.translate(given)).shape == picture.shape
    with_identity = Recipe.model_validate({"data": channels, "method": {**fields, "identity": 5}})
    with pytest.raises(UserError, match=r"^method\.identity: 5: .*anatomy has 3 channel\(s\) and tumour 1"):
        method_class("cyclegan").check(with_identity)


@pytest.mark.parametrize("suffix", ["", "-small"])
def test_the_presets_are_the_papers_settings_and_the_small_ones_change_sizes_alone(suffix):
    def preset(name):
        return Recipe.model_validate(recipe_tree(f"{name}{suffix}"))

    drawn, found = preset("stroke"), preset("stroke-segmentation")
    assert (drawn.method.name, drawn.method.alpha4, drawn.training.batch_size) == ("pix2pix_stroke", 10, 8)
    assert (drawn.data.anatomy, drawn.data.tumour, drawn.training.augment) == ("", "dwi", False)
    for one in (found.method, judge_recipe(found).method):
        assert (one.segmentor_loss, one.segmentor_batch_size) == ("ce-dice", 5)
    folds = found.segmentation
    assert (folds.network, folds.loss, folds.batch_size, folds.patience) == ("unet-stroke", "ce-dice", 5, None)
    assert found.training.augment == "affine-shift"
    for recipe in (drawn, segmentor_recipe(found)):
        check_methods(recipe, recipe.tiles.shape)
    if not suffix:
        assert (drawn.training.epochs, drawn.tiles.shape) == (100, (128, 128))
        assert (folds.epochs, folds.width, folds.least_lesion, found.tiles.shape) == (500, 1, 20, (32, 128, 128))
