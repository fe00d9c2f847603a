"""The label path: the used part of the authors' path, and features where the decoder wants them."""

import pytest
import torch

from metgan_dist.networks.initialise import initialise
from metgan_dist.networks.label_path import LabelPath


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_used_and_full_path_have_the_authors_parameter_counts():
    with torch.device("meta"):
        used, full = LabelPath(2), LabelPath(2, merge_full_resolution=True)
    last_convolution = 9 * 8 * 3 + 3  # the authors' 8 -> 3 channels at full resolution, which nothing reads
    assert count(used) == 4_142_912
    assert count(full) + last_convolution == 4_244_539


@pytest.mark.parametrize("full", [False, True])
def test_features_have_the_resolutions_and_channels_of_the_merges(full):
    path = LabelPath(2, merge_full_resolution=full).eval()
    features = path(torch.zeros(1, 64, 128, dtype=torch.int64))
    expected = {4: (1, 128, 4, 8), 3: (1, 128, 8, 16), 2: (1, 32, 16, 32), 1: (1, 16, 32, 64)}
    if full:
        expected[0] = (1, 8, 64, 128)
    assert {level: tuple(feature.shape) for level, feature in features.items()} == expected
    assert path.channels == {level: shape[1] for level, shape in expected.items()}


def test_level_3_is_level_4_enlarged_without_a_block_between():
    features = LabelPath(2, width=1 / 8)(torch.randint(0, 2, (2, 64, 64)))
    assert torch.equal(features[3][..., ::2, ::2], features[4])
    assert torch.equal(features[3][..., 1::2, 1::2], features[4])


def test_small_widths_keep_at_least_two_channels_and_eight_hidden():
    path = LabelPath(2, width=1 / 64)
    assert path.channels == {4: 2, 3: 2, 2: 2, 1: 2}
    assert path.head.norm_0.gamma.in_channels == 8


def test_every_class_changes_the_features():
    torch.manual_seed(0)
    path = LabelPath(3, width=1 / 8).eval()
    maps = [torch.full((1, 64, 64), label) for label in range(3)]
    coarse = [path(label)[1] for label in maps]
    assert (coarse[0] - coarse[1]).abs().max() > 1e-3
    assert (coarse[1] - coarse[2]).abs().max() > 1e-3


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize(("dimensions", "edge"), [(2, 64), (2, 128), (3, 32)])
def test_a_label_of_one_class_has_the_same_features_everywhere(dimensions, edge, label, training):
    """Features that differ from place to place show in the image as marks at fixed places."""
    torch.manual_seed(0)
    path = initialise(LabelPath(2, width=1 / 4, merge_full_resolution=True, dimensions=dimensions, norm="pixel")).train(
        training
    )
    label = torch.full((2, *[edge] * dimensions), label)
    for features in path(label).values():
        over_places = features.flatten(2).std(dim=(0, 2)).mean()
        assert over_places < 1e-4 * features.std(dim=1).mean()


def test_an_empty_label_leaves_gradients_as_they_are_for_others():
    """A norm that enlarges what does not vary enlarges gradients too, by as much."""
    torch.manual_seed(0)
    path = initialise(LabelPath(2, width=1 / 4, norm="pixel"))
    sizes = []
    for classes in (1, 2):
        path.zero_grad()
        features = path(torch.randint(0, classes, (2, 128, 128)))
        sum((level * torch.randn_like(level)).mean() for level in features.values()).backward()
        sizes.append(float(path.first.weight.grad.norm()))
    assert 0 < sizes[0] < 10 * sizes[1]


def test_three_dimensional_path_runs():
    features = LabelPath(2, width=1 / 16, dimensions=3)(torch.randint(0, 2, (2, 32, 32, 32)))
    assert tuple(features[1].shape) == (2, 2, 16, 16, 16)


def test_label_that_is_no_multiple_of_32_is_refused():
    with pytest.raises(ValueError, match="multiples of 32"):
        LabelPath(2, width=1 / 8)(torch.zeros(1, 64, 80, dtype=torch.int64))
