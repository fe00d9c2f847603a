"""SIFA: seven players in order, the terms of each and how far they reach, losses by hand."""

import math

import pytest
import torch
from torch.nn import functional
from turns import dice, least_squares, one_turn_each, optimisers, play_all, unreached

from metgan_dist.methods.losses import dice_loss, frequency_weighted_cross_entropy, l1, segmentation_loss
from metgan_dist.methods.sifa import SIFA, SIFALossWeights
from metgan_dist.recipe import Recipe

ORDER = {
    "g_A": ("generator",),
    "d_B": ("discriminator_tumour",),
    "segmentation": ("encoder", "head_deep", "head_shallow"),
    "decoder": ("decoder",),
    "d_A": ("discriminator_anatomy",),
    "d_P": ("discriminator_deep",),
    "d_P2": ("discriminator_shallow",),
}


def build(classes=2, **options):
    torch.manual_seed(0)
    return SIFA(classes=classes, width=1 / 16, **options)


def batch(classes=2, n=2, edge=32, channels=1):
    torch.manual_seed(1)
    return {
        "anatomy": torch.rand(n, channels, edge, edge) * 2 - 1,
        "tumour": torch.rand(n, channels, edge, edge) * 2 - 1,
        "label": torch.randint(0, classes, (n, edge, edge)),
    }


# Losses


def test_cross_entropy_weighs_each_class_by_one_minus_its_frequency():
    # Four pixels, logits chosen so that the softmax is known; class 0 on three pixels, class 1 on one.
    probability = torch.tensor([[0.5, 0.8, 0.9, 0.4], [0.5, 0.2, 0.1, 0.6]])
    logits = probability.log().reshape(1, 2, 2, 2)
    label = torch.tensor([[[0, 0], [0, 1]]])
    expected = -(0.25 * (math.log(0.5) + math.log(0.8) + math.log(0.9)) + 0.75 * math.log(0.6)) / 4
    assert frequency_weighted_cross_entropy(logits, label).item() == pytest.approx(expected, rel=1e-6)


def test_cross_entropy_of_a_batch_of_one_class_is_zero_and_finite():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = frequency_weighted_cross_entropy(logits, torch.zeros(2, 4, 4, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.isfinite().all()


def test_dice_is_its_formula_on_four_pixels():
    probability = torch.tensor([[0.5, 0.8, 0.9, 0.4], [0.5, 0.2, 0.1, 0.6]])
    logits = probability.log().reshape(1, 2, 2, 2)
    label = torch.tensor([[[0, 0], [0, 1]]])
    background = 2 * (0.5 + 0.8 + 0.9) / (0.25 + 0.64 + 0.81 + 0.16 + 3)
    foreground = 2 * 0.6 / (0.25 + 0.04 + 0.01 + 0.36 + 1)
    assert dice_loss(logits, label).item() == pytest.approx(1 - (background + foreground) / 2, rel=1e-6)


def test_dice_runs_over_the_batch_and_is_zero_for_a_perfect_segmentation():
    label = torch.randint(0, 4, (3, 8, 8))
    perfect = 50.0 * functional.one_hot(label, 4).movedim(-1, 1)
    assert segmentation_loss(perfect, label).item() == pytest.approx(0, abs=1e-6)
    assert segmentation_loss(-perfect, label).item() > 1
    logits = torch.randn(3, 4, 8, 8)
    long = logits.movedim(0, 1).reshape(1, 4, 24, 8)  # the images of the batch one below the other
    torch.testing.assert_close(dice_loss(logits, label), dice_loss(long, label.reshape(1, 24, 8)))


def test_a_class_that_is_absent_has_a_dice_of_zero_and_no_gradient():
    logits = torch.randn(1, 3, 4, 4)
    label = torch.randint(0, 2, (1, 4, 4))
    probability = logits.softmax(1)
    present = [
        (2 * probability[:, c][label == c].sum() / (probability[:, c].square().sum() + (label == c).sum()))
        for c in (0, 1)
    ]
    torch.testing.assert_close(dice_loss(logits, label), 1 - (present[0] + present[1]) / 3)


# Players


def test_seven_players_in_the_papers_order_train_every_network_once():
    method = build()
    players = method.players()
    assert {player.name: player.networks for player in players} == ORDER
    assert [player.name for player in players] == list(ORDER)
    assert {(player.learning_rate, player.betas) for player in players} == {(2e-4, (0.5, 0.999))}
    with pytest.raises(ValueError, match="no player 'segmentor'; players: g_A, d_B"):
        method.losses("segmentor", batch(), {})


def test_every_parameter_has_a_gradient_also_of_images_of_two_channels():
    assert unreached(build(channels=2), batch(channels=2)) == []


# Terms


def test_terms_are_those_of_the_paper_with_its_weights():
    method, data = build(classes=3, pool=0).eval(), batch(classes=3)
    terms, made = one_turn_each(method, data)
    net, x, y, label = method.networks, data["anatomy"], data["tumour"], data["label"]
    fake_y = net["generator"](x)
    source, target = net["encoder"](fake_y), net["encoder"](y)
    fake_x, cycled_x = net["decoder"](target.deep, y), net["decoder"](source.deep, fake_y)
    cycle = l1(cycled_x, x) + l1(net["generator"](fake_x), y)
    size = x.shape[2:]
    deep, deep_y = (net["head_deep"](f.deep, size) for f in (source, target))
    shallow, shallow_y = (net["head_shallow"](f.shallow, size) for f in (source, target))
    d_b, d_a = net["discriminator_tumour"], net["discriminator_anatomy"]
    d_p, d_p2 = net["discriminator_deep"], net["discriminator_shallow"]
    expected = {
        "g_A": {"adversarial": least_squares(d_b(fake_y), 1), "cycle": 10 * cycle},
        "d_B": {"tumour": 0.5 * (least_squares(d_b(y), 1) + least_squares(d_b(fake_y), 0))},
        "segmentation": {
            "segmentation": frequency_weighted_cross_entropy(deep, label) + dice_loss(deep, label),
            "shallow": 0.1 * (frequency_weighted_cross_entropy(shallow, label) + dice_loss(shallow, label)),
            "adversarial": 0.1 * least_squares(d_a(fake_x)[0], 1),
            "cycle": 0.1 * 10 * cycle,
            "auxiliary": 0.1 * least_squares(d_a(fake_x)[1], 1),
            "logits": 0.1 * least_squares(d_p(deep_y), 1),
            "shallow_logits": 0.01 * least_squares(d_p2(shallow_y), 1),
        },
        "decoder": {"adversarial": least_squares(d_a(fake_x)[0], 1), "cycle": 10 * cycle},
        "d_A": {
            "anatomy": 0.5 * (least_squares(d_a(x)[0], 1) + least_squares(d_a(fake_x)[0], 0)),
            "auxiliary": 0.5 * (least_squares(d_a(cycled_x)[1], 1) + least_squares(d_a(fake_x)[1], 0)),
        },
        "d_P": {"logits": 0.5 * (least_squares(d_p(deep), 1) + least_squares(d_p(deep_y), 0))},
        "d_P2": {"logits": 0.5 * (least_squares(d_p2(shallow), 1) + least_squares(d_p2(shallow_y), 0))},
    }
    assert list(terms) == list(expected)
    for player, values in expected.items():
        assert list(terms[player]) == list(values)
        for name, value in values.items():
            torch.testing.assert_close(terms[player][name], value, msg=lambda text, at=(player, name): f"{at}: {text}")
    images = {"tumour": fake_y, "anatomy": fake_x, "cycled": cycled_x, "deep_source": deep, "deep_target": deep_y}
    assert sorted(made) == sorted([*images, "shallow_source", "shallow_target"])
    for name, image in images.items():
        torch.testing.assert_close(made[name], image)


def test_weights_scale_their_own_terms():
    weights = SIFALossWeights(2.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0)
    data = batch()
    scaled, _ = one_turn_each(build(weights=weights, pool=0).eval(), data)
    unit, _ = one_turn_each(build(weights=SIFALossWeights(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0), pool=0).eval(), data)
    factors = {
        ("g_A", "adversarial"): 2,
        ("g_A", "cycle"): 3,
        ("decoder", "adversarial"): 2,
        ("decoder", "cycle"): 3,
        ("segmentation", "adversarial"): 10,
        ("segmentation", "cycle"): 15,
        ("segmentation", "shallow"): 7,
        ("segmentation", "auxiliary"): 11,
        ("segmentation", "logits"): 13,
        ("segmentation", "shallow_logits"): 17,
    }
    for player, terms in unit.items():
        for name, term in terms.items():
            torch.testing.assert_close(scaled[player][name], factors.get((player, name), 1) * term)


def test_the_generator_is_deaf_to_label_heads_and_feature_discriminators():
    method, data = build(), batch()
    calls = []
    for name, network in method.networks.items():
        network.register_forward_hook(lambda *_, name=name: calls.append(name))
    method.losses("g_A", {k: v for k, v in data.items() if k != "label"}, {})
    assert set(calls) == {"generator", "encoder", "decoder", "discriminator_tumour"}


@pytest.mark.parametrize(
    ("term", "deep_blocks", "heads"),
    [
        ("segmentation", True, {"head_deep"}),
        ("shallow", False, {"head_shallow"}),
        ("adversarial", True, set()),
        ("cycle", True, set()),
        ("auxiliary", True, set()),
        ("logits", True, {"head_deep"}),
        ("shallow_logits", False, {"head_shallow"}),
    ],
)
def test_each_term_of_the_segmentation_reaches_the_depth_it_judges(term, deep_blocks, heads):
    method, data = build(), batch()
    _, made = method.losses("g_A", data, {})
    terms, _ = method.losses("segmentation", data, made)
    method.zero_grad(set_to_none=True)
    terms[term].backward()

    def reached(module):
        return any(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())

    encoder = method.networks["encoder"]
    assert reached(encoder.shallow)
    assert reached(encoder.deep) == deep_blocks
    assert {name for name in ("head_deep", "head_shallow") if reached(method.networks[name])} == heads


def test_decoder_and_generator_get_their_whole_gradient_though_parts_are_not_tracked():
    method, data = build().double().eval(), batch()
    data = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in data.items()}
    _, made = method.losses("g_A", data, {})
    places = {
        "g_A": method.networks["generator"].resnet.model[-1].bias,
        "decoder": method.networks["decoder"].model[-1].bias,
    }
    for player, parameter in places.items():

        def total(player=player):
            return sum(method.losses(player, data, made)[0].values())

        method.zero_grad(set_to_none=True)
        total().backward()
        analytic, values = parameter.grad.item(), []
        for sign in (1, -1):
            parameter.data += sign * 1e-6
            values.append(total().item())
            parameter.data -= sign * 1e-6
        assert abs(analytic) > 1e-3
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(analytic, rel=1e-3)


def test_discriminators_of_images_see_pooled_fakes_and_those_of_logits_fresh_ones():
    method, data = build(pool=1).eval(), batch(n=1)
    _, made = one_turn_each(method, data)  # fills the pools
    assert sorted(method.pools) == ["anatomy", "tumour"]
    assert torch.equal(method.pools["tumour"].entries[0][0], made["tumour"][0])
    assert torch.equal(method.pools["anatomy"].entries[0][0], made["anatomy"][0])
    d_b, y, old = method.networks["discriminator_tumour"], data["tumour"], made["tumour"]
    other = {**made, "tumour": -old}
    options = [(0.5 * (least_squares(d_b(y), 1) + least_squares(d_b(fake), 0))).item() for fake in (old, -old)]
    shown = set()
    for _ in range(24):
        method.pools["tumour"].entries = [(old[0],)]
        value = method.losses("d_B", data, other)[0]["tumour"].item()
        shown.add(min((0, 1), key=lambda n, value=value: abs(value - options[n])))
        assert min(abs(value - option) for option in options) < 1e-6
    assert shown == {0, 1}


def test_no_term_depends_on_which_x_comes_with_which_y():
    """Unpaired: where l follows x, the order of y within the batch changes no mean over it."""
    method, data = build(pool=0).eval(), batch()
    terms, _ = one_turn_each(method, data)
    other, _ = one_turn_each(method, {**data, "tumour": data["tumour"].flip(0)})
    for player, values in terms.items():
        for name, value in values.items():
            torch.testing.assert_close(other[player][name], value)


# Use


def test_translation_takes_the_anatomy_alone_and_no_gradient():
    method, data = build(channels=2).eval(), batch(channels=2, edge=40)
    image = method.translate({"anatomy": data["anatomy"]})
    assert image.shape == (2, 2, 40, 40)
    assert torch.equal(image, method.networks["generator"](data["anatomy"]))
    assert method.inference == ("generator",)


def test_cycle_decodes_the_output_and_is_what_picks_the_best():
    method, data = build().eval(), batch()
    output = method.translate(data)
    expected = method.networks["decoder"](method.networks["encoder"](output).deep, output)
    cycled = method.cycle(data, output)
    torch.testing.assert_close(cycled, expected)
    assert SIFA.criterion(Recipe()) == ("cycle_mae", "min")


@pytest.mark.parametrize("classes", [2, 5])
def test_segmentation_is_the_deep_heads_likeliest_class(classes):
    method, data = build(classes).eval(), batch(classes)
    predicted = method.segment(data["tumour"])
    features = method.networks["encoder"](data["tumour"])
    assert predicted.shape == (2, 32, 32)
    assert predicted.dtype == torch.int64
    assert torch.equal(predicted, method.networks["head_deep"](features.deep, torch.Size((32, 32))).argmax(1))


def test_scores_of_classes_are_the_deep_heads_chances_and_those_of_tumour_images_alone():
    """So that its segmentation is scored on whole volumes, as the segmentors of cycle_shape are."""
    method, data = build(3).eval(), batch(3)
    scores = method.class_scores(data["tumour"], "tumour")
    assert method.segments == ("tumour",)
    assert (scores.shape, scores.dtype) == ((2, 3, 32, 32), torch.float32)
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(2, 32, 32))
    assert torch.equal(scores.argmax(dim=1), method.segment(data["tumour"]))
    with pytest.raises(ValueError, match="not anatomy"):
        method.class_scores(data["anatomy"], "anatomy")


def test_pictures_show_translation_cycle_and_segmentation():
    method, data = build(3).eval(), batch(3)
    pictures = method.pictures(data)
    assert list(pictures) == ["anatomy", "label", "generated", "real", "cycled", "segmented"]
    torch.testing.assert_close(pictures["segmented"], method.segment(data["tumour"]).unsqueeze(1).float() - 1)
    torch.testing.assert_close(pictures["cycled"], method.cycle(data, method.translate(data)))


def test_recipe_sets_classes_width_weights_pool_and_rate():
    recipe = Recipe.model_validate(
        {
            "data": {"classes": 4},
            "method": {"name": "sifa", "width": 0.0625, "alpha1": 2, "alpha2": 5, "pool": 3, "adversarial": "hinge"},
            "training": {"learning_rate": 1e-3},
        }
    )
    method = SIFA.from_recipe(recipe)
    assert method.weights == SIFALossWeights(adversarial=2.0, cycle=5.0)
    assert method.networks["head_deep"].classifier.out_channels == 4
    assert method.networks["discriminator_deep"].model[0].in_channels == 4
    assert {pool.size for pool in method.pools.values()} == {3}
    assert {player.learning_rate for player in method.players()} == {1e-3}
    assert method.adversarial == "hinge"
    assert "segmentor" not in SIFA.needs(recipe)
    assert "vgg19" not in SIFA.needs(recipe)


def test_paper_size_networks_have_the_papers_widths():
    with torch.device("meta"):
        networks = SIFA().networks
    assert networks["encoder"].features == 512
    assert networks["generator"].resnet.model[0].out_channels == 32
    for name in ("tumour", "deep", "shallow"):
        assert networks[f"discriminator_{name}"].model[0].out_channels == 64


def learns(seed, steps=30):
    """Of cycle and segmentation loss what is left of the untrained method's; the Dice of the unlabelled images.

    The targets are dimmer than the sources, and come in another order than the labels.
    """
    torch.manual_seed(seed)
    label = torch.zeros(4, 32, 32, dtype=torch.int64)
    for n in range(4):
        label[n, 4 * n : 4 * n + 16, 6:26] = 1
    anatomy = (1.8 * label.unsqueeze(1) - 0.9 + 0.05 * torch.randn(4, 1, 32, 32)).clamp(-1, 1)
    data = {"anatomy": anatomy, "tumour": anatomy.flip(0) * 0.5 + 0.2, "label": label}
    # A narrow network has little to move in a few steps of the paper's 2e-4.
    method = SIFA(width=1 / 16, learning_rate=2e-3)

    def cycle_mae():
        method.eval()
        return l1(method.cycle(data, method.translate(data)), anatomy).item()

    adams, untrained = optimisers(method), cycle_mae()
    losses = [play_all(method.train(), data, adams)["segmentation"]["segmentation"].item() for _ in range(steps)]
    found = method.eval().segment(data["tumour"])
    return cycle_mae() / untrained, losses[-1] / losses[0], dice(found == 1, label.flip(0) == 1)


def test_learns_to_close_its_cycle_and_to_segment_images_whose_labels_it_never_saw():
    cycle, segmentation, overlap = learns(seed=0)
    assert cycle < 0.8
    assert segmentation < 0.75
    assert overlap > 0.6
