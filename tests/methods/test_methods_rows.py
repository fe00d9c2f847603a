"""The nine rows of paper 1's table 2: one method whose components come and go with the row's name."""

import math

import pytest
import torch
from torch.nn import functional
from turns import batch

from metgan_dist.methods import METHODS, build_method, method_class
from metgan_dist.methods.losses import l1
from metgan_dist.methods.metgan import MetGAN
from metgan_dist.methods.rows import ROWS, LossWeights, begin_at, build_generator
from metgan_dist.methods.segmentor import SegmentorNetwork
from metgan_dist.networks.metgen import MetGen
from metgan_dist.networks.resnet_9 import ResNet9
from metgan_dist.networks.unet_256 import UNet256
from metgan_dist.recipe import Recipe

# Paper 1, table 2: generator, segmentor, pair loss, cycle.
TABLE_2 = {
    "pix2pix": ("unet-256", False, True, False),
    "pix2pix_seg": ("unet-256", True, True, False),
    "cyclegan": ("unet-256", False, False, True),
    "cyclegan_seg": ("unet-256", True, False, True),
    "metgen_cond": ("metgen", False, True, False),
    "metgen_cond_seg": ("metgen", True, True, False),
    "metgen_cycle": ("metgen", False, True, True),
    "metgan_minus": ("metgen", True, False, True),
    "metgan": ("metgen", True, True, True),
}


def recipe(name, **method):
    settings = {"name": name, "width": 1 / 16, **method}
    return Recipe.model_validate({"method": settings, "tiles": {"size": [64]}})


def build(name, classes=2, **method):
    settings = recipe(name, **method)
    settings = settings.model_copy(update={"data": settings.data.model_copy(update={"classes": classes})})
    segmentor = SegmentorNetwork(classes, width=1 / 16) if "segmentor" in method_class(name).needs(settings) else None
    return build_method(settings, segmentor)


@pytest.mark.parametrize("name", ROWS)
def test_row_has_the_ticks_of_table_2(name):
    backbone, segmentor, pair, cycle = TABLE_2[name]
    method = build(name)
    kinds = {"metgen": MetGen, "unet-256": UNet256}
    generator = method.networks["generator"]
    assert isinstance(getattr(generator, "backbone", generator), kinds[backbone])
    assert ("segmentor" in method.networks) == segmentor
    assert ("inverse" in method.networks) == cycle
    terms, _ = method.losses("generators", batch(), {})
    assert ("pair" in terms) == pair
    assert ("cycle" in terms) == cycle
    assert ("segmentation" in terms) == segmentor
    assert ("identity" in terms) == name.startswith("cyclegan")
    assert "adversarial" in terms


@pytest.mark.parametrize("name", ROWS)
def test_the_recipe_of_a_row_has_the_weights_of_its_ticks_and_no_others(name):
    backbone, segmentor, pair, cycle = TABLE_2[name]
    has = {"alpha1": True, "alpha2": cycle, "identity": cycle, "alpha3": segmentor, "alpha4": pair}
    section = recipe(name).method
    assert {field: field in type(section).model_fields for field in has} == has
    assert section.backbone == backbone
    weights = {field for field, present in has.items() if present}
    assert set(MetGAN.loss_weights(recipe(name))) == weights


def test_all_rows_are_one_class_and_no_row_is_missing():
    assert set(ROWS) == set(TABLE_2)
    assert {METHODS[name] for name in ROWS} == {MetGAN}


@pytest.mark.parametrize("name", ROWS)
def test_discriminator_is_conditional_only_without_a_cycle_and_sees_what_the_generator_was_given(name):
    method = build(name, classes=3)
    judge = method.networks["discriminator_tumour"]
    assert judge.condition_channels == (0 if ROWS[name].cycle else 1 + 2)
    if not ROWS[name].cycle:
        data = batch(classes=3)
        condition = method._condition(data)
        assert torch.equal(condition[:, :1], data["anatomy"])
        assert torch.equal(condition[:, 1] > 0, data["label"] == 1)
        assert torch.equal(condition[:, 2] > 0, data["label"] == 2)


def test_pix2pix_lets_the_discriminator_move_first_at_half_its_loss_without_a_pool():
    method = build("pix2pix").eval()
    assert [player.name for player in method.players()] == ["discriminators", "generators"]
    assert method.pools["tumour"].size == 0
    data = batch()
    terms, made = method.losses("discriminators", data, {})
    assert made == {}
    judge, condition = method.networks["discriminator_tumour"], method._condition(data)
    real, fake = judge(data["tumour"], condition), judge(method.translate(data), condition)
    expected = 0.5 * (
        torch.nn.functional.binary_cross_entropy_with_logits(real, torch.ones_like(real))
        + torch.nn.functional.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
    )
    torch.testing.assert_close(terms["tumour"], expected)


def test_pix2pix_weighs_the_pair_loss_by_100_unless_told_otherwise():
    method, data = build("pix2pix").eval(), batch()
    terms, _ = method.losses("generators", data, {})
    torch.testing.assert_close(terms["pair"], 100 * l1(method.translate(data), data["tumour"]))
    assert build("pix2pix", alpha4=3).weights.pair == 3


def test_identity_loss_is_cyclegans():
    method, data = build("cyclegan").eval(), batch()
    terms, _ = method.losses("generators", data, {})
    f, g = method.networks["generator"], method.networks["inverse"]
    label = f.encode_label(data["label"])
    expected = 5 * (l1(f(data["tumour"], label), data["tumour"]) + l1(g(data["anatomy"], label), data["anatomy"]))
    torch.testing.assert_close(terms["identity"], expected)


def test_a_past_fake_is_judged_with_its_own_condition():
    method = build("metgen_cond", pool=1)
    judge = method.networks["discriminator_tumour"]
    seen = []
    judge.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    known = {}
    for number in range(12):
        torch.manual_seed(number)
        data = {**batch(n=1), "anatomy": torch.full((1, 1, 64, 64), number / 12)}
        made = {"tumour": torch.full((1, 1, 64, 64), number / 24)}
        known[number / 24] = number / 12
        method.losses("discriminators", data, made)
    # Real and fake are judged in one batch, real first.
    pairs = [(image[1, 0, 0, 0].item(), condition[1, 0, 0, 0].item()) for image, condition in seen]
    assert all(condition == pytest.approx(2 * image) for image, condition in pairs)
    assert any(image != number / 24 for number, (image, _) in enumerate(pairs))  # some came out of the pool


def test_cyclegan_runs_with_its_own_resnet():
    method = build("cyclegan", backbone="resnet-9")
    assert isinstance(method.networks["generator"].backbone, ResNet9)
    assert method.translate(batch()).shape == (2, 1, 64, 64)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("name", ["pix2pix", "cyclegan", "metgan"])
def test_several_channels_and_classes(name, classes):
    torch.manual_seed(0)
    method = MetGAN(
        row=ROWS[name],
        backbone=TABLE_2[name][0],
        channels=(3, 3),
        classes=classes,
        edges=(64, 128),
        width=1 / 16,
        weights=LossWeights(segmentation=0),
    ).eval()
    data = {key: torch.cat([value] * 2, dim=-1) for key, value in batch(classes=classes, channels=3).items()}
    assert method.translate(data).shape == (2, 3, 64, 128)
    for player in method.players():
        terms, _ = method.losses(player.name, data, {"tumour": data["tumour"], "anatomy": data["anatomy"]})
        assert all(term.isfinite() for term in terms.values())


def test_paper_size_counts():
    with torch.device("meta"):
        pix2pix = MetGAN(row=ROWS["pix2pix"], backbone="unet-256", weights=LossWeights())
        cyclegan = MetGAN(row=ROWS["cyclegan"], backbone="resnet-9", weights=LossWeights())

    def count(network):
        return sum(p.numel() for p in network.parameters())

    # One more input channel, the label, for the first 4x4 (7x7) convolution of 64 channels.
    assert count(pix2pix.networks["generator"]) == 54_407_809 + 64 * 16
    assert count(cyclegan.networks["inverse"]) == 11_365_633 + 64 * 49
    assert count(cyclegan.networks["discriminator_anatomy"]) == 2_762_689
    # Anatomy and label beside the image: two more channels into the first 4x4 convolution.
    assert count(pix2pix.networks["discriminator_tumour"]) == 2_762_689 + 2 * 64 * 16


def test_unpaired_rows_are_chosen_without_looking_at_pairs():
    for name, row in ROWS.items():
        best, order = method_class(name).criterion(recipe(name))
        assert (best, order) == (("mae" if row.pair else "cycle_mae"), "min")


def test_dropout_at_inference_is_a_choice():
    data = batch()
    still, noisy = build("pix2pix").eval(), build("pix2pix", stochastic_inference=True, width=1 / 4).eval()
    assert torch.equal(still.translate(data), still.translate(data))
    assert not torch.equal(noisy.translate(data), noisy.translate(data))


def tissue_on_black(draws, edge=64):
    """Two images: patches of uneven tissue, the rest black."""
    uneven, patches = (
        functional.interpolate(torch.randn(2, 1, cells, cells, generator=draws), size=(edge, edge), mode="bicubic")
        for cells in (8, 4)
    )
    return torch.where(patches > 0.3, (0.3 + 0.3 * uneven).clamp(-0.8, 0.95), -1.0)


@pytest.mark.parametrize("seed", [2, 4])
def test_a_narrow_metgen_learns_bright_and_dark(seed):
    """From small weights of any sign and a bias of 0 the error is 0.29 and 0.32 after as many steps."""
    torch.manual_seed(seed)
    generator = build_generator("metgen", 1, 1, 2, (64, 64), 0.25, False, False, "pixel")
    draws = torch.Generator().manual_seed(seed)
    begin_at(generator.anatomy_path.output, [tissue_on_black(draws).mean().item()])
    adam = torch.optim.Adam(generator.parameters(), 1e-3, betas=(0.5, 0.999))
    label = torch.zeros(2, 64, 64, dtype=torch.int64)
    for _ in range(120):
        image = tissue_on_black(draws)
        adam.zero_grad()
        l1(generator(image, generator.encode_label(label)), image).backward()
        adam.step()
    image = tissue_on_black(draws)
    with torch.no_grad():
        assert l1(generator(image, generator.encode_label(label)), image) < 0.15


def test_either_generator_begins_at_the_brightness_of_what_it_makes():
    method = build("metgan")
    assert method.begins_at
    method.begin_at({"anatomy": [0.3], "tumour": [-0.97]})
    biases = [method.networks[name].anatomy_path.output.bias.item() for name in ("generator", "inverse")]
    assert biases == pytest.approx([math.atanh(-0.95), math.atanh(0.3)])
    made = method.networks["inverse"](
        torch.zeros(2, 1, 64, 64), method.networks["inverse"].encode_label(torch.zeros(2, 64, 64, dtype=torch.int64))
    )
    assert made.mean().item() == pytest.approx(0.3, abs=0.25)


def test_what_ends_without_a_relu_begins_as_it_did():
    assert not build("cyclegan").begins_at


@pytest.mark.parametrize("name", ["pix2pix", "cyclegan"])
def test_translators_that_are_shown_no_label_make_and_judge_the_same_whatever_it_says(name):
    torch.manual_seed(0)
    method, tiles = build(name, classes=3, label_input=False).eval(), batch(classes=3)
    others = {**tiles, "label": (tiles["label"] + 1) % 3}
    torch.testing.assert_close(method.translate(tiles), method.translate(others), rtol=0, atol=0)
    logits = [method._judged("tumour", one, tiles["tumour"]) for one in (tiles, others)]
    torch.testing.assert_close(*logits, rtol=0, atol=0)
    terms, made = method.losses("generators", tiles, {})
    assert "pair" in terms or "cycle" in terms
    method.losses("discriminators", tiles, made)
    # By the paper's sizes: one channel goes in where 1 + 2 of the label would.
    first = next(method.networks["generator"].parameters())
    assert first.shape[1] == 1
    assert next(build(name, classes=3).networks["generator"].parameters()).shape[1] == 3


def test_metgen_has_to_be_shown_the_label(mistake):
    with mistake("method.label_input: metgen has a path for the label"):
        method_class("metgan").check(recipe("metgan", label_input=False))
