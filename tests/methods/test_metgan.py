"""MetGAN's step: the paper's terms and their weights, pooled fakes, the segmentor's gradient."""

import pytest
import torch
from torch import nn
from turns import batch, optimisers, play_all, unreached

from metgan_dist.errors import UserError
from metgan_dist.methods.losses import l1, weighted_cross_entropy
from metgan_dist.methods.metgan import LossWeights, MetGAN
from metgan_dist.methods.segmentor import SegmentorNetwork, one_versus_rest
from metgan_dist.networks.label_path import LabelPath


def build(classes=2, width=1 / 16, **options):
    torch.manual_seed(0)
    options.setdefault("segmentor", SegmentorNetwork(classes, width=1 / 16))
    return MetGAN(classes=classes, width=width, **options)


def test_generators_come_first_then_discriminators():
    first, second = build().players()
    assert (first.name, first.networks) == ("generators", ("generator", "inverse"))
    assert (second.name, second.networks) == ("discriminators", ("discriminator_tumour", "discriminator_anatomy"))
    assert {(p.learning_rate, p.betas) for p in (first, second)} == {(2e-4, (0.5, 0.999))}


def test_every_parameter_has_a_gradient_also_where_the_full_resolution_is_merged():
    assert unreached(build(merge_full_resolution=True), batch()) == []


def test_images_are_made_by_their_own_statistics_on_request():
    """Of one and of a batch alike; the running ones, which no step has been normalised by, give something else."""
    method, data = build(statistics="image").double().eval(), batch()
    data = {name: value.double() if value.is_floating_point() else value for name, value in data.items()}
    two = {name: torch.cat([value, value.flip(-1)]) for name, value in data.items()}
    own, cycled = method.translate(data), method.cycle(data, data["tumour"])
    count = len(own)
    assert torch.allclose(method.translate(two)[:count], own, atol=1e-9)
    assert torch.allclose(method.cycle(two, two["tumour"])[:count], cycled, atol=1e-9)
    method.statistics = "running"
    assert not torch.allclose(method.translate(data), own, atol=1e-2)
    assert not torch.allclose(method.cycle(data, data["tumour"]), cycled, atol=1e-2)


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


def test_pictures_show_the_five_columns():
    method, data = build().eval(), batch()
    pictures = method.pictures(data)
    assert list(pictures) == ["anatomy", "label", "generated", "real", "cycled"]
    assert torch.equal(pictures["generated"], method.translate(data))
    inverse = method.networks["inverse"]
    cycled = inverse(pictures["generated"], inverse.encode_label(data["label"]))
    torch.testing.assert_close(pictures["cycled"], cycled)


class Bright(nn.Module):
    """Finds what is brighter than 0.1, as the tumours of `overfits` are and nothing else in its tiles."""

    def forward(self, image):
        return 10 * (image - 0.1)


def overfits(seed, steps=25):
    """What is left of the terms pair, cycle and segmentation after a training on two tiles."""
    torch.manual_seed(seed)
    grid = torch.linspace(-3, 3, 64)
    anatomy = torch.stack([torch.sin(grid[:, None] * k) * torch.cos(grid * k) for k in (1, 2)]).unsqueeze(1)
    label = torch.zeros(2, 64, 64, dtype=torch.int64)
    label[0, 10:30, 10:30] = label[1, 35:55, 25:50] = 1
    data = {"anatomy": anatomy, "label": label, "tumour": 0.4 * anatomy.neg() - 0.3 + 0.8 * label.unsqueeze(1)}
    method = MetGAN(width=1 / 16, segmentor=Bright())
    adams = optimisers(method)
    # A narrow network has little to move in a few steps of the paper's 2e-4; its discriminators shall not outrun it.
    adams["generators"].param_groups[0]["lr"] = 2e-2
    adams["discriminators"].param_groups[0]["lr"] = 1e-3
    history = [play_all(method, data, adams)["generators"] for _ in range(steps)]
    return [
        (sum(terms[name] for terms in history[-5:]) / 5 / history[0][name]).item()
        for name in ("pair", "cycle", "segmentation")
    ]


def test_overfits_two_tiles_under_all_four_terms():
    pair, cycle, segmentation = overfits(seed=0)
    assert pair < 0.8
    assert cycle < 0.85
    assert segmentation < 0.4
