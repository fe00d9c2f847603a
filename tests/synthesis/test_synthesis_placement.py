"""Lesions belong in tissue: moved there, or removed, never stretched or merged."""

import numpy as np
import pytest

from metgan_dist.scores.lesions import components
from metgan_dist.synthesis.placement import place, tissue_of


def random(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


@pytest.fixture
def half():
    """Tissue in the left half of a tile."""
    tissue = np.zeros((64, 64), bool)
    tissue[:, :32] = True
    return tissue


def test_tissue_is_where_the_smoothed_anatomy_is_bright():
    anatomy = np.full((32, 32), -1.0, np.float32)
    anatomy[:, 16:] = 0.5
    anatomy[10, 20] = -1.0  # a dark pixel within tissue
    anatomy[10, 5] = -0.5  # a bright one outside
    tissue = tissue_of(anatomy, -0.8)
    assert tissue[:, 18:].all()
    assert not tissue[:, :8].any()


def test_a_lesion_in_tissue_stays_and_one_outside_is_moved_whole(half):
    label = np.zeros((64, 64), np.uint8)
    label[5:10, 5:12] = 1
    label[40:44, 50:56] = 2
    for seed in range(10):
        placed = place(label, half, random(seed))
        assert placed.removed == 0
        assert len(placed.moved) == 1
        assert (placed.label[5:10, 5:12] == 1).all()
        (moved,) = [np.argwhere(placed.label == 2)]
        assert len(moved) == 24
        np.testing.assert_array_equal(moved - placed.moved[0], np.argwhere(label == 2))
        assert half[tuple(moved.T)].mean() >= 0.5
        assert components(placed.label > 0)[1] == 2
    np.testing.assert_array_equal(placed.label, place(label, half, random(9)).label)


def test_classes_within_each_other_move_together(half):
    label = np.zeros((64, 64), np.uint8)
    label[40:50, 50:60] = 1
    label[43:47, 53:57] = 2
    placed = place(label, half, random())
    ring, core = np.argwhere(placed.label == 1), np.argwhere(placed.label == 2)
    assert (len(ring), len(core)) == (84, 16)
    np.testing.assert_array_equal(core.mean(axis=0), ring.mean(axis=0))


def test_a_lesion_without_room_is_removed(half):
    half[:, 4:] = False
    label = np.zeros((64, 64), np.uint8)
    label[10:40, 20:60] = 1
    placed = place(label, half, random())
    assert not placed.label.any()
    assert (placed.removed, placed.moved) == (1, [])
    assert label.any()
    assert place(label, np.zeros_like(half), random()).removed == 1


def test_volumes(half):
    tissue = np.repeat(half[np.newaxis], 8, axis=0)
    label = np.zeros((8, 64, 64), np.uint8)
    label[2:5, 40:44, 50:56] = 1
    placed = place(label, tissue, random())
    assert np.count_nonzero(placed.label) == 72
    assert tissue[placed.label > 0].mean() >= 0.5
