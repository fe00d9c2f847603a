"""MetGAN's step: the paper's terms, each player's own parameters, the frozen segmentor, labels that count."""

import copy
import math

import pytest
import torch
from turns import batch, optimisers, play

from metgan_dist.errors import UserError
from metgan_dist.methods.losses import l1, weighted_cross_entropy
from metgan_dist.methods.metgan import LossWeights, MetGAN
from metgan_dist.methods.segmentor import Segmentor, SegmentorNetwork, one_versus_rest
from metgan_dist.networks.label_path import LabelPath


def build(classes=2, width=1 / 16, **options):
    torch.manual_seed(0)
    options.setdefault("segmentor", SegmentorNetwork(classes, width=1 / 16))
    return MetGAN(classes=classes, width=width, **options)


def snapshot(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_generators_come_first_then_discriminators():
    first, second = build().players()
    assert (first.name, first.networks) == ("generators", ("generator", "inverse"))
    assert (second.name, second.networks) == ("discriminators", ("discriminator_tumour", "discriminator_anatomy"))
    assert {(p.learning_rate, p.betas) for p in (first, second)} == {(2e-4, (0.5, 0.999))}


def test_a_step_of_each_player_changes_its_own_parameters_and_no_others():
    method, data = build(), batch()
    players, adams = method.players(), optimisers(method)
    made = {}
    for player in players:
        before = {name: snapshot(network) for name, network in method.networks.items()}
        _, made = play(method, player, data, made, adams[player.name])
        for name, network in method.networks.items():
            parameters = dict(network.named_parameters())
            changed = {key for key in parameters if not torch.equal(parameters[key], before[name][key])}
            if name in player.networks:
                # A bias before a norm without mean has no influence, so only weights must move.
                assert {key for key in parameters if not key.endswith("bias")} <= changed
            else:
                assert not changed
            with_gradient = {key for key, parameter in parameters.items() if parameter.requires_grad}
            assert with_gradient == (set(parameters) if name in player.networks else set())


def test_every_parameter_of_a_player_has_a_gradient_or_ddp_hangs():
    for full in (False, True):
        method, data, made = build(merge_full_resolution=full), batch(), {}
        for player in method.players():
            method.zero_grad()
            terms, images = method.losses(player.name, data, made)
            sum(terms.values()).backward()
            missing = [k for n in player.networks for k, p in method.networks[n].named_parameters() if p.grad is None]
            assert missing == []
            made |= images


def test_segmentor_is_bit_identical_after_training_and_stays_in_eval_mode():
    method, data = build(), batch()
    before, adams = snapshot(method.networks["segmentor"]), optimisers(method)
    method.eval()
    method.train()
    assert not any(module.training for module in method.networks["segmentor"].modules())
    assert method.networks["generator"].training
    made = {}
    for _ in range(3):
        for player in method.players():
            _, made = play(method, player, data, made, adams[player.name])
    after = method.networks["segmentor"].state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert method.frozen == ("segmentor",)


def test_label_features_are_computed_once_per_direction_and_from_the_label_alone(monkeypatch):
    method, data = build(), batch()
    seen = []
    original = LabelPath.forward
    monkeypatch.setattr(LabelPath, "forward", lambda self, label: seen.append((self, label)) or original(self, label))
    method.losses("generators", data, {})
    paths = [method.networks[name].label_path for name in ("generator", "inverse")]
    assert [path for path, _ in seen] == paths
    assert all(label is data["label"] for _, label in seen)
    seen.clear()
    made = {"tumour": data["tumour"], "anatomy": data["anatomy"]}
    method.losses("discriminators", data, made)
    assert seen == []


def test_terms_are_those_of_the_paper_with_its_weights():
    weights = LossWeights(adversarial=2.0, cycle=3.0, segmentation=5.0, pair=7.0)
    method, data = build(weights=weights).eval(), batch()
    terms, made = method.losses("generators", data, {})
    f, g = method.networks["generator"], method.networks["inverse"]
    x, y, label = data["anatomy"], data["tumour"], data["label"]
    f_label, g_label = f.encode_label(label), g.encode_label(label)
    fake_y, fake_x = f(x, f_label), g(y, g_label)
    d_y, d_x = method.networks["discriminator_tumour"], method.networks["discriminator_anatomy"]
    segmentation = weighted_cross_entropy(
        method.networks["segmentor"](fake_y), (label == 1).unsqueeze(1).float(), positive=4, negative=1
    )
    expected = {
        "adversarial": 2 * (((d_y(fake_y) - 1) ** 2).mean() + ((d_x(fake_x) - 1) ** 2).mean()),
        "cycle": 3 * (l1(g(fake_y, g_label), x) + l1(f(fake_x, f_label), y)),
        "segmentation": 5 * segmentation,
        "pair": 7 * (l1(fake_y, y) + l1(fake_x, x)),
    }
    assert list(terms) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)
    assert torch.equal(made["tumour"], fake_y)
    assert torch.equal(made["anatomy"], fake_x)
    assert not made["tumour"].requires_grad


def test_discriminators_judge_their_own_domain_on_pooled_fakes():
    method, data = build(pool=1).eval(), batch(n=1)
    d_y, d_x = method.networks["discriminator_tumour"], method.networks["discriminator_anatomy"]
    old = {"tumour": torch.full((1, 1, 64, 64), -0.5), "anatomy": torch.full((1, 1, 64, 64), 0.5)}
    method.losses("discriminators", data, old)  # fills the pools
    fakes = {"tumour": data["tumour"] * 0.3, "anatomy": data["anatomy"] * 0.3}

    def expected(discriminator, real, fake):
        return (0.5 * (((discriminator(real) - 1) ** 2).mean() + (discriminator(fake) ** 2).mean())).item()

    from_pool = 0
    for _ in range(12):
        held = method.pools["tumour"].entries[0][0].unsqueeze(0)
        terms, made = method.losses("discriminators", data, fakes)
        options = [expected(d_y, data["tumour"], fake) for fake in (fakes["tumour"], held)]
        assert min(abs(terms["tumour"].item() - option) for option in options) < 1e-6
        assert set(terms) == {"tumour", "anatomy"}
        assert made == {}
        from_pool += method.pools["tumour"].entries[0][0].equal(fakes["tumour"][0])
    assert from_pool > 0
    fresh = build(pool=0).eval()
    terms, _ = fresh.losses("discriminators", data, fakes)
    d_x = fresh.networks["discriminator_anatomy"]
    assert terms["anatomy"].item() == pytest.approx(expected(d_x, data["anatomy"], fakes["anatomy"]))


@pytest.mark.parametrize(
    ("weights", "terms"),
    [
        (LossWeights(segmentation=0), ["adversarial", "cycle", "pair"]),
        (LossWeights(pair=0), ["adversarial", "cycle", "segmentation"]),
        (LossWeights(cycle=0), ["adversarial", "segmentation", "pair"]),
        (LossWeights(adversarial=0), ["cycle", "segmentation", "pair"]),
    ],
)
def test_a_term_of_weight_zero_is_not_computed(weights, terms):
    method, data = build(weights=weights), batch()
    calls = []
    for name, network in method.networks.items():
        network.register_forward_hook(lambda *_, name=name: calls.append(name))
    losses, _ = method.losses("generators", data, {})
    assert list(losses) == terms
    assert calls.count("generator") == (1 if not weights.cycle else 2)
    assert ("segmentor" in calls) == bool(weights.segmentation) == ("segmentor" in method.networks)
    assert ("discriminator_tumour" in calls) == bool(weights.adversarial) == (len(method.players()) == 2)


def test_impossible_weights_are_refused_with_the_field():
    with pytest.raises(UserError, match=r"^method\.segmentor: "):
        build(segmentor=None).losses("generators", batch(), {})
    with pytest.raises(UserError, match=r"^method\.alpha1: "):
        build(weights=LossWeights(0, 0, 100, 0))


@pytest.mark.parametrize("loss", ["wbce", "l1"])
def test_segmentation_gradient_reaches_the_generator_and_is_right(loss):
    method, data = build(segmentation_loss=loss, weights=LossWeights(1, 0, 100, 0)), batch(n=1)
    generator, segmentor = method.networks["generator"], method.networks["segmentor"].train()
    for module in method.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # plain mean: without fitting statistics the signal dies out on its way
    for _ in range(3):
        segmentor(method.translate(batch(n=4)))
    method.double().eval()
    data = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in data.items()}

    def term():
        return method.losses("generators", data, {})[0]["segmentation"]

    term().backward()
    step = 1e-9  # small: ReLU, max-pooling and the local maximum have kinks nearby
    for parameter in (generator.anatomy_path.output.weight, generator.label_path.first.weight):
        index = parameter.grad.abs().argmax()
        flat = parameter.data.view(-1)
        values = []
        for sign in (1, -1):
            flat[index] += sign * step
            values.append(term().item())
            flat[index] -= sign * step
        numeric = (values[0] - values[1]) / (2 * step)
        assert numeric == pytest.approx(parameter.grad.view(-1)[index].item(), rel=1e-3)
        assert abs(numeric) > 1e-3
    assert all(p.grad is None for p in method.networks["segmentor"].parameters())


def test_l1_segmentation_is_the_released_codes_form():
    method, data = build(segmentation_loss="l1").eval(), batch()
    terms, made = method.losses("generators", data, {})
    probability = method.networks["segmentor"](made["tumour"]).sigmoid()
    expected = 100 * (probability - one_versus_rest(data["label"], 2, torch.float32)).abs().mean()
    torch.testing.assert_close(terms["segmentation"], expected)


def test_constant_tile_gives_finite_losses_and_gradients():
    method = build()
    data = batch() | {name: torch.full((2, 1, 64, 64), -1.0) for name in ("anatomy", "tumour")}
    terms, _ = method.losses("generators", data, {})
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())
    assert all(p.grad.isfinite().all() for p in method.networks["generator"].parameters())


def test_three_classes_and_each_is_worth_its_own_channel():
    method, data = build(classes=3), batch(classes=3)
    assert method.networks["segmentor"](data["tumour"]).shape == (2, 2, 64, 64)
    for player in method.players():
        terms, made = method.losses(player.name, data, {"tumour": data["tumour"], "anatomy": data["anatomy"]})
        assert all(math.isfinite(term.item()) for term in terms.values())
        if player.name == "generators":
            assert made["tumour"].shape == (2, 1, 64, 64)


def test_translation_needs_anatomy_and_label_only_and_no_gradient():
    method, data = build().eval(), batch()
    image = method.translate({"anatomy": data["anatomy"], "label": data["label"]})
    assert image.shape == (2, 1, 64, 64)
    assert image.abs().max() <= 1
    assert not image.requires_grad
    assert method.inference == ("generator",)


def test_pictures_show_the_five_columns():
    method, data = build().eval(), batch()
    pictures = method.pictures(data)
    assert list(pictures) == ["anatomy", "label", "generated", "real", "cycled"]
    assert all(p.shape == (2, 1, 64, 64) and p.abs().max() <= 1 for p in pictures.values())
    assert torch.equal(pictures["generated"], method.translate(data))
    inverse = method.networks["inverse"]
    cycled = inverse(pictures["generated"], inverse.encode_label(data["label"]))
    torch.testing.assert_close(pictures["cycled"], cycled)


@pytest.mark.parametrize("form", ["least-squares", "log", "hinge"])
def test_bfloat16_losses_are_float32_and_near_full_precision(form):
    method, data = build(adversarial=form), batch()
    twin = copy.deepcopy(method)
    for player in method.players():
        made = {"tumour": data["tumour"] * 0.5, "anatomy": data["anatomy"] * 0.5}
        exact, _ = twin.losses(player.name, data, made)
        with torch.autocast("cpu", torch.bfloat16):
            terms, images = method.losses(player.name, data, made)
        for name, term in terms.items():
            assert term.dtype == torch.float32
            assert term.item() == pytest.approx(exact[name].item(), rel=0.05, abs=0.02)
        assert all(image.dtype == torch.float32 for image in images.values())


def learnable_tiles(edge=64):
    """Two smooth anatomies, and tumour images that follow from them and their labels."""
    grid = torch.linspace(-3, 3, edge)
    anatomy = torch.stack([torch.sin(grid[:, None] * k) * torch.cos(grid * k) for k in (1, 2)]).unsqueeze(1)
    label = torch.zeros(2, edge, edge, dtype=torch.int64)
    label[0, 10:30, 10:30] = label[1, 35:55, 25:50] = 1
    return {"anatomy": anatomy, "label": label, "tumour": 0.4 * anatomy.neg() - 0.3 + 0.8 * label.unsqueeze(1)}


def test_overfits_two_tiles_under_all_four_terms():
    torch.manual_seed(0)
    data, segmentor = learnable_tiles(), Segmentor(SegmentorNetwork(width=1 / 16))
    adam = torch.optim.Adam(segmentor.parameters(), lr=1e-2)
    for _ in range(120):
        play(segmentor, segmentor.players()[0], data, {}, adam)
    method = build(width=1 / 8, segmentor=segmentor.networks["segmentor"])
    adams, made, history = optimisers(method), {}, []
    for adam in adams.values():  # a narrow network has little to move in a few steps of the paper's 2e-4
        adam.param_groups[0]["lr"] = 1e-2
    for _ in range(110):  # half of it does on most machines; how a GAN gets there hangs on the last digit
        for player in method.players():
            terms, made = play(method, player, data, made, adams[player.name])
            if player.name == "generators":
                history.append({name: term.item() for name, term in terms.items()})
    last = {name: sum(terms[name] for terms in history[-5:]) / 5 for name in history[0]}
    assert last["pair"] < 0.65 * history[0]["pair"]
    assert last["cycle"] < 0.65 * history[0]["cycle"]
    assert last["segmentation"] < 0.8 * history[0]["segmentation"]
