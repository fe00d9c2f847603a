"""Pictures show every outcome in its colour, every score in a panel, every kind of data in a line."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from metgan_dist.scores.lesions import match_lesions
from metgan_dist.segmentation.cells import Example
from metgan_dist.segmentation.figures import OUTCOMES, Point, overlays, size_curves


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) / 255


def example(shape=(32, 32)):
    label, predicted = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    label[..., 2:8, 2:8] = predicted[..., 4:10, 4:10] = 1
    label[..., 20:28, 2:10] = 1
    predicted[..., 20:28, 20:28] = 1
    return Example(np.full(shape, -1.0), label, predicted, match_lesions(predicted, label).outcome())


@pytest.mark.parametrize("shape", [(32, 32), (4, 32, 32)])
def test_found_missed_and_false_lesions_have_their_colours(shape):
    picture = pixels(overlays({"worst: tile 1": example(shape), "median: tile 2": example(shape)}))
    last = picture[:, 3 * picture.shape[1] // 4 :]
    for kind, colour in OUTCOMES.items():
        shown = 0.55 * np.array(to_rgb(colour))  # over black
        assert (np.abs(last - shown).max(axis=2) < 0.03).sum() > 200, kind


def test_of_a_volume_the_slice_with_most_in_it_is_shown():
    whole = example((4, 32, 32))
    only = {name: getattr(whole, name).copy() for name in ("label", "predicted", "outcome")}
    for array in only.values():
        array[[0, 1, 3]] = 0
    one = Example(whole.image, **only)
    np.testing.assert_array_equal(pixels(overlays({"a": one})), pixels(overlays({"a": example()})))


def test_curves_have_a_panel_a_score_and_a_line_a_kind():
    points = [Point(100, 0.5, 0.4, 0.6), Point(800, 0.8, 0.7, 0.9), Point(400, 0.7, 0.2, 0.8)]
    one = pixels(size_curves({"Dice": {"real": points}}))
    two = pixels(size_curves({"Dice": {"real": points, "synthetic": points[:1]}, "Recall": {"real": points}}, "T"))
    assert two.shape[1] == pytest.approx(2 * one.shape[1], abs=3)
    orange = np.abs(two - np.array(to_rgb("C1"))).max(axis=2) < 0.02
    assert orange.any()
    assert not (np.abs(one - np.array(to_rgb("C1"))).max(axis=2) < 0.02).any()
    # The order of the points is no matter.
    np.testing.assert_array_equal(one, pixels(size_curves({"Dice": {"real": points[::-1]}})))


def test_a_kind_has_one_colour_in_all_panels():
    points = [Point(100, 0.5, 0.4, 0.6), Point(800, 0.8, 0.7, 0.9)]
    drawn = pixels(size_curves({"Dice": {"real": points, "synthetic": points[:1]}, "Recall": {"synthetic": points}}))
    right = drawn[:, drawn.shape[1] // 2 + 10 :]
    assert (np.abs(right - np.array(to_rgb("C1"))).max(axis=2) < 0.02).any()
    assert not (np.abs(right - np.array(to_rgb("C0"))).max(axis=2) < 0.02).any()


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError):
        overlays({})
    with pytest.raises(ValueError):
        size_curves({})
