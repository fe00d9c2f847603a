"""Dice by hand counts, and the corner cases that change a table."""

import numpy as np
import pandas as pd
import pytest
import torch

from metgan_dist.scores import dice, pooled_dice, tile_counts
from metgan_dist.scores.labels import stacked_counts

# Tile 0: 2 pixels shared of 3 predicted and 4 true -> 4/7. Tile 1: nothing on either side.
PREDICTED = torch.tensor([[[1, 1, 1], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]])
LABEL = torch.tensor([[[1, 1, 0], [1, 1, 0]], [[0, 0, 0], [0, 0, 0]]])


def test_dice_per_tile_equals_the_count_by_hand():
    assert dice(PREDICTED, LABEL).tolist() == pytest.approx([4 / 7, np.nan], nan_ok=True)


def pooled(*pairs, classes=2):
    """Of (predicted, label) maps together."""
    return pooled_dice(pd.concat([pd.DataFrame(tile_counts(*pair, classes)) for pair in pairs]))


def test_empty_tiles_do_not_lift_the_pooled_dice_but_false_positives_lower_it():
    wrong = torch.ones(1, 1, 3, dtype=torch.long), torch.zeros(1, 1, 3, dtype=torch.long)
    assert pooled((PREDICTED, LABEL)) == pytest.approx(4 / 7)
    assert pooled((PREDICTED, LABEL), wrong) == pytest.approx(4 / 10)


def test_nothing_at_all_has_no_pooled_dice():
    nothing = torch.zeros(1, 4, 4, dtype=torch.long)
    assert np.isnan(pooled((nothing, nothing)))


@pytest.mark.parametrize("classes", [2, 3, 8])
def test_who_finds_nothing_of_the_one_class_that_is_there_scores_nothing(classes):
    label = torch.zeros(1, 4, 4, dtype=torch.long)
    label[0, 0] = 1
    nothing = torch.zeros_like(label)
    assert pooled((nothing, label), classes=classes) == 0
    assert dice(nothing, label, classes).tolist() == [0]


def test_classes_are_not_confused_with_each_other():
    predicted, label = torch.tensor([[[1, 2, 2, 0]]]), torch.tensor([[[1, 1, 2, 0]]])
    counts = stacked_counts(pd.DataFrame(tile_counts(predicted, label, 4)))
    assert counts.tolist() == [[[1, 3], [1, 3], [0, 0]]]
    by_hand = pytest.approx(2 / 3)  # nobody has the third class
    assert pooled((predicted, label), classes=4) == by_hand
    assert dice(predicted, label, classes=4)[0] == by_hand


def test_uint8_labels_do_not_overflow_in_the_sum():
    ones = torch.ones(1, 20, 20, dtype=torch.uint8)
    assert dice(ones, ones).tolist() == [1.0]


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        dice(torch.zeros(2, 1, 3, dtype=torch.long), torch.zeros(2, 3, 3, dtype=torch.long))
