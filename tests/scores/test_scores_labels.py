"""Dice by hand counts, and the corner cases that change a table."""

import numpy as np
import pytest
import torch

from metgan_dist.scores import PooledDice, dice, label_fidelity

# Tile 0: 2 pixels shared of 3 predicted and 4 true -> 4/7. Tile 1: nothing on either side.
PREDICTED = torch.tensor([[[1, 1, 1], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]])
LABEL = torch.tensor([[[1, 1, 0], [1, 1, 0]], [[0, 0, 0], [0, 0, 0]]])


def test_dice_per_tile_equals_the_count_by_hand():
    assert dice(PREDICTED, LABEL).tolist() == pytest.approx([4 / 7, 1.0])


def test_empty_tiles_do_not_lift_the_pooled_dice_but_false_positives_lower_it():
    pooled = PooledDice()
    pooled.add(PREDICTED, LABEL)
    assert pooled.value() == pytest.approx(4 / 7)
    pooled.add(torch.ones(1, 1, 3, dtype=torch.long), torch.zeros(1, 1, 3, dtype=torch.long))
    assert pooled.value() == pytest.approx(4 / 10)


def test_pooled_dice_of_nothing_at_all_is_one():
    pooled = PooledDice()
    pooled.add(torch.zeros(1, 4, 4, dtype=torch.long), torch.zeros(1, 4, 4, dtype=torch.long))
    assert pooled.value() == 1


def test_classes_are_not_confused_with_each_other():
    predicted, label = torch.tensor([[[1, 2, 2, 0]]]), torch.tensor([[[1, 1, 2, 0]]])
    pooled = PooledDice(classes=4)
    pooled.add(predicted, label)
    np.testing.assert_allclose(pooled.per_class(), [2 / 3, 2 / 3, 1])
    assert dice(predicted, label, classes=4)[0] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_two_workers_counts_join_to_the_dice_of_one():
    random = torch.Generator().manual_seed(0)
    predicted, label = torch.randint(0, 3, (2, 4, 5, 6, 7), generator=random)
    whole, first, second = PooledDice(3), PooledDice(3), PooledDice(3)
    whole.add(predicted, label)
    first.add(predicted[:1], label[:1])
    second.add(predicted[1:], label[1:])
    assert (first + second).value() == whole.value()
    with pytest.raises(ValueError, match="3 and 2 classes"):
        first + PooledDice(2)


def test_uint8_labels_do_not_overflow_in_the_sum():
    ones = torch.ones(1, 20, 20, dtype=torch.uint8)
    assert dice(ones, ones).tolist() == [1.0]


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        dice(torch.zeros(2, 1, 3, dtype=torch.long), torch.zeros(2, 3, 3, dtype=torch.long))


def test_label_fidelity_scores_what_the_judge_sees_in_the_generated_images():
    def judge(images: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        return (images[:, 0] > 0).long()

    label = LABEL[:1]
    faithful = (label * 2.0 - 1)[:, None]
    assert label_fidelity(judge, faithful, label).value() == 1
    assert label_fidelity(judge, -faithful, label).value() == 0
    joint = label_fidelity(judge, faithful, label) + label_fidelity(judge, -faithful, label)
    assert joint.value() == pytest.approx(2 * 4 / (4 + 4 + 2 + 4))
