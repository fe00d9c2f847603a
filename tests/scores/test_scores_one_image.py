"""Samples of one image against it: distances that are known, in deviations of the image."""

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from metgan_dist.scores.one_image import rmse, sample_scores


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def test_the_image_itself_has_no_distance_and_no_variety():
    real = noise(2, 20, 24)
    assert sample_scores(np.stack([real, real]), real) == dict.fromkeys(
        ("diversity", "intensity_distance", "patch_distance"), 0.0
    )


@pytest.mark.parametrize("edges", [(20, 24), (9, 10, 11)])
def test_a_shift_of_all_intensities_is_as_far_in_deviations(edges):
    real = 3 * noise(1, *edges)
    found = sample_scores(np.stack([real + 0.6, real + 0.6]), real)
    assert found["intensity_distance"] == pytest.approx(0.6 / real.std())
    assert found["diversity"] == 0


def test_intensities_are_compared_as_scipy_does():
    real, samples = noise(1, 16, 16), noise(3, 1, 16, 16, seed=1) * 2 + 0.5
    expected = np.mean([wasserstein_distance(own.ravel(), real.ravel()) for own in samples]) / real.std()
    assert sample_scores(samples, real)["intensity_distance"] == pytest.approx(expected)


def test_diversity_is_the_deviation_of_a_pixel_over_the_samples():
    real, samples = noise(1, 40, 40), noise(30, 1, 40, 40, seed=2)
    assert sample_scores(samples, real)["diversity"] == pytest.approx(1, abs=0.05)
    assert sample_scores(samples / 2, real)["diversity"] == pytest.approx(0.5, abs=0.03)


def test_patches_tell_structure_where_intensities_do_not():
    x = np.arange(48)[None].repeat(48, axis=0)
    real = np.sin(0.9 * x)[None]
    shuffled = np.random.default_rng(0).permutation(real.ravel()).reshape(real.shape)
    moved = np.sin(0.9 * (x + 2))[None]
    of_shuffled = sample_scores(np.stack([shuffled, shuffled]), real)
    of_moved = sample_scores(np.stack([moved, moved]), real)
    assert of_shuffled["intensity_distance"] == pytest.approx(0)
    assert of_shuffled["patch_distance"] > 3 * of_moved["patch_distance"]


def test_rmse():
    assert rmse(np.array([0.0, 1.0], np.float32), np.array([1.0, 1.0], np.float32)) == pytest.approx(0.5**0.5)
