"""VGG19's features against torchvision's own network, its weights' file, and how images reach it."""

import pytest
import torch
from torch import nn
from torchvision.models import VGG19_Weights
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.vgg import cfgs, make_layers
from torchvision.transforms.functional import normalize

from metgan_dist.errors import UserError
from metgan_dist.networks.vgg import IMAGENET_DEVIATION, IMAGENET_MEAN, Vgg19Features


@pytest.fixture(scope="module")
def layers():
    torch.manual_seed(0)
    return make_layers(cfgs["E"]).eval()


@pytest.fixture(scope="module")
def weights(layers, tmp_path_factory):
    """A state dict of the published file's names and shapes, but for a small classifier, which is not read."""
    path = tmp_path_factory.mktemp("weights") / "vgg19.pth"
    state = {f"features.{name}": value for name, value in layers.state_dict().items()}
    torch.save({**state, "classifier.0.weight": torch.zeros(2, 2)}, path)
    return path


@pytest.fixture(scope="module")
def vgg(weights):
    return Vgg19Features(weights)


def relus_before_pooling(layers):
    """Position of the first ReLU of each of the five blocks: relu1_1, relu2_1, ..."""
    positions, wanted = [], True
    for number, layer in enumerate(layers):
        if isinstance(layer, nn.ReLU) and wanted:
            positions.append(str(number))
            wanted = False
        wanted = wanted or isinstance(layer, nn.MaxPool2d)
    return positions


def test_features_are_torchvisions_relu_x_1_of_an_imagenet_normalised_image(vgg, layers):
    image = torch.rand(2, 1, 32, 48) * 2 - 1
    names = relus_before_pooling(layers)
    assert len(names) == 5
    reference = create_feature_extractor(layers, names)
    colours = normalize((image + 1).div(2).repeat(1, 3, 1, 1), IMAGENET_MEAN, IMAGENET_DEVIATION)
    found = vgg(image)
    assert [feature.shape[1] for feature in found] == [64, 128, 256, 512, 512]
    assert found[-1].shape[2:] == (2, 3)
    for feature, expected in zip(found, reference(colours).values(), strict=True):
        torch.testing.assert_close(feature, expected)


def test_normalisation_is_that_of_the_published_weights():
    transform = VGG19_Weights.IMAGENET1K_V1.transforms()
    assert tuple(transform.mean) == IMAGENET_MEAN
    assert tuple(transform.std) == IMAGENET_DEVIATION


def test_each_channel_is_a_grey_image_of_its_own(vgg):
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    joint = vgg(image)[1].unflatten(0, (2, 3))
    for channel in range(3):
        torch.testing.assert_close(joint[:, channel], vgg(image[:, channel : channel + 1])[1])


def test_weights_are_frozen_but_let_gradients_through_to_the_image(vgg):
    image = torch.zeros(1, 1, 32, 32, requires_grad=True)
    vgg(image)[-1].sum().backward()
    assert image.grad.abs().max() > 0
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in vgg.parameters())
    assert not vgg.training


def test_no_weights_beyond_relu5_1_are_kept(vgg):
    convolutions = [layer for layer in vgg.layers if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 13
    assert all(not parameter.is_meta for parameter in vgg.parameters())
    assert set(vgg.state_dict()) == {f"layers.{name}" for name in vgg.layers.state_dict()}


def test_a_file_that_is_not_a_vgg19_is_named(tmp_path, weights):
    text = tmp_path / "text.pth"
    text.write_text("not weights")
    with pytest.raises(UserError, match=r"text\.pth: not readable as weights .*vgg19-dcbb9e9d\.pth"):
        Vgg19Features(text)
    with pytest.raises(UserError, match=r"absent\.pth: not readable as weights \(FileNotFoundError\)"):
        Vgg19Features(tmp_path / "absent.pth")
    state = torch.load(weights, weights_only=True)
    state["features.28.weight"] = torch.zeros(1)
    other = tmp_path / "other.pth"
    torch.save({name: value for name, value in state.items() if name == "features.28.weight"}, other)
    with pytest.raises(UserError, match=r"other\.pth: no weight features\.0\.weight of shape \(64, 3, 3, 3\)"):
        Vgg19Features(other)
    torch.save({**state, "features.28.weight": torch.zeros(1)}, other)
    with pytest.raises(UserError, match=r"no weight features\.28\.weight of shape \(512, 512, 3, 3\)"):
        Vgg19Features(other)
    torch.save([1, 2], other)
    with pytest.raises(UserError, match=r"other\.pth: no weight"):
        Vgg19Features(other)
