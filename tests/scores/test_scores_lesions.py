"""Lesions are counted as a plain flood fill counts them, and the printed identities hold."""

import itertools

import numpy as np
import pytest

from metgan_dist.scores.lesions import LesionCounts, components, match_lesions, strata


def flood_fill(mask):
    """The components of a mask as sets of pixels: plain Python, no library."""
    left = {tuple(int(k) for k in place) for place in np.argwhere(mask)}
    steps = [step for step in itertools.product((-1, 0, 1), repeat=mask.ndim) if any(step)]
    found = []
    while left:
        component, edge = set(), [left.pop()]
        while edge:
            place = edge.pop()
            component.add(place)
            for step in steps:
                near = tuple(a + b for a, b in zip(place, step, strict=True))
                if near in left:
                    left.remove(near)
                    edge.append(near)
        found.append(component)
    return found


def brute_force(predicted, label):
    """(found, missed, matched, false positives) from the sets themselves."""
    lesions, predictions = flood_fill(label), flood_fill(predicted)
    found = sum(any(lesion & prediction for prediction in predictions) for lesion in lesions)
    matched = sum(any(lesion & prediction for lesion in lesions) for prediction in predictions)
    return LesionCounts(found, len(lesions) - found, matched, len(predictions) - matched)


def random_masks(seed):
    """A pair of masks, 2D or 3D, from nearly empty to crowded, sometimes empty."""
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(3, 12, size=2 + seed % 2))
    density = random.choice([0.0, 0.03, 0.1, 0.25, 0.5], size=2)
    label = random.random(shape) < density[0]
    predicted = np.where(random.random(shape) < 0.5, label, random.random(shape) < density[1])
    return predicted, label


@pytest.mark.parametrize("block", range(10))
def test_counts_equal_a_flood_fill_on_random_masks(block):
    pooled, reference = LesionCounts(), LesionCounts()
    for seed in range(20 * block, 20 * block + 20):
        predicted, label = random_masks(seed)
        match = match_lesions(predicted, label)
        expected = brute_force(predicted, label)
        assert match.counts == expected, seed
        pooled, reference = pooled + match.counts, reference + expected
        precision, recall = match.counts.precision, match.counts.recall
        if precision + recall:
            assert match.counts.dice == pytest.approx(2 * precision * recall / (precision + recall))
        assert match.counts.jaccard == pytest.approx(match.counts.dice / (2 - match.counts.dice))
        image = np.random.default_rng(seed).random(label.shape)
        areas = sorted((len(c), round(float(np.mean([image[p] for p in c])), 9)) for c in flood_fill(label))
        ours = zip(match.areas.tolist(), np.round(match.brightness(image), 9).tolist(), strict=True)
        assert sorted(ours) == areas
    assert pooled == reference
    assert reference.found > 0 < reference.false_positives


# Table 4 prints means over five folds, so its rows obey the identities nearly: a mean of Dice is no Dice of means.
@pytest.mark.parametrize(
    ("dice", "precision", "recall", "jaccard"), [(0.788, 0.776, 0.804, 0.650), (0.826, 0.842, 0.811, 0.704)]
)
def test_the_papers_rows_obey_the_identities(dice, precision, recall, jaccard):
    total = 10_000
    found, matched = round(recall * total), round(precision * total)
    counts = LesionCounts(found, total - found, matched, total - matched)
    assert counts.dice == pytest.approx(dice, abs=3e-3)
    assert counts.jaccard == pytest.approx(jaccard, abs=3e-3)


def test_pixels_that_touch_at_a_corner_are_one_lesion():
    assert components(np.eye(3, dtype=bool))[1] == 1
    cube = np.zeros((2, 2, 2), dtype=bool)
    cube[0, 0, 0] = cube[1, 1, 1] = True
    assert components(cube)[1] == 1


def test_one_pixel_is_enough_and_one_prediction_may_find_two_lesions():
    label, predicted = np.zeros((2, 5, 9), dtype=np.uint8)
    label[0:2, 0:2], label[0:2, 4:6], label[4, 8] = 1, 1, 1
    predicted[1, 1:5] = 1
    predicted[3, 0] = 1
    match = match_lesions(predicted, label)
    assert match.counts == LesionCounts(found=2, missed=1, matched=1, false_positives=1)
    assert (match.counts.recall, match.counts.precision) == (2 / 3, 1 / 2)
    outcome = match.outcome()
    assert outcome[0, 0] == outcome[1, 1] == outcome[0, 4] == 1
    assert outcome[4, 8] == 2
    assert outcome[3, 0] == 3
    assert outcome[1, 2] == 0
    assert np.unique(outcome).tolist() == [0, 1, 2, 3]


def test_nothing_to_find_and_nothing_found_is_perfect():
    nothing = match_lesions(np.zeros((4, 4)), np.zeros((4, 4)))
    assert nothing.counts == LesionCounts()
    assert (nothing.counts.precision, nothing.counts.recall, nothing.counts.dice, nothing.counts.jaccard) == (1,) * 4
    assert len(nothing.areas) == len(nothing.brightness(np.zeros((4, 4)))) == 0
    assert not nothing.outcome().any()


@pytest.mark.parametrize("counts", [LesionCounts(missed=3), LesionCounts(false_positives=2)])
def test_one_empty_side_gives_zero_everywhere(counts):
    assert (counts.precision, counts.recall, counts.dice, counts.jaccard) == (0,) * 4


def test_an_empty_tile_does_not_move_the_pooled_scores():
    some = LesionCounts(5, 2, 4, 1)
    assert some + match_lesions(np.zeros((4, 4)), np.zeros((4, 4))).counts == some


def test_masks_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        match_lesions(np.zeros((4, 4)), np.zeros((4, 5)))


@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("lesions", [0, 2, 10, 99])
def test_strata_are_of_equal_numbers_and_in_order(lesions, count):
    values = np.random.default_rng(0).integers(1, 6, lesions)
    group = strata(values, count)
    sizes = np.bincount(group, minlength=count)
    assert sizes.sum() == lesions
    assert sizes.max() - sizes.min() <= 1
    for low, high in itertools.pairwise(range(count)):
        if (group == low).any() and (group == high).any():
            assert values[group == low].max() <= values[group == high].min()
