"""RedGAN: the segmentor inside the discriminator's input, the global class, what the gradient passes."""

import pytest
import torch
from torch import nn
from turns import dice, optimisers, play_all, unreached

from metgan_dist.errors import UserError
from metgan_dist.methods.adversarial_features import feature_matching
from metgan_dist.methods.label_to_image import FeatureWeights
from metgan_dist.methods.redgan import RedGan
from metgan_dist.methods.segmentor import SegmentorNetwork
from metgan_dist.networks.redgan_generator import RedGanGenerator
from metgan_dist.networks.resnet_unet import ResNetUNet
from metgan_dist.recipe import Recipe


class Finder(nn.Module):
    """A small segmentor with a BatchNorm that would drift."""

    def __init__(self, channels=1, classes=2):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, classes - 1, 1)
        )

    def forward(self, image):
        return 3 * self.layers(image)


def build(channels=1, classes=2, global_classes=3, edges=(64, 64), width=1 / 32, segmentor="finder", **options):
    torch.manual_seed(0)
    if segmentor == "finder":
        segmentor = Finder(channels, classes)
    return RedGan(
        channels=channels,
        classes=classes,
        global_classes=global_classes,
        edges=edges,
        width=width,
        segmentor=segmentor,
        **options,
    )


def batch(n=2, channels=1, classes=2, edges=(64, 64)):
    torch.manual_seed(1)
    return {
        "anatomy": torch.rand(n, channels, *edges) * 2 - 1,
        "tumour": torch.rand(n, channels, *edges) * 2 - 1,
        "label": torch.randint(0, classes, (n, *edges)),
        "organ": torch.arange(n) % 3,
    }


def test_third_player_is_no_player():
    method = build()
    generator, discriminator = method.players()
    assert (generator.networks, discriminator.networks) == (("generator",), ("discriminator",))
    assert (generator.learning_rate, discriminator.learning_rate) == (1e-4, 4e-4)
    assert generator.betas == discriminator.betas == (0.0, 0.9)
    assert (method.frozen, method.unsaved) == (("segmentor",), ())


def test_every_parameter_has_a_gradient_also_where_the_global_class_is_known():
    assert unreached(build(), batch()) == []


def test_discriminator_sees_image_and_segmentors_map_of_real_and_fake_beside_the_label():
    method, data = build(classes=3).eval(), batch(classes=3)
    terms, made = method.losses("generator", data, {})
    segmentor, discriminator = method.networks["segmentor"], method.networks["discriminator"]
    label = nn.functional.one_hot(data["label"], 3).movedim(-1, 1).float()

    def judged(image):
        return discriminator(torch.cat([image, segmentor(image).sigmoid()], dim=1), label)

    fake = method.networks["generator"](data["label"], data["organ"])
    on_fake, on_real = judged(fake), judged(data["tumour"])
    expected = {
        "adversarial": -(on_fake[0][-1].mean() + on_fake[1][-1].mean()) / 2,
        "feature_matching": 10 * feature_matching(on_fake, on_real),
    }
    assert list(terms) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-4, atol=1e-6)
    assert torch.equal(made["tumour"], fake)
    terms, _ = method.losses("discriminator", data, made)
    hinge = [(1 - r[-1]).relu().mean() + (1 + f[-1]).relu().mean() for r, f in zip(on_real, on_fake, strict=True)]
    torch.testing.assert_close(terms["adversarial"], sum(hinge) / 2, rtol=1e-4, atol=1e-6)


def test_discriminator_has_three_layers_of_stride_2_on_two_scales():
    discriminator = build().networks["discriminator"]
    features = discriminator(torch.zeros(1, 2, 64, 64), torch.zeros(1, 2, 64, 64))
    assert [[feature.shape[-1] for feature in scale] for scale in features] == [[33, 17, 9, 10], [17, 9, 5, 6]]


def generator_gradients(method, data):
    method.zero_grad()
    terms, _ = method.losses("generator", data, {})
    sum(terms.values()).backward()
    gradients = [p.grad.clone() for p in method.networks["generator"].parameters()]
    return torch.stack([term.detach() for term in terms.values()]), gradients


def test_gradient_reaches_the_generator_through_the_segmentor_and_through_the_image():
    """Both ways on, one cut, the other cut: the losses are the same and the two gradients add up to the whole."""
    method, data = build().double().eval(), batch()
    data = {name: value.double() if value.is_floating_point() else value for name, value in data.items()}
    losses, whole = generator_gradients(method, data)

    shown, segmentor = method.shown, method.networks["segmentor"]

    def without_map(image, batch):
        return torch.cat([image, segmentor(image).sigmoid().detach()], dim=1)

    def without_image(image, batch):
        return torch.cat([image.detach(), shown(image, batch)[:, 1:]], dim=1)

    parts = []
    for cut in (without_map, without_image):
        method.shown = cut
        same, gradients = generator_gradients(method, data)
        torch.testing.assert_close(same, losses)
        parts.append(gradients)
    for both, through_image, through_map in zip(whole, *parts, strict=True):
        torch.testing.assert_close(both, through_image + through_map, rtol=1e-6, atol=1e-12)
    sizes = [max(gradient.abs().max() for gradient in gradients) for gradients in (whole, *parts)]
    assert min(sizes) > 1e-3 * max(sizes) > 0


def test_global_class_tells_images_of_one_label_apart():
    method, data = build().eval(), batch()
    for module in method.networks["generator"].modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and not hasattr(module, "parametrizations"):
            nn.init.xavier_normal_(module.weight)
    label = data["label"][:1].expand(3, -1, -1)
    first, second, third = method.translate({"label": label, "organ": torch.arange(3)})
    assert not torch.allclose(first, second, atol=1e-3)
    assert not torch.allclose(second, third, atol=1e-3)
    image = method.translate(data)
    assert torch.equal(image, method.translate(data))
    assert image.abs().max() <= 1
    assert not image.requires_grad


def test_organs_that_do_not_fit_are_refused_with_the_field_and_one_class_needs_none():
    data = batch()
    for organ in (3, -1):
        data["organ"] = torch.tensor([0, organ])
        with pytest.raises(UserError, match=r"^method\.global_classes: organs .* do not fit 3 classes"):
            build().translate(data)
    assert build(global_classes=1).translate(data).shape == (2, 1, 64, 64)
    del data["organ"]
    with pytest.raises(UserError, match=r"^method\.global_classes: 3 classes, but the tiles name no organ"):
        build().translate(data)
    assert build(global_classes=1).translate(data).shape == (2, 1, 64, 64)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("edges", [(64, 64), (96, 32)])
def test_any_channels_classes_and_sizes_that_are_multiples_of_32(channels, classes, edges):
    method = build(channels, classes, edges=edges, width=1 / 64)
    data, made = batch(1, channels, classes, edges), {}
    for player in method.players():
        terms, images = method.losses(player.name, data, made)
        made |= images
        assert all(term.isfinite() for term in terms.values())
    assert made["tumour"].shape == data["tumour"].shape
    with pytest.raises(ValueError, match="labels of 32 times"):
        method.translate(batch(1, classes=classes, edges=(32, 32)))


def test_resnet34_unet_is_its_segmentor_behind_the_local_maximum():
    torch.manual_seed(0)
    segmentor = SegmentorNetwork(3, width=1 / 16, network="resnet-34")
    assert isinstance(segmentor.unet, ResNetUNet)
    method, data = build(classes=3, segmentor=segmentor), batch(classes=3)
    terms, _ = method.losses("generator", data, {})
    assert all(term.isfinite() for term in terms.values())
    segmentor, image = segmentor.double(), data["tumour"].double()
    dim = image * 0.1 - 0.9
    bright = (dim + 1) / (dim + 1).amax((1, 2, 3), keepdim=True) * 2 - 1
    torch.testing.assert_close(segmentor(dim), segmentor(bright))
    assert segmentor.label_map(image).shape == (2, 64, 64)


def test_pictures_are_named_in_order():
    assert list(build().eval().pictures(batch())) == ["anatomy", "label", "generated", "real"]


def test_recipe_gives_the_method_and_its_publications_defaults():
    recipe = Recipe.model_validate(
        {
            "data": {"classes": 3},
            "tiles": {"size": [64]},
            "method": {"name": "redgan", "width": 1 / 32, "global_classes": 4},
            "training": {"learning_rate": 1e-3},
        }
    )
    method = RedGan.from_recipe(recipe, Finder(1, 3))
    assert (method.classes, method.global_classes, method.learning_rate) == (3, 4, 1e-3)
    assert method.weights == FeatureWeights(10.0, 0.0)
    assert "segmentor" in RedGan.needs(recipe)
    assert "vgg19" not in RedGan.needs(recipe)
    assert RedGan.criterion(recipe) == ("label_fidelity", "max")
    assert method.eval().translate(batch(classes=3)).shape == (2, 1, 64, 64)


def test_parameters_at_paper_size_are_those_counted_by_hand():
    def spade_norm(channels):
        return 9 * 2 * 128 + 128 + 2 * (9 * 128 * channels + channels)

    total, incoming = 0, 2048
    for outgoing in (1024, 1024, 1024, 512, 256, 128, 64):
        middle = min(incoming, outgoing)
        total += spade_norm(incoming) + spade_norm(middle)
        total += 9 * incoming * middle + middle + 9 * middle * outgoing + outgoing
        if incoming != outgoing:
            total += spade_norm(incoming) + incoming * outgoing
        incoming = outgoing
    total += 9 * 64 + 1
    of_label = 9 * 2 * 1024 + 1024
    of_class = 6 * 1024 + 1024 * (1024 * 8 * 8) + 1024 * 8 * 8
    with torch.device("meta"):
        counted = sum(p.numel() for p in RedGanGenerator(global_classes=6).parameters())
    assert counted == total + of_label + of_class


class Bright(nn.Module):
    """Finds what is brighter than the middle grey."""

    def forward(self, image):
        return 6 * image


def places(seed, steps=40):
    """Dice of what the segmentor finds in images against their labels, and against other images' labels."""
    torch.manual_seed(seed)
    label = torch.zeros(4, 32, 32, dtype=torch.int64)
    for n, (row, column) in enumerate(((2, 2), (2, 16), (16, 2), (14, 14))):
        label[n, row : row + 14, column : column + 14] = 1
    tumour = label.unsqueeze(1) * 1.4 - 0.7 + 0.1 * torch.randn(4, 1, 32, 32)
    data = {"anatomy": tumour, "tumour": tumour.clamp(-1, 1), "label": label}
    method = RedGan(edges=(32, 32), width=1 / 16, segmentor=Bright(), learning_rate=4e-3)
    adams, wanted, seen = optimisers(method), label.unsqueeze(1) == 1, []
    for step in range(1, steps + 1):
        play_all(method.train(), data, adams)
        if step % 10 == 0:
            found = method.networks["segmentor"](method.eval().translate(data)) > 0
            seen.append((dice(found, wanted), dice(found, wanted.roll(1, 0))))
    return max(seen)  # a GAN goes to and fro


def test_learns_to_place_what_its_segmentor_looks_for():
    """By its own two terms: the segmentor finds each image's label in it, and not its neighbour's."""
    own, others = places(seed=0)
    assert own > 0.6
    assert others < 0.3
