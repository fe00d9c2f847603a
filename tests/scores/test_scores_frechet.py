"""Streamed statistics against numpy, the distance against closed forms and against pytorch-fid."""

import pickle

import numpy as np
import pytest
from pytorch_fid.fid_score import calculate_frechet_distance

from metgan_dist.errors import UserError
from metgan_dist.scores.frechet import FeatureStatistics, frechet_distance


def statistics_of(features: np.ndarray, batch: int = 10) -> FeatureStatistics:
    statistics = FeatureStatistics(features.shape[1])
    for start in range(0, len(features), batch):
        statistics.add(features[start : start + batch])
    return statistics


def test_streamed_statistics_equal_numpys_despite_a_large_offset():
    features = np.random.default_rng(0).normal(1e4, 0.01, (53, 6))
    statistics = statistics_of(features, batch=7)
    assert statistics.count == 53
    np.testing.assert_allclose(statistics.mean, features.mean(axis=0), rtol=1e-14)
    centred = features - features.mean(axis=0)
    np.testing.assert_allclose(statistics.covariance(), np.cov(centred, rowvar=False), rtol=1e-7, atol=1e-12)


def test_workers_parts_join_to_the_statistics_of_one_and_stay_as_they_were():
    features = np.random.default_rng(1).normal(0, 1, (40, 5))
    parts = [pickle.loads(pickle.dumps(statistics_of(part))) for part in np.array_split(features, [3, 4, 20])]
    before = parts[0].covariance()
    joint = sum(parts, start=FeatureStatistics(5))
    whole = statistics_of(features)
    np.testing.assert_allclose(joint.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(joint.covariance(), whole.covariance(), rtol=1e-12)
    np.testing.assert_array_equal(parts[0].covariance(), before)
    joint.add(np.empty((0, 5)))
    assert joint.count == 40


def test_distance_of_independent_features_is_the_closed_form():
    # Two values m - s, m + s per feature, all combinations: diagonal covariance s^2 * n / (n - 1).
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    one, other = signs * [1.0, 2.0], signs * [3.0, 0.5] + [1.0, -2.0]
    expected = 1 + 4 + 4 / 3 * ((1 - 3) ** 2 + (2 - 0.5) ** 2)
    assert frechet_distance(statistics_of(one), statistics_of(other)) == pytest.approx(expected)


def test_distance_is_symmetric_and_zero_for_equal_sets():
    random = np.random.default_rng(2)
    one, other = (statistics_of(random.normal(0, 1, (64, 40)) @ random.normal(0, 1, (40, 40))) for _ in range(2))
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one), rel=1e-9)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9 * np.trace(one.covariance()))


@pytest.mark.parametrize("tiles", [400, 64], ids=["full rank", "fewer tiles than features"])
@pytest.mark.parametrize("dead", [0, 40], ids=["all features", "dead features"])
def test_distance_equals_pytorch_fids(tiles, dead):
    random = np.random.default_rng(3)
    one, other = (np.maximum(random.normal(0, 1, (tiles, 200)) * random.random(200) + shift, 0) for shift in (0, 0.1))
    one[:, :dead] = other[:, :dead] = 0
    expected = calculate_frechet_distance(
        one.mean(axis=0), np.cov(one, rowvar=False), other.mean(axis=0), np.cov(other, rowvar=False)
    )
    assert frechet_distance(statistics_of(one), statistics_of(other)) == pytest.approx(expected, rel=1e-6)


def test_one_tile_has_no_covariance():
    with pytest.raises(UserError, match=r"^FID: needs at least two tiles on each side, got 1"):
        frechet_distance(statistics_of(np.ones((1, 3))), statistics_of(np.ones((4, 3))))
