"""KID against a double loop, and a sample that does not depend on who scored which tile."""

import pickle

import numpy as np
import pytest

from metgan_dist.errors import UserError
from metgan_dist.scores.kernel import FeatureSample, discrepancy, kernel_distance


def sample_of(features: np.ndarray, **options: int) -> FeatureSample:
    sample = FeatureSample(features.shape[1], **options)
    sample.add(features, range(len(features)))
    return sample


def discrepancy_by_double_loop(one: np.ndarray, other: np.ndarray) -> float:
    def kernel(x, y):
        return (sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3

    m, n = len(one), len(other)
    within_one = sum(kernel(one[i], one[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    within_other = sum(kernel(other[i], other[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    across = sum(kernel(x, y) for x in one for y in other) / (m * n)
    return within_one + within_other - 2 * across


def test_discrepancy_equals_the_double_loop():
    random = np.random.default_rng(0)
    one, other = random.normal(0, 1, (7, 5)), random.normal(0.5, 1, (9, 5))
    assert discrepancy(one, other) == pytest.approx(discrepancy_by_double_loop(one, other), rel=1e-12)


def test_distance_is_the_mean_and_spread_of_the_double_loop_over_subsets():
    random = np.random.default_rng(1)
    one, other = random.normal(0, 1, (3, 4)), random.normal(1, 1, (3, 4))
    generated, real = sample_of(one), sample_of(other)
    # All pairs of subsets of two: with enough draws the mean and spread approach those over the 9 pairs.
    pairs = [
        discrepancy_by_double_loop(np.delete(one, i, axis=0), np.delete(other, j, axis=0))
        for i in range(3)
        for j in range(3)
    ]
    mean, spread = kernel_distance(generated, real, subsets=20_000, subset_size=2)
    assert mean == pytest.approx(np.mean(pairs), abs=4 * np.std(pairs) / np.sqrt(20_000))
    assert spread == pytest.approx(np.std(pairs), rel=0.05)
    assert kernel_distance(generated, real) == kernel_distance(generated, real)
    assert kernel_distance(generated, real, subset_size=3, subsets=2) == pytest.approx(
        (discrepancy_by_double_loop(one, other), 0), abs=1e-6
    )


def test_equal_distributions_score_zero_on_average_however_few_the_tiles():
    random = np.random.default_rng(2)
    values = [discrepancy(random.normal(0, 1, (4, 3)), random.normal(0, 1, (4, 3))) for _ in range(4000)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(4000)
    assert min(values) < 0


def test_sample_does_not_depend_on_batches_order_or_workers():
    random = np.random.default_rng(3)
    features = random.normal(0, 1, (50, 4)).astype(np.float32)
    whole = sample_of(features, size=10)
    order = random.permutation(50)
    parts = []
    for rows in np.array_split(order, 7):
        part = FeatureSample(4, size=10)
        for batch in np.array_split(rows, 2):
            part.add(features[batch], batch)
        parts.append(pickle.loads(pickle.dumps(part)))
    joint = sum(parts[1:], start=parts[0])
    np.testing.assert_array_equal(joint.features, whole.features)
    assert len(joint.features) == 10
    assert len(sample_of(features, size=10, seed=1).features) == 10
    assert not np.array_equal(sample_of(features, size=10, seed=1).features, whole.features)


def test_every_tile_is_as_likely_to_be_kept():
    kept = np.zeros(40)
    for seed in range(500):
        sample = sample_of(np.arange(40)[:, None], size=10, seed=seed)
        kept[sample.features[:, 0].astype(int)] += 1
    assert kept.min() > 125 - 5 * np.sqrt(500 * 0.25 * 0.75)
    assert kept.max() < 125 + 5 * np.sqrt(500 * 0.25 * 0.75)


def test_a_tile_scored_twice_counts_once():
    sample = sample_of(np.ones((5, 2)))
    again = sample + sample_of(np.ones((5, 2)))
    assert len(again.features) == 5
    again.add(np.ones((1, 2)), ["0/1"])
    assert len(again.features) == 6


def test_too_few_tiles_and_unlike_samples_are_refused():
    with pytest.raises(UserError, match=r"^KID: needs at least 2 tiles on each side, got 1"):
        kernel_distance(sample_of(np.ones((1, 2))), sample_of(np.ones((5, 2))))
    with pytest.raises(UserError, match="at least 6 tiles on each side, got 5"):
        kernel_distance(sample_of(np.ones((9, 2))), sample_of(np.ones((5, 2))), subset_size=6)
    with pytest.raises(ValueError, match="size or seed"):
        FeatureSample(2, seed=0) + FeatureSample(2, seed=1)
    with pytest.raises(ValueError, match="2 rows of features for 1 tiles"):
        FeatureSample(2).add(np.ones((2, 2)), [0])
