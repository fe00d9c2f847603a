"""LPIPS: the package's own network with our file of weights, and how tiles reach it."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
import torchvision

from metgan_dist.errors import UserError
from metgan_dist.scores.perceptual import SMALLEST, PerceptualDistance
from metgan_dist.weights import PUBLISHED


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AlexNet weights of the right shape, drawn at random; the classifier, which LPIPS lacks, is zero and small."""
    with torch.device("meta"):
        shapes = torchvision.models.alexnet().state_dict()
    random = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(value.shape, generator=random) * value[0].numel() ** -0.5
        if name.startswith("features.")
        else torch.zeros(1).expand(value.shape)
        for name, value in shapes.items()
    }
    path = tmp_path_factory.mktemp("weights") / PUBLISHED["alexnet"].file
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def distance(weights: Path) -> Iterator[PerceptualDistance]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METGAN_WEIGHTS", str(weights.parent))
        patch.setenv("METGAN_WEIGHTS_UNVERIFIED", "1")
        yield PerceptualDistance()


def test_score_is_that_of_the_package_with_these_weights(weights, distance):
    package = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    state = torch.load(weights)
    for part in package.net.children():  # its layers keep torchvision's numbers
        part.load_state_dict({name: state[f"features.{name}"] for name in part.state_dict()})
    grey = noise(3, 1, 64, 40), noise(3, 1, 64, 40, seed=1)
    generated, real = (images.repeat(1, 3, 1, 1) for images in grey)
    expected = package(generated, real).flatten().tolist()
    scores = distance(*grey)["lpips_unverified"]
    assert scores.dtype == np.float64
    assert scores.tolist() == pytest.approx(expected, rel=1e-5)
    assert len(set(expected)) == 3
    zero_to_one = package((generated + 1) / 2, (real + 1) / 2, normalize=True).flatten().tolist()
    assert scores.tolist() == pytest.approx(zero_to_one, rel=1e-4)


def test_linear_heads_are_the_published_ones_of_the_package(distance):
    published = torch.load(Path(lpips.__file__).parent / "weights" / "v0.1" / "alex.pth", map_location="cpu")
    for name, value in published.items():
        torch.testing.assert_close(distance.network.state_dict()[name], value)


@pytest.mark.parametrize("channels", [2, 3])
def test_several_channels_score_as_grey_photographs_in_the_mean(distance, channels):
    generated, real = noise(2, channels, 40, 40), noise(2, channels, 40, 40, seed=1)
    scores = distance(generated, real)["lpips_unverified"]
    alone = [distance(generated[:, [k]], real[:, [k]])["lpips_unverified"] for k in range(channels)]
    np.testing.assert_allclose(scores, np.mean(alone, axis=0), rtol=1e-5)
    assert not np.allclose(alone[0], alone[1], rtol=1e-3)


def test_equal_tiles_score_zero_and_a_stronger_change_scores_more(distance):
    real = noise(1, 1, 48, 48)
    change = noise(1, 1, 48, 48, seed=1)
    scores = [distance(real + strength * change, real)["lpips_unverified"][0] for strength in (0, 0.05, 0.5)]
    assert scores[0] == 0
    assert 0 < scores[1] < scores[2]


def test_half_precision_tiles_are_scored_in_float32_under_autocast(distance):
    generated, real = noise(1, 1, 40, 40).bfloat16(), noise(1, 1, 40, 40, seed=1).bfloat16()
    plain = distance(generated.float(), real.float())["lpips_unverified"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(distance(generated, real)["lpips_unverified"], plain)


def test_smallest_tile_is_the_smallest_that_the_network_takes(distance):
    assert np.isfinite(
        distance(noise(1, 1, SMALLEST, SMALLEST), noise(1, 1, SMALLEST, SMALLEST, seed=1))["lpips_unverified"]
    )
    with pytest.raises(RuntimeError):
        distance.network(noise(1, 3, SMALLEST - 1, 64), noise(1, 3, SMALLEST - 1, 64))
    with pytest.raises(UserError, match=r"^tiles\.size: 30 x 64 is too small for LPIPS; use at least 31"):
        distance(noise(1, 1, SMALLEST - 1, 64), noise(1, 1, SMALLEST - 1, 64))


def test_volumes_and_unequal_batches_are_refused(distance):
    with pytest.raises(UserError, match=r"^LPIPS: needs two-dimensional tiles"):
        distance(noise(1, 1, 40, 40, 40), noise(1, 1, 40, 40, 40))
    with pytest.raises(ValueError, match="two equal batches"):
        distance(noise(1, 1, 40, 40), noise(2, 1, 40, 40))


def test_published_weights_give_the_standard_name(weights, monkeypatch):
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    monkeypatch.setitem(PUBLISHED, "alexnet", replace(PUBLISHED["alexnet"], sha256=digest))
    monkeypatch.setenv("METGAN_WEIGHTS", str(weights.parent))
    assert PerceptualDistance().name == "lpips"
