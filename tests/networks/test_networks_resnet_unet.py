"""The ResNet34-U-Net is torchvision's ResNet34 with a decoder, for any number of channels."""

import pytest
import torch
import torchvision
from torch.nn import functional
from torchvision.models.feature_extraction import create_feature_extractor

from metgan_dist.networks.resnet_unet import ResNetUNet


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_parameters_are_the_encoders_and_those_of_a_decoder_counted_by_hand():
    def two_convolutions(incoming, outgoing):
        return 9 * (incoming + outgoing) * outgoing + 2 * 2 * outgoing  # BatchNorm: scale and shift, twice

    decoder = (
        two_convolutions(512 + 256, 256)
        + two_convolutions(256 + 128, 128)
        + two_convolutions(128 + 64, 64)
        + two_convolutions(64 + 64, 32)
        + two_convolutions(32, 16)
    )
    with torch.device("meta"):
        encoder = torchvision.models.resnet34(weights=None)
        encoder.fc = torch.nn.Identity()
        assert parameters(ResNetUNet(3, 1)) == parameters(encoder) + decoder + 9 * 16 + 1 == 24_436_369
        assert parameters(ResNetUNet(1, 4)) == 24_436_369 - 2 * 64 * 49 + 3 * (9 * 16 + 1)


def test_encoder_is_torchvisions_resnet34():
    torch.manual_seed(0)
    theirs = torchvision.models.resnet34(weights=None).eval()
    ours = ResNetUNet(3, 1).eval()
    mine = [*ours.stem.state_dict().values(), *ours.stages.state_dict().values()]
    published = [tensor for name, tensor in theirs.state_dict().items() if not name.startswith("fc.")]
    assert len(mine) == len(published)
    for tensor, source in zip(mine, published, strict=True):
        tensor.copy_(source)
    layers = ["relu", "layer1", "layer2", "layer3", "layer4"]
    image = torch.randn(1, 3, 64, 96)
    expected = create_feature_extractor(theirs, layers)(image)
    features = [ours.stem(image)]
    x = ours.pool(features[0])
    for stage in ours.stages:
        x = stage(x)
        features.append(x)
    for name, feature in zip(layers, features, strict=True):
        torch.testing.assert_close(feature, expected[name])


def test_decoder_joins_the_encoders_features_of_the_same_edge():
    torch.manual_seed(0)
    network = ResNetUNet(1, 1, width=1 / 16).eval()
    seen = []
    for stage in network.decoder:
        stage.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image = torch.randn(1, 1, 64, 96)
    network(image)
    x = network.stem(image)
    encoded = [x]
    x = network.pool(x)
    for stage in network.stages:
        x = stage(x)
        encoded.append(x)
    deepest = functional.interpolate(encoded[4], scale_factor=2, mode="nearest")
    torch.testing.assert_close(seen[0], torch.cat([deepest, encoded[3]], dim=1))
    for number, skip in ((1, encoded[2]), (2, encoded[1]), (3, encoded[0])):
        torch.testing.assert_close(seen[number][:, -skip.shape[1] :], skip)
    assert [tuple(x.shape[2:]) for x in seen] == [(4, 6), (8, 12), (16, 24), (32, 48), (64, 96)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("shape", [(64, 64), (96, 160)])
def test_any_size_channels_and_classes(channels, classes, shape):
    network = ResNetUNet(channels, classes - 1, width=1 / 16)
    logits = network(torch.randn(2, channels, *shape))
    assert logits.shape == (2, classes - 1, *shape)
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_edges_that_are_no_multiple_of_32_are_refused():
    with pytest.raises(ValueError, match="multiples of 32"):
        ResNetUNet(width=1 / 16)(torch.zeros(1, 1, 64, 80))


def test_output_depends_on_the_whole_image_through_the_coarsest_level():
    torch.manual_seed(0)
    network = ResNetUNet(1, 1, width=1 / 16).eval()
    image = torch.randn(1, 1, 128, 128, requires_grad=True)
    network(image)[0, 0, 64, 64].backward()
    reached = image.grad[0, 0].ne(0)
    assert reached.any(dim=1).all()
    assert reached.any(dim=0).all()


def segments_discs(seed, steps=20):
    """Dice of bright discs after a training on four of them."""
    torch.manual_seed(seed)
    network = ResNetUNet(width=1 / 2)  # a narrower one may start with none of its last units alive
    grid = torch.arange(64.0)
    image = torch.full((4, 1, 64, 64), -1.0)
    for n, (row, column) in enumerate([(20, 20), (40, 30), (30, 44), (24, 40)]):
        image[n, 0] += 2.0 * ((grid[:, None] - row) ** 2 + (grid - column) ** 2 < 256)
    target = (image > 0).float()
    adam = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(steps):
        loss = functional.binary_cross_entropy_with_logits(network(image), target)
        adam.zero_grad()
        loss.backward()
        adam.step()
    found = network(image) > 0
    return (2 * (found & target.bool()).sum() / (found.sum() + target.sum())).item()


def test_learns_to_segment_bright_discs():
    assert segments_discs(seed=0) > 0.7
