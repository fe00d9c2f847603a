"""Scores of whole volumes, counted by hand on small masks."""

import numpy as np
import pytest

from metgan_dist.scores.lesions import LesionCounts
from metgan_dist.scores.volumes import VolumeCounts, millilitres


def masks():
    """Three true lesions of 8, 4 and 1 voxels; found are half of the first, the second whole, and one of 3 beside."""
    label, found = np.zeros((2, 6, 10, 10), np.uint8)
    label[1:3, 1:3, 1:3] = 1
    label[4, 6:8, 6:8] = 1
    label[0, 9, 9] = 1
    found[1, 1:3, 1:3] = 1
    found[4, 6:8, 6:8] = 1
    found[2, 8, 1:4] = 1
    return found, label


def test_scores_of_a_volume_by_hand():
    counts = VolumeCounts.of(*masks())
    assert counts == VolumeCounts(8, 11, 13, LesionCounts(found=2, missed=1, matched=2, false_positives=1))
    scores = counts.scores()
    nan = scores.pop("false_positive_volume")
    assert np.isnan(nan)
    assert scores == {"dice": 16 / 24, "f1": 4 / 6, "volume_difference": 2, "count_difference": 0}
    assert counts.scores(0.016)["volume_difference"] == pytest.approx(0.032)


def test_two_lesions_that_one_prediction_joins_are_both_found_and_counted_by_their_difference():
    label, found = np.zeros((2, 3, 8, 8), np.uint8)
    label[1, 2:4, 1:3] = label[1, 2:4, 5:7] = 1
    found[1, 2:4, 1:7] = 1
    scores = VolumeCounts.of(found, label).scores()
    assert (scores["f1"], scores["count_difference"], scores["volume_difference"]) == (1, 1, 4)
    assert scores["dice"] == 2 * 8 / (12 + 8)


def test_a_volume_without_lesions_tells_what_is_found_there_and_is_perfect_where_that_is_nothing():
    empty, found = np.zeros((2, 4, 6, 6), np.uint8)
    assert VolumeCounts.of(empty, empty).scores(0.1) == {
        "dice": 1,
        "f1": 1,
        "volume_difference": 0,
        "count_difference": 0,
        "false_positive_volume": 0,
    }
    found[1, 1:3, 1:3] = found[3, 5, 5] = 1
    scores = VolumeCounts.of(found, empty).scores(0.1)
    assert (scores["dice"], scores["f1"], scores["count_difference"]) == (0, 0, 2)
    assert scores["volume_difference"] == scores["false_positive_volume"] == pytest.approx(0.5)


def test_missed_lesions_alone_score_nothing():
    found, label = masks()
    scores = VolumeCounts.of(np.zeros_like(found), label).scores()
    assert (scores["dice"], scores["f1"], scores["volume_difference"], scores["count_difference"]) == (0, 0, 13, 3)


def test_parts_of_a_volume_add_up_to_the_whole():
    found, label = masks()
    parts = [VolumeCounts.of(found[k : k + 3], label[k : k + 3]) for k in (0, 3)]
    assert parts[0] + parts[1] == VolumeCounts.of(found, label)


def test_voxels_of_two_millimetres_are_8_microlitres():
    assert millilitres((2.0, 2.0, 2.0)) == pytest.approx(0.008)
    assert np.isnan(VolumeCounts.of(*masks()).scores(float("nan"))["false_positive_volume"])
    assert VolumeCounts.of(*masks()).scores(float("nan"))["volume_difference"] == 2
