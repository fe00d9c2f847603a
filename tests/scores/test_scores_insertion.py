"""Scores of inserted tumours against cases worked out by hand."""

import math

import numpy as np
import pytest

from metgan_dist.scores.insertion import (
    NEAR,
    background_difference,
    border_scores,
    contrast,
    intensity_distance,
    lost,
    surroundings,
)


def bar(slices=2):
    """A tumour of two pixels in the middle of rows of twenty, of slices of one row each."""
    mask = np.zeros((slices, 1, 20), bool)
    mask[:, 0, 9:11] = True
    return mask


def test_steps_of_a_row_are_those_that_can_be_counted():
    """Tissue of 1, 2, 1, 2, ... on which a tumour of 5, 7 lies: its own step is 2, the tissue's is 1, the border's 3
    on the left (2 to 5) and 6 on the right (7 to 1)."""
    image = np.tile(1.0 + np.arange(20) % 2, (2, 1, 1))
    image[:, 0, 8], image[:, 0, 11] = 2, 1
    image[:, 0, 7], image[:, 0, 12] = 1, 2
    image[:, 0, 9:11] = 5, 7
    image[1] += 0.5
    image[1, 0, 9:11] += 1
    found = border_scores(image, bar())
    assert found["border_step"] == pytest.approx((3 + 6 + 4 + 7) / 4)  # the second slice's tumour is brighter by 1
    assert found["inside_step"] == pytest.approx(2)
    # Pixels 4 to 8 and 11 to 15: of either four steps.
    around = [abs(image[0, 0, k + 1] - image[0, 0, k]) for k in (4, 5, 6, 7, 11, 12, 13, 14)]
    assert found["outside_step"] == pytest.approx(np.mean(around))
    both = (2 * 2 + 2 * sum(around)) / (2 + 2 * 8)
    assert found["border_ratio"] == pytest.approx(5 / both)
    assert found["seam_step"] == pytest.approx(1.5)
    assert found["seam_outside_step"] == pytest.approx(0.5)
    assert found["seam_ratio"] == pytest.approx(3)


def test_a_tumour_like_what_is_around_it_has_no_border_and_no_seam():
    random = np.random.default_rng(0)
    image, mask = random.normal(size=(30, 40, 40)), np.zeros((30, 40, 40), bool)
    mask[5:25, 15:25, 15:25] = True
    found = border_scores(image, mask)
    assert found["border_ratio"] == pytest.approx(1, abs=0.05)
    assert found["seam_ratio"] == pytest.approx(1, abs=0.05)
    assert border_scores(image + 3 * mask, mask)["border_ratio"] > 2
    apart = image + 3 * (np.arange(30) % 2)[:, None, None] * mask
    assert border_scores(apart, mask)["seam_ratio"] > 2


def test_what_has_no_neighbours_of_a_kind_is_not_a_number():
    found = border_scores(np.zeros((1, 1, 20)), bar(1))
    assert math.isnan(found["seam_ratio"])
    assert math.isnan(found["border_ratio"])  # all steps are 0
    assert found["border_step"] == 0


def test_surroundings_lie_in_the_slices_of_the_tumour_alone():
    mask = np.zeros((3, 21, 21), bool)
    mask[1, 10, 10] = True
    around = surroundings(mask)
    assert not around[[0, 2]].any()
    assert not around[1, 10, 10]
    assert around[1, 10, 10 + NEAR]
    assert not around[1, 10, 11 + NEAR]
    assert not around[1, 10 - NEAR, 10 - NEAR]  # a disk, no square


def test_the_background_is_compared_where_nothing_was_touched():
    source = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    made, touched = source.copy(), np.zeros((3, 4), bool)
    made[0, 1, 1], touched[1, 1] = 99, True
    assert background_difference(made, source, touched) == 0
    made[1, 2, 3] -= 2
    assert background_difference(made, source, touched) == 2


def test_intensities_are_as_far_apart_as_they_would_have_to_be_moved():
    assert intensity_distance(np.array([0.0, 1]), np.array([2.0, 3])) == pytest.approx(2)
    assert intensity_distance(np.array([0.0, 1, 1, 0]), np.array([1.0, 0])) == pytest.approx(0)
    assert intensity_distance(np.array([0.0]), np.array([0.0, 4])) == pytest.approx(2)


def test_contrast_is_the_difference_of_means_in_pooled_deviations():
    image = np.zeros((1, 1, 20))
    image[0, 0, 9:11] = 5, 7  # mean 6, variance 1
    image[0, 0, 4:9], image[0, 0, 11:16] = 1, 3  # around: mean 2, variance 1; further out does not count
    image[0, 0, :4] = 100
    assert contrast(image, bar(1)) == pytest.approx(4)
    assert contrast(-image, bar(1)) == pytest.approx(-4)
    assert contrast(3 * image + 8, bar(1)) == pytest.approx(4)
    assert math.isnan(contrast(np.zeros((1, 1, 20)), bar(1)))
    assert math.isnan(contrast(image, np.ones((1, 1, 20), bool)))


def test_tumours_that_hardly_differ_are_lost_bright_or_dark():
    assert lost(np.array([0.4, -0.4, 0.6, -3, np.nan])) == 2
