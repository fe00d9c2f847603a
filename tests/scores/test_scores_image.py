"""Image scores against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from metgan_dist.errors import UserError
from metgan_dist.scores import image_scores, summarise


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_scores_of_a_constant_offset_are_those_worked_by_hand():
    real = noise(1, 1, 16, 16) * 0.5
    scores = image_scores(real + 0.25, real)
    assert scores["mae"][0] == pytest.approx(0.25, abs=1e-6)
    assert scores["msd"][0] == pytest.approx(0.0625, abs=1e-6)
    assert scores["psnr"][0] == pytest.approx(10 * math.log10(4 / 0.0625), abs=1e-4)
    assert scores["correlation"][0] == pytest.approx(1, abs=1e-6)


def test_ssim_of_two_constant_images_is_the_luminance_term_for_a_range_of_two():
    c1 = (0.01 * 2) ** 2
    scores = image_scores(torch.full((1, 1, 16, 16), 0.5), torch.full((1, 1, 16, 16), -0.25))
    assert scores["ssim"][0] == pytest.approx((2 * 0.5 * -0.25 + c1) / (0.5**2 + 0.25**2 + c1), abs=1e-9)


def test_identical_tiles_are_perfect_and_a_negative_is_anticorrelated():
    real = noise(2, 1, 16, 16)
    same = image_scores(real, real)
    assert same["mae"].tolist() == same["msd"].tolist() == [0, 0]
    np.testing.assert_allclose(same["ssim"], 1)
    assert np.isinf(same["psnr"]).all()
    np.testing.assert_allclose(image_scores(-real, real)["correlation"], -1)


def test_cross_correlation_is_the_mean_product_of_standard_scores_on_any_scale():
    one, other = noise(1, 1, 16, 16), noise(1, 1, 16, 16, seed=1) + noise(1, 1, 16, 16)
    a, b = ((part - part.mean()) / part.std(correction=0) for part in (one.double(), other.double()))
    assert image_scores(one, other)["correlation"][0] == pytest.approx(float((a * b).mean()))
    assert image_scores(one / 2 + 0.5, other)["correlation"][0] == pytest.approx(float((a * b).mean()), abs=1e-6)


def test_constant_tile_has_correlation_zero_instead_of_nan():
    real = noise(1, 1, 16, 16)
    assert image_scores(torch.zeros_like(real), real)["correlation"].tolist() == [0]
    assert image_scores(real, torch.zeros_like(real))["correlation"].tolist() == [0]


def test_tiles_do_not_leak_into_each_other():
    real, generated = noise(3, 2, 16, 16), noise(3, 2, 16, 16, seed=1)
    together = image_scores(generated, real)
    for i in range(3):
        alone = image_scores(generated[i : i + 1], real[i : i + 1])
        for name, values in together.items():
            assert values.shape == (3,)
            assert values[i] == pytest.approx(alone[name][0])


def test_ssim_window_is_a_volume_in_three_dimensions():
    real = noise(1, 1, 12, 12, 12)
    shuffled = real[:, :, torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    assert image_scores(real, real)["ssim"][0] == pytest.approx(1)
    assert image_scores(shuffled, real)["ssim"][0] < 0.5


def test_bfloat16_images_are_scored_in_double_precision():
    real = noise(1, 1, 16, 16).bfloat16()
    assert image_scores(real, real)["mae"].dtype == np.float64


def test_tile_smaller_than_the_ssim_window_is_one_line_for_the_user():
    with pytest.raises(UserError, match=r"^tiles\.size: 8 x 16 .*11"):
        image_scores(noise(1, 1, 8, 16), noise(1, 1, 8, 16))
    with pytest.raises(ValueError, match="two equal batches"):
        image_scores(noise(1, 1, 16, 16), noise(2, 1, 16, 16))


def test_summary_has_mean_and_spread_of_each_score():
    summary = summarise({"mae": np.array([0.1, 0.3]), "psnr": np.array([np.inf, 20.0])})
    assert summary["mae"] == pytest.approx(0.2)
    assert summary["mae_std"] == pytest.approx(0.1)
    assert summary["psnr"] == math.inf
    assert math.isnan(summary["psnr_std"])


def test_channels_are_correlated_each_with_its_own():
    random = torch.Generator().manual_seed(0)
    one, other = (torch.rand(1, 2, 16, 16, generator=random) * 0.2 for _ in range(2))
    for image in (one, other):
        image[:, 1] += 0.8  # together, the step between the channels would be all that counts
    alone = [image_scores(one[:, [k]], other[:, [k]]) for k in range(2)]
    joint = image_scores(one, other)
    for name in ("mae", "msd", "ssim", "correlation"):
        assert joint[name] == pytest.approx((alone[0][name] + alone[1][name]) / 2)
    assert abs(joint["correlation"][0]) < 0.2
    assert joint["psnr"] == pytest.approx(10 * np.log10(4 / joint["msd"]))
