"""The affine references against brute force: a weak reference would flatter every method."""

import itertools

import numpy as np
import pytest
import torch

from metgan_dist.scores import AffineMap, fit_references
from metgan_dist.scores.reference import fit_least_absolute


def least_absolute_cost_by_brute_force(x: np.ndarray, y: np.ndarray) -> float:
    """Some optimal LAD line passes through two of the points: try them all."""
    best = np.inf
    for i, j in itertools.combinations(range(len(x)), 2):
        if x[i] != x[j]:
            slope = (y[j] - y[i]) / (x[j] - x[i])
            best = min(best, np.abs(slope * x + y[i] - slope * x[i] - y).mean())
    return best


@pytest.mark.parametrize("seed", range(6))
def test_least_absolute_fit_reaches_the_brute_force_optimum(seed):
    random = np.random.default_rng(seed)
    x = random.uniform(-1, 1, 40)
    y = random.uniform(-5, 5) * x + random.standard_t(1.2, 40) * 0.3
    fit = fit_least_absolute(x, y)
    cost = np.abs(fit.slopes[0] * x + fit.intercept - y).mean()
    assert cost == pytest.approx(least_absolute_cost_by_brute_force(x, y), rel=1e-6)


def test_a_steep_line_is_found_although_the_anatomy_hardly_varies():
    x = np.linspace(-0.001, 0.001, 50)
    fit = fit_least_absolute(x, 800 * x + 0.1)
    assert fit.slopes[0] == pytest.approx(800, rel=1e-5)
    assert fit.intercept == pytest.approx(0.1, abs=1e-6)


def test_sparse_bright_tumours_move_least_squares_but_not_least_absolute():
    random = torch.Generator().manual_seed(0)
    tiles = []
    for _ in range(4):
        anatomy = torch.rand(1, 1, 32, 32, generator=random) - 0.5
        tumour = 0.5 * anatomy - 0.6
        tumour[(torch.rand(1, 1, 32, 32, generator=random) < 0.1)] = 1.0
        tiles.append((anatomy, tumour))
    (references,) = fit_references(tiles).channels
    assert references.least_absolute.slopes[0] == pytest.approx(0.5, abs=1e-4)
    assert references.least_absolute.intercept == pytest.approx(-0.6, abs=1e-4)
    assert references.least_squares.intercept > -0.5
    assert references.affine is references.least_absolute
    assert references.least_absolute_mae < references.least_squares_mae


def test_streamed_least_squares_equals_one_fit_of_all_pixels():
    random = np.random.default_rng(1)
    x = random.normal(1e3, 0.01, (5, 1, 1, 8, 8))  # a large offset would cancel in raw sums of squares
    y = 0.3 * x + random.normal(0, 0.01, x.shape)
    fit = fit_references((torch.from_numpy(a), torch.from_numpy(b)) for a, b in zip(x, y, strict=True))
    fit = fit.channels[0].least_squares
    centred = x.ravel() - x.mean()
    slope, mean = np.polyfit(centred, y.ravel(), 1)
    assert fit.slopes[0] == pytest.approx(slope, rel=1e-8)
    assert fit.intercept == pytest.approx(mean - slope * x.mean(), rel=1e-8)


def test_bounded_sample_draws_from_all_tiles_alike():
    tiles = [(torch.full((1, 1, 16, 16), k / 10), torch.full((1, 1, 16, 16), k / 10)) for k in range(10)]
    tiles += [(torch.full((1, 1, 16, 16), 0.9), torch.full((1, 1, 16, 16), -1.0))] * 11
    # 11 of 21 tiles lie off the diagonal at -1. A sample of the first or of the last tiles alone would not show
    # the same error as all the pixels do.
    (whole,) = fit_references(tiles, sample_size=10**6).channels
    (sampled,) = fit_references(tiles, sample_size=1000).channels
    assert sampled.least_squares_mae == pytest.approx(whole.least_squares_mae, rel=0.1)
    assert sampled.least_squares == whole.least_squares


def test_constant_anatomy_gives_the_constant_predictions_without_a_division_by_zero():
    tumour = torch.tensor([[[[-1.0, -1.0, 0.5]]]])
    (references,) = fit_references([(torch.zeros(1, 1, 1, 3), tumour)]).channels
    assert references.least_squares == AffineMap((0.0,), pytest.approx(-0.5))
    assert references.least_absolute == AffineMap((0.0,), -1.0)


def test_predictions_are_the_anatomy_and_the_clipped_map():
    anatomy = torch.tensor([[[[-1.0, 0.0, 1.0]]]])
    references = fit_references([(torch.tensor([[[[-0.5, 0.0, 0.4]]]]), torch.tensor([[[[-1.0, 0.0, 0.8]]]]))])
    predictions = references.predictions(anatomy)
    assert predictions["identity"] is anatomy
    torch.testing.assert_close(predictions["affine"], torch.tensor([[[[-1.0, 0.0, 1.0]]]]), atol=1e-5, rtol=0)


def test_no_training_tiles_is_an_error_rather_than_a_reference_of_zero():
    with pytest.raises(ValueError, match="at least one"):
        fit_references([])


def test_each_tumour_channel_is_fitted_from_all_channels_of_the_anatomy():
    random = np.random.default_rng(2)
    x = random.uniform(-0.5, 0.5, (3, 4, 2, 8, 8))  # 3 batches of 4 tiles
    y = 0.7 * x[:, :, :1] - 0.4 * x[:, :, 1:] + 0.1 + random.normal(0, 0.01, (3, 4, 1, 8, 8))
    fitted = fit_references((torch.from_numpy(a), torch.from_numpy(b)) for a, b in zip(x, y, strict=True))
    (reference,) = fitted.channels
    design = np.stack([*x.swapaxes(0, 2).reshape(2, -1), np.ones(y.size)], axis=1)
    expected = np.linalg.lstsq(design, y.swapaxes(0, 2).ravel(), rcond=None)[0]
    assert (*reference.affine.slopes, reference.affine.intercept) == pytest.approx(tuple(expected), rel=1e-9)
    assert reference.least_absolute is None
    made = fitted.predictions(torch.from_numpy(x[0]))
    assert list(made) == ["affine"]  # the anatomy itself is no picture of one channel
    np.testing.assert_allclose(made["affine"], y[0], atol=0.1)


def test_two_tumour_channels_have_maps_of_their_own():
    x = torch.linspace(-0.5, 0.5, 64).view(1, 1, 8, 8)
    y = torch.cat([0.5 * x, -x + 0.2], dim=1)
    fitted = fit_references([(x, y)])
    slopes = [reference.affine.slopes for reference in fitted.channels]
    assert slopes == [pytest.approx((0.5,), abs=1e-5), pytest.approx((-1.0,), abs=1e-5)]
    torch.testing.assert_close(fitted.predictions(x)["affine"], y, atol=1e-5, rtol=0)
    assert fit_references([(y, y)]).names == ("identity", "affine")
