"""Scores of blocks and ranks, joined in any order, are exactly those of all tiles at once."""

import numpy as np
import pandas as pd
import pytest
import torch

from metgan_dist.scores.image import image_scores, summarise
from metgan_dist.scores.inception import FEATURES
from metgan_dist.scores.labels import pooled_dice, stacked_counts, tile_counts
from metgan_dist.scores.scored import IMAGE_SCORES, Scored, TileScorer

COUNT, CLASSES = 7, 3
RANDOM = torch.Generator().manual_seed(0)
ANATOMY, TUMOUR, OUTPUT, CYCLED = (torch.rand(COUNT, 1, 16, 16, generator=RANDOM) * 2 - 1 for _ in range(4))
LABEL = torch.randint(0, CLASSES, (COUNT, 16, 16), generator=RANDOM)
LABEL[::3] = 0  # tiles 0, 3 and 6 hold nothing to find


class Inception:
    """Features that are the tile's pixels."""

    weights = "0" * 64

    def __call__(self, images):
        return np.tile(images.flatten(2).numpy(), FEATURES // images[0, 0].numel())


def judge(batch):
    return ((batch["tumour"][:, 0] + 1) * 1.5).long().clamp(0, CLASSES - 1)


def batch_of(rows):
    rows = torch.as_tensor(rows)
    return {"tile": rows, "anatomy": ANATOMY[rows], "tumour": TUMOUR[rows], "label": LABEL[rows]}


def score(rows, output=OUTPUT, cycled=CYCLED, size=1, **asked):
    scorer = TileScorer(CLASSES, **{"judge": judge, **asked})
    for first in range(0, len(rows), size):
        part = list(rows)[first : first + size]
        if output.is_floating_point():
            scorer.add_images(batch_of(part), output[part], None if cycled is None else cycled[part])
        else:
            scorer.add_labels(batch_of(part), output[part])
    return scorer.scored()


@pytest.mark.parametrize(
    "parts",
    [
        [range(0, 3), range(3, 6), range(6, 7)],  # blocks
        [range(6, 7), range(0, 3), range(3, 6)],  # blocks that came in another order
        [range(0, 7, 2), range(1, 7, 2)],  # ranks
        [range(1, 7, 2), [], range(0, 7, 2)],  # one of which had no tile
    ],
)
@pytest.mark.parametrize("size", [1, 4])
def test_parts_join_to_all_at_once_exactly(parts, size):
    asked = {"show": frozenset({1, 5}), "inception": Inception()}
    whole = score(range(COUNT), size=size, **asked)
    joined = Scored.joined(score(part, size=size, **asked) for part in parts)
    pd.testing.assert_frame_equal(joined.per_tile, whole.per_tile, check_exact=True)
    assert joined.per_tile["tile"].tolist() == list(range(COUNT))
    assert joined.summary() == whole.summary()
    assert joined.pictures.keys() == {1, 5}
    np.testing.assert_array_equal(joined.pictures[5], OUTPUT[5].numpy())
    np.testing.assert_array_equal(joined.features.samples[0].features, whole.features.samples[0].features)
    assert joined.features.statistics[0].count == COUNT
    scatter = (one.features.statistics[0].scatter for one in (joined, whole))
    np.testing.assert_allclose(next(scatter), next(scatter), atol=1e-9)


def dice_by_hand(found):
    """Over all tiles, the mean of the classes."""
    both = [(found == k, k == LABEL) for k in range(1, CLASSES)]
    return np.mean([2 * (one & other).sum() / (one.sum() + other.sum()) for one, other in both])


def test_scores_are_those_of_the_tiles():
    scored = score(range(COUNT), size=4)
    assert list(scored.per_tile) == [
        *("tile", *IMAGE_SCORES, "cycle_mae", "dice", "overlap_1", "size_1", "overlap_2", "size_2")
    ]
    expected = image_scores(OUTPUT, TUMOUR)
    for name, values in expected.items():
        np.testing.assert_array_equal(scored.per_tile[name], values)
    np.testing.assert_allclose(scored.per_tile["cycle_mae"], (CYCLED - ANATOMY).abs().mean(dim=(1, 2, 3)))
    summary = scored.summary()
    assert summary["label_fidelity"] == pytest.approx(dice_by_hand(judge({"tumour": OUTPUT})))
    assert {name: summary[name] for name in summarise(expected)} == summarise(expected)


def test_empty_labels_have_no_dice_but_their_false_positives_count():
    scored = score(range(COUNT))
    assert scored.per_tile["dice"].isna().tolist() == [True, False, False, True, False, False, True]
    filled = scored.of([1, 2, 4, 5])
    assert filled.per_tile["tile"].tolist() == [1, 2, 4, 5]
    assert scored.summary()["label_fidelity"] < filled.summary()["label_fidelity"]


def test_nothing_found_where_nothing_is_has_no_dice():
    scored = score([0, 3], output=LABEL, cycled=None)
    assert scored.per_tile["dice"].isna().all()
    assert scored.summary("dice") == {}


def test_label_maps_are_compared_with_the_label_and_nothing_else():
    found = judge({"tumour": OUTPUT})
    scored = score(range(COUNT), output=found, cycled=None)
    assert scored.summary("dice") == {"dice": pytest.approx(dice_by_hand(found))}


def test_only_what_is_asked_for_is_scored():
    assert list(score([1, 2], cycled=None, judge=None, images=("psnr", "mae")).per_tile) == ["tile", "mae", "psnr"]
    assert list(score([1, 2], cycled=None, judge=None, images=()).per_tile) == ["tile"]
    perceptual = score([1], cycled=None, judge=None, images=(), perceptual=lambda one, other: {"lpips": np.ones(1)})
    assert perceptual.summary() == {"lpips": 1.0, "lpips_std": 0.0}


def test_an_image_that_is_no_number_makes_the_mean_none():
    broken = OUTPUT.clone()
    broken[2] = float("nan")
    summary = score(range(COUNT), output=broken).summary()
    assert np.isnan(summary["mae"])
    assert np.isfinite(summary["label_fidelity"])


def test_no_tiles_at_all_have_no_scores():
    empty = Scored.joined([score([]), score([])])
    assert empty.per_tile["tile"].tolist() == []
    assert empty.summary() == {}
    assert Scored.joined([empty, score([1])]).per_tile.equals(score([1]).per_tile)


def test_parts_that_were_scored_differently_are_not_joined():
    with pytest.raises(ValueError, match="cannot join scores tile, mae"):
        Scored.joined([score([0], judge=None), score([1])])


def test_counts_of_a_table_are_those_of_the_classes():
    predicted, label = torch.tensor([[[1, 2, 2, 0]], [[0, 0, 0, 0]]]), torch.tensor([[[1, 1, 2, 0]], [[0, 0, 2, 0]]])
    table = pd.DataFrame({"tile": [4, 9], **tile_counts(predicted, label, classes=4)})
    assert stacked_counts(table).tolist() == [[[1, 3], [1, 3], [0, 0]], [[0, 0], [0, 1], [0, 0]]]
    assert pooled_dice(table) == pytest.approx((2 / 3 + 2 / 4) / 2)
