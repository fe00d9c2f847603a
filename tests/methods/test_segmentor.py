"""The segmentor sees each image on its own scale, at any size, and trains one versus rest."""

import math

import pytest
import torch
from turns import batch, dice, optimisers, play_all

from metgan_dist.methods.losses import cross_entropy_and_dice
from metgan_dist.methods.segmentor import (
    Segmentor,
    SegmentorNetwork,
    judge_recipe,
    normalise_by_local_maximum,
    one_versus_rest,
    segmentor_recipe,
)
from metgan_dist.networks.unet_stroke import UNetStroke
from metgan_dist.recipe import Recipe


def network(classes=2, width=1 / 16):
    torch.manual_seed(0)
    return SegmentorNetwork(classes, width=width)


def test_network_is_the_authors_unet():
    with torch.device("meta"):
        assert sum(p.numel() for p in SegmentorNetwork().parameters()) == 35_371_441


def test_each_image_is_divided_by_its_own_maximum():
    images = torch.tensor([[-1.0, 0.0], [-0.5, 0.6]]).reshape(2, 1, 1, 2)
    # (y + 1) / 2: 0, 0.5 and 0.25, 0.8
    expected = torch.tensor([[0.0, 1.0], [0.3125, 1.0]]).reshape(2, 1, 1, 2)
    torch.testing.assert_close(normalise_by_local_maximum(images), expected)


@pytest.mark.parametrize(("value", "expected"), [(-1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (-1.2, -100.0)])
def test_constant_image_stays_finite(value, expected):
    image = torch.full((1, 1, 64, 64), value, requires_grad=True)
    normalised = normalise_by_local_maximum(image)
    torch.testing.assert_close(normalised, torch.full_like(normalised, expected))
    normalised.sum().backward()
    assert image.grad.isfinite().all()
    assert network().eval()(image.detach()).isfinite().all()


def test_result_does_not_depend_on_the_rest_of_the_batch():
    segmentor = network().eval()
    data = batch()["tumour"]
    bright = torch.cat([data[:1] * 0.1 - 0.8, data[1:]])
    torch.testing.assert_close(segmentor(bright)[:1], segmentor(bright[:1]))


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 128, 192)])
def test_any_batch_and_size_is_segmented(shape):
    logits = network().eval()(torch.randn(shape[0], 1, *shape[1:]).clamp(-1, 1))
    assert logits.shape == (shape[0], 1, *shape[1:])


def test_targets_are_one_versus_rest_without_background():
    label = torch.tensor([[[0, 1], [2, 2]]])
    expected = torch.tensor([[[[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]]]])
    assert torch.equal(one_versus_rest(label, 3, torch.float32), expected)


def test_label_map_takes_the_likeliest_class_above_one_half():
    segmentor = network(3)
    logits = torch.tensor([[-1.0, 0.0, 2.0, 1.0], [-2.0, -1.0, 1.0, 3.0]]).reshape(1, 2, 1, 4)
    segmentor.forward = lambda image: logits
    labels = segmentor.label_map(torch.zeros(1, 1, 1, 4))
    assert labels.dtype == torch.int64
    assert labels.tolist() == [[[0, 0, 1, 2]]]


def test_loss_weighs_tumour_2_and_background_one_half():
    method = Segmentor(network())
    method.networks["segmentor"].forward = lambda image: torch.zeros(1, 1, 2, 2)
    label = torch.tensor([[[1, 0], [0, 0]]])
    terms, made = method.losses("segmentor", {"tumour": torch.zeros(1, 1, 2, 2), "label": label}, {})
    assert terms["segmentation"].item() == pytest.approx((2 + 3 * 0.5) / 4 * math.log(2))
    assert made == {}


def test_player_is_adam_as_the_authors_trained():
    (player,) = Segmentor(network()).players()
    assert (player.networks, player.learning_rate, player.betas) == (("segmentor",), 1e-4, (0.9, 0.999))
    assert Segmentor.criterion(Recipe()) == ("dice", "max")


def test_pictures_are_named_in_order():
    pictures = Segmentor(network(3)).eval().pictures(batch(classes=3))
    assert list(pictures) == ["tumour", "label", "predicted"]


def test_threshold_and_weights_are_those_of_the_recipe():
    recipe = Recipe.model_validate(
        {
            "method": {
                "name": "segmentor",
                "segmentor_width": 1 / 16,
                "segmentor_threshold": 0.9,
                "segmentor_positive": 8,
                "segmentor_negative": 3,
            }
        }
    )
    method = Segmentor.from_recipe(recipe)
    probabilities = torch.tensor([0.5, 0.89, 0.91, 0.99]).reshape(1, 1, 1, 4)
    method.networks["segmentor"].forward = lambda image: probabilities.logit()
    assert method.translate({"tumour": torch.zeros(1, 1, 1, 4)}).tolist() == [[[0, 0, 1, 1]]]
    method.networks["segmentor"].forward = lambda image: torch.zeros(1, 1, 1, 2)
    terms, _ = method.losses("segmentor", {"tumour": torch.zeros(1, 1, 1, 2), "label": torch.tensor([[[1, 0]]])}, {})
    assert terms["segmentation"].item() == pytest.approx((8 + 3) / 2 * math.log(2))


def test_coarser_outputs_count_half_of_the_finer_ones():
    method = Segmentor(network())
    outputs = [torch.full((1, 1, 2, 2), value) for value in (0.0, 1.0, -2.0)]
    method.network.supervised = lambda image: outputs
    label = torch.tensor([[[1, 0], [0, 0]]])
    data = {"tumour": torch.zeros(1, 1, 2, 2), "label": label}
    (total,) = method.losses("segmentor", data, {})[0].values()
    each = []
    for logits in outputs:
        method.network.supervised = lambda image, logits=logits: [logits]
        each.append(method.losses("segmentor", data, {})[0]["segmentation"].item())
    assert total.item() == pytest.approx((each[0] + each[1] / 2 + each[2] / 4) / 1.75)


def segments(network, classes, seed, steps=60):
    """What is left of the loss after a training on two tiles with a square per class; Dice of the brightest class."""
    torch.manual_seed(seed)
    width = 1 / 16 if network == "dynunet" else 1 / 8
    method = Segmentor(SegmentorNetwork(classes, width=width, network=network, edges=(64, 64)), learning_rate=1e-2)
    label = torch.zeros(2, 64, 64, dtype=torch.int64)
    label[0, 8:28, 8:28] = label[1, 30:50, 40:60] = 1
    label[0, 36:56, 30:60] = label[1, 4:24, 4:34] = classes - 1
    data = {"label": label, "tumour": 1.2 / (classes - 1) * label.unsqueeze(1) - 0.8 + 0.1 * torch.rand(2, 1, 64, 64)}
    adams = optimisers(method)
    losses = [play_all(method, data, adams)["segmentor"]["segmentation"].item() for _ in range(steps)]
    return losses[-1] / losses[0], dice(method.eval().translate(data) == classes - 1, label == classes - 1)


@pytest.mark.parametrize(("network", "classes"), [("unet", 2), ("unet", 3), ("dynunet", 2)])
def test_learns_to_segment_squares(network, classes):
    loss, overlap = segments(network, classes, seed=0)
    assert loss < 0.6
    assert overlap > 0.7


def test_untrained_it_expects_little_foreground():
    for kind in ("unet", "resnet-34"):
        torch.manual_seed(0)
        segmentor = SegmentorNetwork(3, width=1 / 8, network=kind).eval()
        probabilities = segmentor.probabilities(torch.rand(1, 1, 64, 64))
        torch.testing.assert_close(probabilities, torch.full_like(probabilities, 0.01), atol=0.02, rtol=0)


# With torch's own last layer these starts end at a Dice of 0.00, 0.11 and 0.00: every weight of the last
# layer is negative, and nothing is brighter than the bias.
@pytest.mark.parametrize(
    ("kind", "seed", "steps"),
    [*(("unet", seed, 150) for seed in (0, 2)), ("resnet-34", 0, 60)],
)
def test_rare_lesions_are_found_from_any_start(kind, seed, steps):
    torch.manual_seed(seed)
    method = Segmentor(SegmentorNetwork(width=1 / 8, network=kind, edges=(64, 64)), learning_rate=3e-3)
    draws = torch.Generator().manual_seed(5)
    label = torch.zeros(4, 64, 64, dtype=torch.int64)
    for number in (0, 0, 1, 1, 2, 2, 3, 3):
        y, x = torch.randint(6, 58, (2,), generator=draws).tolist()
        label[number, y - 3 : y + 3, x - 3 : x + 3] = 1
    tumour = label.unsqueeze(1) - 0.6 + 0.2 * torch.rand(4, 1, 64, 64, generator=draws)
    adams = optimisers(method)
    for _ in range(steps):
        play_all(method, {"label": label, "tumour": tumour}, adams)
    assert dice(method.eval().translate({"tumour": tumour}), label) > 0.8


# Paper 4's


def stroke(classes=2, edges=(16, 32, 32), width=1 / 4, **options):
    torch.manual_seed(0)
    return SegmentorNetwork(classes, width=width, network="unet-stroke", edges=edges, **options)


def test_the_stroke_unet_has_an_output_for_each_class_and_its_papers_count():
    with torch.device("meta"):
        segmentor = SegmentorNetwork(network="unet-stroke", edges=(32, 128, 128))
    assert sum(p.numel() for p in segmentor.parameters()) == 5_646_242
    assert segmentor.divisor == 16


@pytest.mark.parametrize("classes", [2, 4])
def test_what_the_stroke_unet_finds_is_what_its_softmax_says(classes):
    segmentor, image = stroke(classes).eval(), torch.rand(2, 1, 16, 32, 32) * 2 - 1
    torch.nn.init.normal_(segmentor.unet.output.weight)
    torch.nn.init.zeros_(segmentor.unet.output.bias)
    scores = segmentor.unet(normalise_by_local_maximum(image))
    assert segmentor(image).shape == (2, classes - 1, 16, 32, 32)
    assert torch.equal(segmentor.label_map(image), scores.argmax(dim=1))
    assert 0 < (segmentor.label_map(image) > 0).float().mean() < 1
    assert torch.equal(segmentor.class_scores(image).argmax(dim=1), scores.argmax(dim=1))
    if classes == 2:
        torch.testing.assert_close(segmentor.probabilities(image)[:, 0], scores.softmax(dim=1)[:, 1])


@pytest.mark.parametrize("kind", ["unet-stroke", "unet", "dynunet"])
def test_cross_entropy_and_dice_is_a_choice_for_every_network(kind):
    torch.manual_seed(0)
    segmentor = SegmentorNetwork(3, width=1 / 16, network=kind, edges=(64, 64))
    method, data = Segmentor(segmentor, loss="ce-dice").eval(), batch(classes=3)
    (term,) = method.losses("segmentor", data, {})[0].values()
    logits = segmentor(data["tumour"])
    shared = torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)
    torch.testing.assert_close(term, cross_entropy_and_dice(shared, data["label"]))
    if kind == "unet-stroke":
        own = segmentor.unet(normalise_by_local_maximum(data["tumour"]))
        torch.testing.assert_close(term, cross_entropy_and_dice(own, data["label"]))


def test_loss_and_network_are_those_of_the_recipe_and_serve_the_judge_too():
    recipe = Recipe.model_validate(
        {
            "method": {"segmentor_network": "unet-stroke", "segmentor_loss": "ce-dice", "segmentor_width": 1 / 8},
            "tiles": {"kind": "crop", "size": [16, 32, 32]},
        }
    )
    method = Segmentor.from_recipe(segmentor_recipe(recipe))
    assert method.loss == judge_recipe(recipe).method.segmentor_loss == "ce-dice"
    assert isinstance(method.network.unet, UNetStroke)
    assert judge_recipe(recipe).method.segmentor_network == "dynunet"
    assert Segmentor.divisor(segmentor_recipe(recipe)) == 16
    assert Segmentor.fewest_values(segmentor_recipe(recipe), (16, 32, 32)) == 2 * 4 * 4


def test_untrained_the_stroke_unet_expects_little_and_learns_rare_lesions_of_volumes():
    draws = torch.Generator().manual_seed(5)
    label = torch.zeros(4, 16, 32, 32, dtype=torch.int64)
    for number in (0, 1, 2, 3):
        z, y, x = (int(torch.randint(3, edge - 3, (), generator=draws)) for edge in (16, 32, 32))
        label[number, z - 2 : z + 2, y - 3 : y + 3, x - 3 : x + 3] = 1
    tumour = label.unsqueeze(1) - 0.6 + 0.2 * torch.rand(4, 1, 16, 32, 32, generator=draws)
    method = Segmentor(stroke(), learning_rate=3e-3, loss="ce-dice")
    untrained = method.eval().network.probabilities(tumour)
    torch.testing.assert_close(untrained, torch.full_like(untrained, 0.01), atol=0.02, rtol=0)
    adams = optimisers(method.train())
    for _ in range(40):
        play_all(method, {"label": label, "tumour": tumour}, adams)
    assert dice(method.eval().translate({"tumour": tumour}), label) > 0.8


def test_dynunet_is_built_again_for_its_tiles():
    recipe = Recipe.model_validate(
        {
            "method": {"name": "segmentor", "segmentor_width": 1 / 16, "segmentor_network": "dynunet"},
            "tiles": {"size": [32]},
        }
    )
    method, again = Segmentor.from_recipe(recipe), Segmentor.from_recipe(recipe)
    again.networks.load_state_dict(method.networks.state_dict())
    data = batch(edges=(32, 32))
    assert torch.equal(again.eval().translate(data), method.eval().translate(data))


@pytest.mark.parametrize(("frozen", "judge"), [("unet", "dynunet"), ("resnet-34", "dynunet"), ("dynunet", "unet")])
def test_the_judge_is_of_another_family_than_the_frozen_segmentor(frozen, judge):
    recipe = Recipe.model_validate({"method": {"segmentor_network": frozen, "segmentor_width": 0.25}})
    own, theirs = judge_recipe(recipe), segmentor_recipe(recipe)
    assert (own.method.segmentor_network, theirs.method.segmentor_network) == (judge, frozen)
    assert own.training.seed != theirs.training.seed
    assert own.method.segmentor_width == theirs.method.segmentor_width
