"""Lesions that are matched part by part are those of the whole map, wherever its borders lie."""

import itertools

import numpy as np
import pytest

from metgan_dist.scores.lesions import match_lesions
from metgan_dist.scores.pieces import join_parts, match_part


def parts(predicted, label, image, edge):
    """`match_part` of all parts of a map with edges of at most `edge` pixels, each with its margin."""
    whole = tuple(length + 1 for length in label.shape)
    padded = [np.pad(array, [(0, 1)] * label.ndim) for array in (predicted, label, image)]
    corners = itertools.product(*(range(0, length, edge) for length in label.shape))
    for corner in corners:
        here = tuple(slice(low, min(low + edge, length) + 1) for low, length in zip(corner, label.shape, strict=True))
        yield match_part(*(array[here] for array in padded), corner, whole)


def described(areas, brightness, matched):
    return sorted(zip(map(int, areas), np.round(brightness, 6).tolist(), map(bool, matched), strict=True))


@pytest.mark.parametrize("edge", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("seed", range(12))
def test_parts_give_the_lesions_of_the_whole(seed, edge):
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(4, 12, size=2 + seed % 2))
    density = random.choice([0.0, 0.05, 0.15, 0.35])
    label, image = random.random(shape) < density, random.random(shape)
    predicted = np.where(random.random(shape) < 0.5, label, random.random(shape) < 0.1)
    lesions, predictions = join_parts(list(parts(predicted, label, image, edge)))
    whole = match_lesions(predicted, label)
    expected = described(whole.areas, whole.brightness(image), whole.found)
    assert described(lesions["area"], lesions["brightness"], lesions["matched"]) == expected
    assert sorted(predictions["matched"]) == sorted(whole.matched)


def test_a_corner_between_four_parts_ties_a_lesion_together():
    label = np.zeros((4, 4), bool)
    label[1, 2] = label[2, 1] = True  # two parts whose corners alone touch
    lesions, predictions = join_parts(list(parts(np.zeros_like(label), label, np.ones((4, 4)), 2)))
    assert lesions.to_numpy().tolist() == [[2, 1.0, False]]
    assert len(predictions) == 0
