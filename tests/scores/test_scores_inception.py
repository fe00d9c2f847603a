"""FID and KID of images, through the real network at its real size (weights drawn at random), against pytorch-fid."""

import hashlib
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import pytorch_fid.inception
import torch
from PIL import Image
from pytorch_fid.fid_score import calculate_activation_statistics, calculate_frechet_distance
from torchvision.models import Inception3

from metgan_dist.errors import UserError
from metgan_dist.scores.distribution import FeatureSet, distribution_scores
from metgan_dist.scores.frechet import FeatureStatistics
from metgan_dist.scores.inception import FEATURES, InceptionFeatures
from metgan_dist.scores.kernel import FeatureSample, kernel_distance
from metgan_dist.weights import PUBLISHED


def drawn_weights() -> dict[str, torch.Tensor]:
    """A state of pytorch-fid's network with convolutions scaled so that features neither fade nor grow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pytorch_fid.inception, "load_state_dict_from_url", lambda *args, **options: {})
        patch.setattr(Inception3, "load_state_dict", lambda network, state: None)
        network = pytorch_fid.inception.fid_inception_v3()
    random = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=random)
    return network.state_dict()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / PUBLISHED["inception"].file
    torch.save(drawn_weights(), path)
    return path


@pytest.fixture(scope="module")
def features(weights: Path) -> Iterator[InceptionFeatures]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METGAN_WEIGHTS", str(weights.parent))
        patch.setenv("METGAN_WEIGHTS_UNVERIFIED", "1")
        yield InceptionFeatures()


def photographs(count: int, contrast: float, seed: int) -> np.ndarray:
    """Grey ones, (count, 24, 32) uint8."""
    random = np.random.default_rng(seed)
    return (128 + 127 * contrast * random.uniform(-1, 1, (count, 24, 32))).astype(np.uint8)


def as_tiles(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images)[:, None] / 127.5 - 1


@pytest.mark.filterwarnings("ignore::scipy.linalg.LinAlgWarning")
def test_fid_and_kid_of_16_images_equal_pytorch_fids(features, tmp_path):
    """Streamed in two parts and uneven batches, against the library's own reading, network, statistics and formula.

    All images' features span 16 of the 2048 dimensions. There the distance is the same, and its root costs nothing.
    """
    sets, statistics, seen = [], [], []
    for side, (contrast, seed) in enumerate([(1.0, 0), (0.7, 1)]):
        images = photographs(8, contrast, seed)
        paths = [tmp_path / f"{side}-{k:02d}.png" for k in range(8)]
        for image, path in zip(images, paths, strict=True):
            Image.fromarray(image).save(path)
        statistics += calculate_activation_statistics(paths, features.network, batch_size=8, num_workers=0)

        parts = [FeatureSet(features.weights), FeatureSet(features.weights)]
        tiles = as_tiles(images)
        for start, stop, part in [(0, 2, 0), (2, 5, 1), (5, 8, 0)]:
            seen.append(features(tiles[start:stop]))
            parts[part].add(seen[-1], range(start, stop))
        sets.append(parts[0] + pickle.loads(pickle.dumps(parts[1])))

    basis, _ = np.linalg.qr(np.concatenate(seen)[:, 0].T.astype(np.float64))
    small = [basis.T @ part if part.ndim == 1 else basis.T @ part @ basis for part in statistics]
    assert [np.trace(small[k]) for k in (1, 3)] == pytest.approx([np.trace(statistics[k]) for k in (1, 3)], rel=1e-6)
    expected = calculate_frechet_distance(*small)
    scores = distribution_scores(*sets)
    assert scores["fid_unverified"] == pytest.approx(expected, rel=1e-6)
    assert expected > 1e-3 * np.trace(statistics[1])  # an effect, not the remainder of a cancellation
    assert (scores["kid_unverified"], scores["kid_unverified_std"]) == kernel_distance(
        *(one.samples[0] for one in sets)
    )
    assert scores["kid_unverified"] > 0
    assert set(scores) == {"fid_unverified", "kid_unverified", "kid_unverified_std"}


def test_channels_count_as_grey_photographs_of_any_precision(features):
    tiles = as_tiles(photographs(1, 1.0, 2))
    several = torch.cat([tiles, tiles.flip(-1) * 0.5], dim=1)
    both = features(several)
    assert (both.shape, both.dtype) == ((1, 2, FEATURES), np.float32)
    np.testing.assert_allclose(both[:, :1], features(tiles), rtol=1e-5, atol=1e-6)
    assert not np.allclose(both[:, 0], both[:, 1], rtol=1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(features(several.double()), both)
    with pytest.raises(UserError, match=r"^FID and KID: needs two-dimensional tiles"):
        features(tiles[None])


def test_each_channel_is_compared_with_its_own():
    one, other = filled("a" * 64, 0, channels=2), filled("a" * 64, 1, channels=2)
    alone = []
    for k in range(2):
        parts = [FeatureSet("a" * 64) for _ in range(2)]
        for part, whole in zip(parts, (one, other), strict=True):
            part.samples, part.statistics = whole.samples[k : k + 1], whole.statistics[k : k + 1]
        alone.append(distribution_scores(*parts))
    joint = distribution_scores(one, other)
    assert joint == {name: pytest.approx((alone[0][name] + alone[1][name]) / 2) for name in joint}
    with pytest.raises(ValueError, match="2 and of 1 channels"):
        one + filled("a" * 64, 0)


def filled(weights: str, seed: int, channels: int = 1) -> FeatureSet:
    """A feature set of the right width without the cost of its covariance."""
    random = np.random.default_rng(seed)
    one = FeatureSet(weights, channels)
    one.samples = [FeatureSample(3) for _ in range(channels)]
    one.statistics = [FeatureStatistics(3) for _ in range(channels)]
    one.add(random.normal(0, 1, (8, channels, 3)), range(8))
    return one


def test_only_the_published_weights_give_the_standard_names():
    scores = distribution_scores(filled(PUBLISHED["inception"].sha256, 0), filled(PUBLISHED["inception"].sha256, 1))
    assert set(scores) == {"fid", "kid", "kid_std"}
    assert set(distribution_scores(filled("0" * 64, 0), filled("0" * 64, 1))) == {
        "fid_unverified",
        "kid_unverified",
        "kid_unverified_std",
    }


def test_features_of_different_weights_never_meet():
    with pytest.raises(ValueError, match="different weights"):
        filled("a" * 64, 0) + filled("b" * 64, 0)
    with pytest.raises(ValueError, match="different weights"):
        distribution_scores(filled("a" * 64, 0), filled("b" * 64, 0))


def test_loaded_weights_are_told_by_their_digest(weights, features):
    assert features.weights == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert not features.network.training
    assert not any(parameter.requires_grad for parameter in features.network.parameters())
    state = torch.load(weights)
    torch.testing.assert_close(
        features.network.blocks[3][0].branch3x3_1.conv.weight, state["Mixed_7a.branch3x3_1.conv.weight"]
    )


def test_weights_of_another_network_are_one_line(weights, tmp_path, monkeypatch):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / weights.name)
    monkeypatch.setenv("METGAN_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("METGAN_WEIGHTS_UNVERIFIED", "1")
    with pytest.raises(UserError, match=rf"{weights.name}: not weights of this network") as caught:
        InceptionFeatures()
    assert "\n" not in str(caught.value)
