"""Paper 5: terms by hand, who is moved by what, which label goes with which volume, stages, and that it learns."""

import copy
import math
from functools import cache

import pytest
import torch
from torch.nn import functional
from turns import batch, dice, least_squares, one_turn_each, optimisers, play, unreached

from metgan_dist.errors import UserError
from metgan_dist.methods import build_method, check_method
from metgan_dist.methods.cycle_shape import CycleShape, CycleShapeLossWeights
from metgan_dist.methods.losses import cross_entropy, l1
from metgan_dist.methods.segmentor import SegmentorNetwork
from metgan_dist.recipe import Recipe

EDGES = (24, 24, 32)
GENERATORS, SEGMENTORS, DISCRIMINATORS = "generators", "segmentors", "discriminators"


def build(classes=3, **options):
    torch.manual_seed(0)
    return CycleShape(classes=classes, width=1 / 8, **options)


def unpaired(classes=3, n=1, edges=EDGES, channels=1):
    """Two domains' volumes, each with labels and rows of its own."""
    data = batch(n=n, channels=channels, classes=classes, edges=edges)
    return {**data, "tumour_label": torch.randint(0, classes, (n, *edges)), "tumour_tile": torch.arange(n)}


class Bright(SegmentorNetwork):
    """Finds class 1 in what is bright and class 2 in what is dark."""

    def forward(self, image):
        return torch.cat([2 * image, -2 * image], dim=1)


def recipe(method=None, tiles=None, **sections):
    tiles = {"kind": "crop", "size": [32], **(tiles or {})}
    method = {"name": "cycle_shape", "width": 1 / 8, **(method or {})}
    return Recipe.model_validate({"tiles": tiles, "method": method, **sections})


# Losses


@pytest.mark.parametrize("shape", [(1, 2, 2), (1, 2, 2, 1)])
def test_cross_entropy_is_the_mean_over_voxels_of_what_the_true_class_misses(shape):
    # Four voxels of three classes, logits chosen so that the softmax is known.
    probability = torch.tensor([[0.5, 0.7, 0.1, 0.2], [0.3, 0.2, 0.6, 0.2], [0.2, 0.1, 0.3, 0.6]])
    logits = (probability.log() + 3).reshape(1, 3, *shape[1:])
    label = torch.tensor([0, 1, 1, 2]).reshape(shape)
    expected = -(math.log(0.5) + math.log(0.2) + math.log(0.6) + math.log(0.6)) / 4
    assert cross_entropy(logits, label).item() == pytest.approx(expected, rel=1e-6)
    assert cross_entropy(torch.zeros(1, 6, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8)).item() == pytest.approx(
        math.log(6)
    )


def test_terms_are_those_of_the_paper_with_its_weights():
    method, data = build(pool=0).eval(), unpaired()
    terms, made = one_turn_each(method, data)
    net, x, y = method.networks, data["anatomy"], data["tumour"]
    of_x, of_y = data["label"], data["tumour_label"]
    fake_y, fake_x = net["generator"](x), net["inverse"](y)
    cycled_x, cycled_y = net["inverse"](fake_y), net["generator"](fake_x)
    s_a, s_b = net["segmentor_anatomy"], net["segmentor_tumour"]
    d_a, d_b = net["discriminator_anatomy"], net["discriminator_tumour"]

    def entropy(logits, label):
        return functional.nll_loss(logits.log_softmax(1), label)

    expected = {
        GENERATORS: {
            "adversarial": least_squares(d_b(fake_y), 1) + least_squares(d_a(fake_x), 1),
            "cycle": 10 * (l1(cycled_x, x) + l1(cycled_y, y)),
            "shape": entropy(s_b(fake_y), of_x) + entropy(s_a(fake_x), of_y),
        },
        SEGMENTORS: {
            "anatomy_real": entropy(s_a(x), of_x),
            "anatomy_translated": entropy(s_a(fake_x), of_y),
            "anatomy_reconstructed": entropy(s_a(cycled_x), of_x),
            "tumour_real": entropy(s_b(y), of_y),
            "tumour_translated": entropy(s_b(fake_y), of_x),
            "tumour_reconstructed": entropy(s_b(cycled_y), of_y),
        },
        DISCRIMINATORS: {
            "anatomy": 0.5 * (least_squares(d_a(x), 1) + least_squares(d_a(fake_x), 0)),
            "tumour": 0.5 * (least_squares(d_b(y), 1) + least_squares(d_b(fake_y), 0)),
        },
    }
    assert list(terms) == list(expected)
    for player, values in expected.items():
        assert list(terms[player]) == list(values)
        for name, value in values.items():
            torch.testing.assert_close(terms[player][name], value, msg=lambda text, at=(player, name): f"{at}: {text}")
    images = {"tumour": fake_y, "anatomy": fake_x, "cycled_anatomy": cycled_x, "cycled_tumour": cycled_y}
    assert sorted(made) == sorted(images)
    for name, image in images.items():
        torch.testing.assert_close(made[name], image)
        assert not made[name].requires_grad


def test_weights_scale_their_own_terms_and_without_shape_consistency_no_segmentor_is_asked():
    data = unpaired()
    unit, _ = build(weights=CycleShapeLossWeights(1, 1, 1)).eval().losses(GENERATORS, data, {})
    scaled, _ = build(weights=CycleShapeLossWeights(2, 3, 5)).eval().losses(GENERATORS, data, {})
    for name, factor in {"adversarial": 2, "cycle": 3, "shape": 5}.items():
        torch.testing.assert_close(scaled[name], factor * unit[name])
    method, asked = build(weights=CycleShapeLossWeights(shape=0)), []
    for name, network in method.networks.items():
        network.register_forward_hook(lambda *_, name=name: asked.append(name))
    without_labels = {name: value for name, value in data.items() if "label" not in name}
    terms, _ = method.losses(GENERATORS, without_labels, {})
    assert sorted(terms) == ["adversarial", "cycle"]
    assert not any(name.startswith("segmentor") for name in asked)


def test_each_volume_is_made_and_judged_once_a_step():
    method, data, asked = build(), unpaired(), []
    for name, network in method.networks.items():
        network.register_forward_hook(lambda *_, name=name: asked.append(name))
    one_turn_each(method, data)
    expected = {
        "generator": 2,  # F(x) and F(G(y)), in the generators' turn alone
        "inverse": 2,
        "segmentor_anatomy": 1 + 3,  # for the shape; real, translated, reconstructed
        "segmentor_tumour": 1 + 3,
        "discriminator_anatomy": 1 + 1,  # for the generators; real and fake together
        "discriminator_tumour": 1 + 1,
    }
    assert {name: asked.count(name) for name in method.networks} == expected


# Labels


def test_pairs_have_one_label_for_both_modalities():
    method = build(pool=0).eval()
    pairs = {name: value for name, value in unpaired().items() if not name.startswith("tumour_")}
    as_if_unpaired = {**pairs, "tumour_label": pairs["label"]}
    for mine, theirs in zip(
        one_turn_each(method, pairs)[0].values(), one_turn_each(method, as_if_unpaired)[0].values(), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


@pytest.mark.parametrize(("missing", "modality"), [("tumour_label", "tumour"), ("label", "anatomy")])
@pytest.mark.parametrize("player", [GENERATORS, SEGMENTORS])
def test_a_modality_without_labels_is_told_and_never_given_those_of_the_other(missing, modality, player):
    data = {name: value for name, value in unpaired().items() if name != missing}
    with pytest.raises(UserError, match=rf"^data\.label: the volumes of data\.{modality} have no label"):
        build().losses(player, data, {})


# Players


def test_each_players_step_moves_its_own_parameters_alone():
    method, data, made = build(), unpaired(), {}
    adams = optimisers(method)
    for player in method.players():
        before = {name: parameter.clone() for name, parameter in method.named_parameters()}
        _, made = play(method, player, data, made, adams[player.name])
        moved = {name.split(".")[1] for name, p in method.named_parameters() if not torch.equal(p, before[name])}
        assert moved == set(player.networks)
    assert [player.name for player in method.players()] == [GENERATORS, SEGMENTORS, DISCRIMINATORS]
    assert {(player.learning_rate, player.betas) for player in method.players()} == {(2e-4, (0.5, 0.999))}


@pytest.mark.parametrize("options", [{}, {"channels": (2, 3)}, {"dimensions": 2}])
def test_every_parameter_has_a_gradient(options):
    data = unpaired(edges=EDGES[: options.get("dimensions", 3)])
    anatomy, tumour = options.get("channels", (1, 1))
    data |= {
        "anatomy": data["anatomy"].repeat_interleave(anatomy, 1),
        "tumour": data["tumour"].repeat_interleave(tumour, 1),
    }
    assert unreached(build(**options), data) == []


def test_the_shape_losss_gradient_reaches_the_generator_and_not_the_segmentor():
    method, data = build(), unpaired()
    for name, network in method.networks.items():
        network.requires_grad_(name in ("generator", "inverse"))  # as in the generators' turn
    method.losses(GENERATORS, data, {})[0]["shape"].backward()
    reached = {
        name
        for name, network in method.networks.items()
        if any(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())
    }
    assert reached == {"generator", "inverse"}
    # Of F(x) judged by S_B alone it is what the chain rule says, through every layer of the fixed segmentor.
    image = method.translate(data).requires_grad_(True)
    cross_entropy(method.networks["segmentor_tumour"](image), data["label"]).backward()
    method.zero_grad()
    again = method.networks["generator"](data["anatomy"])
    again.backward(image.grad)
    for mine, parameter in zip(
        [p.grad for p in method.networks["generator"].parameters()],
        shape_gradients(method, data, "generator"),
        strict=True,
    ):
        torch.testing.assert_close(mine, parameter)


def shape_gradients(method, data, network):
    method.zero_grad()
    method.losses(GENERATORS, data, {})[0]["shape"].backward()
    return [parameter.grad for parameter in method.networks[network].parameters()]


def test_segmentors_learn_from_detached_volumes_and_leave_the_generators_alone():
    method, data = build(), unpaired()
    _, made = method.losses(GENERATORS, data, {})
    terms, images = method.losses(SEGMENTORS, data, made)
    method.zero_grad(set_to_none=True)
    sum(terms.values()).backward()
    assert images == {}
    assert all(p.grad is None for name in ("generator", "inverse") for p in method.networks[name].parameters())


def test_segmentors_alone_have_real_volumes():
    """The first stage: no generator has moved, so nothing was made."""
    terms, _ = build().losses(SEGMENTORS, unpaired(), {})
    assert list(terms) == ["anatomy_real", "tumour_real"]


def test_discriminators_are_shown_pooled_fakes():
    method, data = build(pool=1).eval(), unpaired()
    _, made = one_turn_each(method, data)
    assert sorted(method.pools) == ["anatomy", "tumour"]
    for modality, pool in method.pools.items():
        assert torch.equal(pool.entries[0][0], made[modality][0])
    assert {pool.size for pool in build().pools.values()} == {50}


# Stages


def test_stages_are_those_of_the_paper():
    segmentors, translation, together, falling = CycleShape.stages(recipe())
    assert segmentors.players == (SEGMENTORS,)
    assert translation.players == (GENERATORS, DISCRIMINATORS)
    assert together.players == falling.players == (GENERATORS, SEGMENTORS, DISCRIMINATORS)
    assert [stage.epochs for stage in (segmentors, translation, together, falling)] == [100, 60, 50, 50]
    assert [stage.decay_from for stage in (segmentors, translation, together, falling)] == [1, 1, 1, 0]
    assert [stage.patience for stage in (segmentors, translation, together)] == [None] * 3
    assert falling.patience == (SEGMENTORS, 5)  # the sum of the terms that they minimise
    assert [stage.afresh for stage in (segmentors, translation, together, falling)] == [False, False, True, False]


@pytest.mark.parametrize("synthetic", ["offline", "none"])
def test_the_papers_baselines_differ_in_the_last_two_stages_alone(synthetic):
    online, own = CycleShape.stages(recipe()), CycleShape.stages(recipe({"synthetic": synthetic}))
    assert own[:2] == online[:2]
    for stage, other in zip(own[2:], online[2:], strict=True):
        assert stage.players == (SEGMENTORS,)
        assert (stage.name, stage.epochs, stage.decay_from, stage.patience) == (
            *(other.name, other.epochs, other.decay_from, other.patience),
        )


def test_offline_half_of_what_segmentors_learn_from_is_made_by_generators_that_stand_still():
    method, data = build(synthetic="offline").eval(), unpaired()
    stages = {stage.name: stage for stage in CycleShape.stages(recipe({"synthetic": "offline"}))}
    method.enter(stages["segmentors"])
    alone, _ = method.losses(SEGMENTORS, data, {})
    assert sorted(alone) == ["anatomy_real", "tumour_real"]
    method.enter(stages["together"])
    terms, _ = method.losses(SEGMENTORS, data, {})
    _, made = method.losses(GENERATORS, data, {})
    online, _ = build().eval().losses(SEGMENTORS, data, made)
    for name, value in online.items():
        torch.testing.assert_close(terms[name], value if name.endswith("real") else value / 2)
    sum(terms.values()).backward()
    assert all(p.grad is None for name in ("generator", "inverse") for p in method.networks[name].parameters())
    method = build(synthetic="none")
    method.enter(stages["together"])
    assert sorted(method.losses(SEGMENTORS, data, {})[0]) == ["anatomy_real", "tumour_real"]


def test_one_stage_of_all_has_no_finished_generators():
    for synthetic in ("offline", "none"):
        with pytest.raises(UserError, match=rf"^method\.synthetic: {synthetic} is of the last two stages"):
            CycleShape.check(recipe({"from_scratch": True, "synthetic": synthetic}))


def test_probabilities_of_both_kinds_of_segmentors_have_the_label_as_their_highest():
    method, data = build(), unpaired()
    scores = method.class_scores(data["tumour"], "tumour")
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(1, *EDGES))
    assert torch.equal(scores.argmax(dim=1), method.segment(data["tumour"], "tumour"))
    judge, image = Bright(3, width=1 / 16, edges=(16, 16), threshold=0.6), torch.rand(1, 1, 16, 16) * 2 - 1
    assert torch.equal(judge.class_scores(image).argmax(dim=1), judge.label_map(image))
    assert judge.label_map(image).unique().tolist() == [0, 1, 2]


def test_from_scratch_there_is_one_stage_as_long_as_the_recipe_says():
    (stage,) = CycleShape.stages(recipe({"from_scratch": True}))
    assert (stage.players, stage.epochs, stage.decay_from) == ((), None, None)


# Recipes


def test_recipe_reaches_the_method():
    settings = recipe(
        {"alpha1": 2, "alpha2": 5, "shape": 0.5, "pool": 3, "adversarial": "hinge"},
        data={"classes": 6, "anatomy": ["a", "b"]},
        training={"learning_rate": 1e-3},
    )
    method = build_method(settings)
    assert isinstance(method, CycleShape)
    assert method.weights == CycleShapeLossWeights(2, 5, 0.5)
    assert {pool.size for pool in method.pools.values()} == {3}
    assert {player.learning_rate for player in method.players()} == {1e-3}
    assert method.translate({"anatomy": torch.zeros(1, 2, 24, 24, 24)}).shape == (1, 1, 24, 24, 24)
    assert method.segment(torch.zeros(1, 2, 24, 24, 24), "anatomy").shape == (1, 24, 24, 24)
    assert "segmentor" not in CycleShape.needs(settings)
    assert (CycleShape.divisor(settings), CycleShape.dimensions) == (1, (2, 3))
    assert Recipe.model_validate({"method": {"name": "cycle_shape"}}).method.shape == 1


def test_slices_make_a_method_of_two_dimensions():
    method = build_method(recipe(tiles={"kind": "slice"}))
    assert method.translate({"anatomy": torch.zeros(1, 1, 30, 41)}).shape == (1, 1, 30, 41)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (recipe({"alpha1": 0}), r"^method\.alpha1: 0, but it is from the discriminators alone"),
        (
            recipe(tiles={"size": [40, 23, 40]}),
            r"^tiles\.size: tiles of 23 pixels do not fit cycle_shape, which needs at least 24; use 24 or more",
        ),
    ],
)
def test_what_cannot_train_is_told_before_any_work(settings, line):
    with pytest.raises(UserError, match=line):
        check_method(settings, settings.tiles.shape)


def test_the_least_edge_is_the_least_that_discriminators_can_judge():
    smallest = recipe(tiles={"size": [24]})
    check_method(smallest, smallest.tiles.shape)
    discriminator = build().networks["discriminator_tumour"]
    assert discriminator(torch.randn(1, 1, 24, 24, 24)).numel() == 1
    with pytest.raises((ValueError, RuntimeError)):
        discriminator(torch.randn(1, 1, 23, 23, 23))


# Use


def test_both_directions_and_both_segmentors_are_there_to_be_used():
    method, data = build().eval(), unpaired()
    net, generated = method.networks, method.translate(data)
    assert torch.equal(generated, net["generator"](data["anatomy"]))
    assert torch.equal(method.translate_back(data), net["inverse"](data["tumour"]))
    assert torch.equal(method.cycle(data, generated), net["inverse"](generated))
    for modality in ("anatomy", "tumour"):
        found = method.segment(data[modality], modality)
        assert found.dtype == torch.int64
        assert torch.equal(found, net[f"segmentor_{modality}"](data[modality]).argmax(1))
    assert set(method.inference) == {"generator", "inverse", "segmentor_anatomy", "segmentor_tumour"}


def test_pictures_show_what_is_found_in_the_generated_volume_and_the_real_one_where_there_is_one():
    method, data = build().eval(), unpaired()
    pictures = method.pictures(data)
    assert list(pictures) == ["anatomy", "label", "generated", "segmented", "cycled", "real"]
    found = method.segment(pictures["generated"], "tumour")
    torch.testing.assert_close(pictures["segmented"], found.unsqueeze(1).float() - 1)
    alone = {name: data[name] for name in ("anatomy", "label")}
    assert list(method.pictures(alone)) == ["anatomy", "label", "generated", "segmented", "cycled"]


def test_the_papers_crop_goes_through_all_networks():
    """86 is no multiple of 8."""
    method = CycleShape(classes=6, width=1 / 16).eval()
    data = {"anatomy": torch.zeros(1, 1, 86, 112, 112)}
    generated = method.translate(data)
    assert generated.shape == method.cycle(data, generated).shape == (1, 1, 86, 112, 112)
    assert method.segment(generated, "tumour").shape == (1, 86, 112, 112)
    with torch.no_grad():
        assert method.networks["discriminator_tumour"](generated).shape == (1, 1, 8, 12, 12)


# That it learns


def two_modalities(seed, steps, n=4, edge=32):
    """Batches of bright disks on dark ground and of dark, larger ones on bright ground, of other places, with noise."""
    y, x = torch.meshgrid(torch.arange(float(edge)), torch.arange(float(edge)), indexing="ij")
    random = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        data = {"tumour_tile": torch.arange(n)}
        for image, label, inside, outside, least in (
            ("anatomy", "label", 0.8, -0.8, 5),
            ("tumour", "tumour_label", -0.5, 0.5, 8),
        ):
            at = 10 + 12 * torch.rand(n, 2, 1, 1, generator=random)
            radius = least + 3 * torch.rand(n, 1, 1, generator=random)
            disk = (y - at[:, 0]) ** 2 + (x - at[:, 1]) ** 2 < radius**2
            noise = 0.1 * torch.randn(n, edge, edge, generator=random)
            data[image] = (torch.where(disk, inside, outside) + noise).clamp(-1, 1).unsqueeze(1)
            data[label] = disk.long()
        yield data


@cache
def with_segmentors(seed=0, steps=100):
    """A method after its first stage."""
    torch.manual_seed(seed)
    # A narrow network has little to move in a few steps of the paper's 2e-4.
    method = CycleShape(width=1 / 4, dimensions=2, learning_rate=2e-3)
    adam = optimisers(method)[SEGMENTORS]
    segmentors = next(player for player in method.players() if player.name == SEGMENTORS)
    for data in two_modalities(seed + 1, steps):
        play(method, segmentors, data, {}, adam)
    return method


def shape_losses(shape, seed=0, steps=20):
    """What the fixed segmentors miss in the volumes of each step of the second stage, by its weight."""
    method = copy.deepcopy(with_segmentors(seed))
    method.weights = CycleShapeLossWeights(shape=shape)
    adams, losses = optimisers(method), []
    generators, _, discriminators = method.players()
    for data in two_modalities(seed + 3, steps):
        _, made = play(method, generators, data, {}, adams[GENERATORS])
        play(method, discriminators, data, made, adams[DISCRIMINATORS])
        with torch.no_grad():
            missed = [
                cross_entropy(method.networks[f"segmentor_{modality}"](made[modality]), data[label])
                for modality, label in (("tumour", "label"), ("anatomy", "tumour_label"))
            ]
        losses.append(sum(missed).item())
    return losses


def test_segmentors_learn_to_find_disks_in_volumes_that_they_have_not_seen():
    method = with_segmentors()
    (unseen,) = two_modalities(2, 1)
    for modality, label in (("anatomy", "label"), ("tumour", "tumour_label")):
        assert dice(method.segment(unseen[modality], modality) == 1, unseen[label] == 1) > 0.85


def test_shape_consistency_makes_the_generators_keep_what_the_segmentors_look_for():
    # Ten times the paper's weight, for the difference to show in 20 steps whatever the first weights are.
    kept, free = shape_losses(10.0), shape_losses(0.0)
    assert sum(kept[10:]) < 0.7 * sum(free[10:])
