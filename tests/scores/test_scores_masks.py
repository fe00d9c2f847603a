"""Measures of masks by hand, and comparisons of sets of masks against numbers worked out otherwise."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from metgan_dist.scores.masks import TrainingMasks, compare_masks, mask_measures, sphericity


def ball(radius, shape=(24, 24, 24), centre=(12, 12, 12), stretch=1.0):
    places = np.indices(shape)
    terms = [(place - at) ** 2 for place, at in zip(places, centre, strict=True)]
    return (terms[0] * stretch**2 + sum(terms[1:])) <= radius**2


def box(*spans, shape=(6, 8, 10)):
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(*span) for span in spans)] = 1
    return mask


def measured(masks, nearest=0.1):
    return pd.DataFrame([{**mask_measures(mask), "nearest": nearest} for mask in masks])


def test_measures_of_two_parts_by_hand():
    mask = box((1, 3), (2, 4), (1, 4)) + 2 * box((5, 6), (7, 8), (9, 10))
    found = mask_measures(mask)
    z, y, x = np.nonzero(mask)
    assert (found["voxels"], found["components"]) == (13, 2)
    assert [found[axis] for axis in "zyx"] == pytest.approx([(6 * 1 + 6 * 2 + 5) / 13, y.mean(), x.mean()])
    assert [found[f"spread_{axis}"] for axis in "zyx"] == pytest.approx([z.std(), y.std(), x.std()])
    assert found["sphericity"] == mask_measures(box((1, 3), (2, 4), (1, 4)))["sphericity"]  # of the largest alone


def test_an_empty_mask_has_no_shape_and_no_place():
    found = mask_measures(np.zeros((4, 4, 4)))
    assert (found["voxels"], found["components"]) == (0, 0)
    assert all(math.isnan(found[name]) for name in ("sphericity", "z", "y", "x", "spread_z", "spread_y", "spread_x"))


def test_sphericity_of_an_octahedron_a_ball_and_a_needle():
    # One voxel's mesh is a regular octahedron: pi^(1/3) (6 V)^(2/3) / A with V = 1/6 and A = sqrt(3).
    one = box((2, 3), (3, 4), (4, 5)).astype(bool)
    assert sphericity(one, (1, 1, 1)) == pytest.approx(math.pi ** (1 / 3) / math.sqrt(3), rel=1e-5)
    # Steps make a surface larger than a smooth one.
    assert 0.85 < sphericity(ball(9), (1, 1, 1)) < 1
    assert sphericity(box((2, 3), (3, 4), (0, 10)).astype(bool), (1, 1, 1)) < 0.7
    flat = ball(9, stretch=3.0)
    assert sphericity(flat, (1, 1, 1)) < sphericity(flat, (3, 1, 1)) - 0.1  # thick slices: it is a ball


def test_circularity_in_2d():
    disc = ball(9)[12]
    found = mask_measures(disc)
    assert set(found) == {"voxels", "components", "sphericity", "y", "x", "spread_y", "spread_x"}
    assert 0.85 < found["sphericity"] < 1
    # One pixel's outline is a square on its corner: 2 sqrt(pi A) / P with A = 1/2 and P = 4 sqrt(1/2).
    assert sphericity(np.ones((1, 1), bool), (1, 1)) == pytest.approx(math.sqrt(math.pi) / 2)
    ring = disc & ~ball(4)[12]
    assert sphericity(ring, (1, 1)) < found["sphericity"] - 0.2


def test_nearest_training_mask_by_dice_and_none_where_nothing_meets():
    kept = TrainingMasks([box((0, 2), (0, 2), (0, 2)), box((0, 2), (0, 2), (0, 4)), box((5, 6), (7, 8), (9, 10))])
    assert kept.nearest(box((0, 2), (0, 2), (0, 3))) == (pytest.approx(2 * 12 / (16 + 12)), 1)
    assert kept.nearest(box((0, 2), (0, 2), (0, 4))) == (1, 1)
    assert kept.nearest(box((3, 4), (0, 1), (0, 1))) == kept.nearest(np.zeros((6, 8, 10))) == (0, -1)
    kept.add(box((3, 4), (0, 1), (0, 2)))
    assert kept.nearest(box((3, 4), (0, 1), (0, 1))) == (pytest.approx(2 / 3), 3)
    assert len(kept) == 4


def some(count, seed, place=0.0, size=1.0):
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "voxels": np.exp(random.normal(5, 1, count)) * size,
            "components": random.integers(1, 5, count).astype(float),
            "sphericity": random.uniform(0.4, 0.9, count),
            **{axis: random.normal(20 + place, 3, count) for axis in "zyx"},
            **{f"spread_{axis}": random.uniform(1, 4, count) for axis in "zyx"},
            "nearest": random.uniform(0, 0.5, count),
        }
    )


def test_distances_and_tests_are_those_of_scipy_and_the_mean_is_in_deviations():
    drawn, real = some(40, 0, place=2), some(30, 1)
    found = compare_masks(drawn, real)
    own = [stats.wasserstein_distance(drawn[axis], real[axis]) for axis in "zyx"]
    assert found["place_distance"] == pytest.approx(np.mean(own))
    p = [stats.ks_2samp(drawn[axis], real[axis], method="asymp").pvalue for axis in "zyx"]
    assert found["place_p"] == pytest.approx(min(1, 3 * min(p)))
    assert found["volume_distance"] == stats.wasserstein_distance(drawn["voxels"], real["voxels"])
    scaled = [np.mean([d / real[axis].std(ddof=0) for d, axis in zip(own, "zyx", strict=True)])]
    measures = {"volume": "voxels", "components": "components", "sphericity": "sphericity"}
    scaled += [found[f"{name}_distance"] / real[one].std(ddof=0) for name, one in measures.items()]
    assert found["mask_distance"] == pytest.approx(np.mean(scaled))


def test_masks_of_one_kind_agree_and_others_are_told_apart():
    alike, other = compare_masks(some(200, 0), some(200, 1)), compare_masks(some(200, 0, place=20), some(200, 1))
    assert alike["mask_distance"] < 0.2 < other["mask_distance"]
    assert min(alike[name] for name in ("precision", "recall", "coverage")) > 0.8
    assert 0.7 < alike["density"] < 1.3
    assert max(other[name] for name in ("precision", "recall", "density", "coverage")) < 0.01
    assert other["place_p"] < 1e-6 < 0.01 < alike["place_p"]


def test_precision_recall_density_and_coverage_on_a_line_by_hand():
    def at(*places):
        same = {"voxels": 1.0, "components": 1.0, "sphericity": 0.5, "y": 0.0, "x": 0.0, "nearest": 0.0}
        return pd.DataFrame([{**same, "z": place} for place in places])

    # Two real masks at 0 and 1: one neighbour, balls of radius 1 about either; drawn at 0.5 and at 3, and an empty one.
    empty = at(0.0).assign(voxels=0.0, components=0.0, sphericity=np.nan, z=np.nan)
    found = compare_masks(pd.concat([at(0.5, 3.0), empty]), at(0.0, 1.0))
    assert found["empty"] == pytest.approx(1 / 3)
    assert found["precision"] == pytest.approx(1 / 3)  # 0.5 alone
    assert found["density"] == pytest.approx(2 / 3)  # 0.5 lies in both balls
    assert found["recall"] == 1  # the drawn ones' balls have a radius of 2.5
    assert found["coverage"] == 1


def test_copies_are_told_by_how_near_held_out_masks_are():
    real, drawn = some(100, 1), some(100, 2)
    honest, copied = compare_masks(drawn, real), compare_masks(drawn.assign(nearest=0.95), real)
    assert honest["copies"] < 0.15
    assert honest["nearest_p"] > 0.01
    assert copied["copies"] == 1
    assert copied["nearest_p"] < 1e-6
    assert copied["nearest"] == pytest.approx(0.95)


def test_too_few_masks_have_no_distance():
    one = measured([box((1, 3), (2, 4), (1, 4))])
    assert compare_masks(one, one) == {"empty": 0, "nearest": pytest.approx(0.1)}
    nothing = measured([np.zeros((4, 4, 4))] * 3, nearest=0.0)
    assert compare_masks(nothing, measured([box((1, 3), (2, 4), (1, 4))] * 3)) == {"empty": 1, "nearest": 0}


def test_masks_that_do_not_vary_are_compared_in_their_own_units():
    one, other = [box((1, 3), (2, 4), (1, 4))] * 3, [box((1, 3), (2, 4), (2, 5))] * 3
    found = compare_masks(measured(other), measured(one))
    assert found["place_distance"] == pytest.approx(1 / 3)
    assert found["volume_distance"] == 0
    assert all(math.isfinite(value) for value in found.values())
