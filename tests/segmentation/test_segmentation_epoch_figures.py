"""Pictures over the training: what is drawn of whom, and nothing of nothing."""

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from metgan_dist.segmentation import epoch_figures
from metgan_dist.segmentation.cells import Example
from metgan_dist.segmentation.epoch_figures import Segmented, epoch_boxes, learning_curves, segmented_volumes
from metgan_dist.segmentation.figures import MASK


@pytest.fixture
def drawn(monkeypatch):
    """The matplotlib figures that were made into PNGs, in order."""
    figures, png = [], epoch_figures.png
    monkeypatch.setattr(epoch_figures, "png", lambda figure: figures.append(figure) or png(figure))
    return figures


def curve(*dice):
    names = ("train_dice", "train_loss", "test_dice", "test_loss")
    return pd.DataFrame({"epoch": np.arange(1, len(dice) + 1), **{name: np.array(dice) for name in names}})


def test_curves_have_four_panels_and_a_line_a_row(drawn):
    assert learning_curves({"clinical": curve(0.1, 0.2, 0.3), "SPADE": curve(0.4)}).startswith(b"\x89PNG")
    axes = drawn[0].axes
    assert [axis.get_title() for axis in axes] == ["Dice, training", "loss, training", "Dice, test", "loss, test"]
    assert [line.get_label() for line in axes[2].lines] == ["clinical", "SPADE"]
    assert axes[2].lines[0].get_ydata().tolist() == [0.1, 0.2, 0.3]
    with pytest.raises(ValueError, match="at least one row"):
        learning_curves({})


def test_boxes_are_named_in_groups_with_the_papers_mean(drawn):
    groups = {"baseline": {"clinical": np.array([60.0, 70, 80])}, "both": {"SPADE": np.array([70.0, 80])}}
    assert epoch_boxes(groups, {"clinical": 68.7, "other": 1.0}).startswith(b"\x89PNG")
    (axis,) = drawn[0].axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["clinical", "SPADE"]
    diamonds = [line.get_xdata() for line in axis.lines if line.get_marker() == "D"]
    assert [list(own) for own in diamonds] == [[68.7]]
    with pytest.raises(ValueError, match="at least one row"):
        epoch_boxes({})


def test_volumes_show_the_plane_with_most_of_the_truth(drawn):
    image, truth = np.full((3, 20, 20), -1.0), np.zeros((3, 20, 20), int)
    truth[1, 4:12, 4:12] = 1
    found = np.zeros_like(truth)
    found[1, 8:16, 4:12] = found[2] = 1
    picture = segmented_volumes(
        {"largest: v": {"clinical": Segmented(Example(image, truth, found, truth), 0.5)}}, "Title"
    )
    (axis,) = drawn[0].axes
    assert axis.get_title() == "clinical\nDice 50.0%"
    assert axis.get_ylabel() == "largest: v"
    shown = axis.images[1].get_array()
    assert np.array_equal(np.ma.filled(shown, 0), found[1])  # not plane 2, which is full of what was found
    assert imread(io.BytesIO(picture)).ndim == 3
    assert MASK.startswith("#")
    with pytest.raises(ValueError, match="at least one"):
        segmented_volumes({})
