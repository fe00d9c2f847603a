"""Masks in the parenchyma, on maps small enough to be counted by hand."""

import numpy as np
import pytest

from metgan_dist.errors import UserError
from metgan_dist.synthesis.injection import Laid, inject

WHITE, GREY, FLUID = 1, 2, 3


def brain():
    """(2, 4, 8): the left half white matter, of the right half one column of fluid and three of grey matter."""
    tissue = np.full((2, 4, 8), GREY)
    tissue[..., :4] = WHITE
    tissue[..., 4] = FLUID
    return tissue


def mask(*columns):
    """All of some columns, eight voxels each."""
    there = np.zeros((2, 4, 8), np.uint8)
    there[..., list(columns)] = 1
    return there


def laid(masks, seed=0, **settings):
    settings = {"parenchyma": (WHITE, GREY), "name": "sub-1", "least": 8, **settings}
    parenchyma = settings.pop("parenchyma")
    return inject(brain(), masks, parenchyma, np.random.default_rng(seed), **settings)


def test_of_a_mask_remains_what_lies_in_the_parenchyma():
    injected = laid([mask(3, 4, 5)], mirror=False)
    assert injected.laid == (Laid(mask=0, mirrored=False, draws=1, voxels=16),)
    assert np.array_equal(injected.lesion, mask(3, 5) != 0)
    white = laid([mask(3, 4, 5)], mirror=False, parenchyma=(WHITE,))
    assert np.array_equal(white.lesion, mask(3) != 0)


def test_a_mask_of_which_too_little_remains_is_drawn_again():
    """Column 4 is fluid: the first mask leaves nothing, the second 8 voxels of 16."""
    for seed in range(8):
        injected = laid([mask(4), mask(4, 5)], seed, mirror=False)
        assert injected.laid[0].mask == 1
        assert injected.laid[0].draws == injected.draws in (1, 2)
        assert np.count_nonzero(injected.lesion) == 8
    assert {laid([mask(4), mask(4, 5)], seed, mirror=False).draws for seed in range(8)} == {1, 2}


def test_half_of_the_lesions_change_sides():
    injected = [laid([mask(0)], seed) for seed in range(40)]
    for one in injected:
        assert np.array_equal(one.lesion, mask(7 if one.laid[0].mirrored else 0) != 0)
    assert 10 < sum(one.laid[0].mirrored for one in injected) < 30


def test_several_lesions_are_of_different_masks_and_share_no_voxel():
    injected = laid([mask(0, 1), mask(1, 2), mask(2)], lesions=2, mirror=False)
    first, second = injected.laid
    assert first.mask != second.mask
    assert np.count_nonzero(injected.lesion) == first.voxels + second.voxels


def test_the_same_brain_gets_the_same_lesion():
    masks = [mask(column) for column in (0, 1, 2, 5, 6)]
    one, other = laid(masks, 3, lesions=2), laid(masks, 3, lesions=2)
    assert one.laid == other.laid
    assert np.array_equal(one.lesion, other.lesion)


@pytest.mark.parametrize(
    ("masks", "settings", "said"),
    [
        ([mask(0)], {"parenchyma": (9,)}, "sub-1: 0 voxels of parenchyma (data.parenchyma), fewer than the 8"),
        (
            [mask(4)],
            {"mirror": False},
            "sub-1: lesion 1 of 1 fits nowhere: of 1 mask(s) tried (synthesis.tries: 100) none",
        ),
        (
            [mask(4), mask(4)],
            {"tries": 1, "mirror": False},
            "sub-1: lesion 1 of 1 fits nowhere: of 1 mask(s) tried (synthesis.tries: 1)",
        ),
        ([mask(), mask()], {}, "synthesis.masks: all 2 masks that were tried are empty"),
        ([mask(0)], {"lesions": 2}, "sub-1: lesion 2 of 2 fits nowhere: of 0 mask(s)"),
        ([np.zeros((2, 4, 9))], {}, "sub-1: mask 0 has shape (2, 4, 9), the brain (2, 4, 8)"),
    ],
)
def test_what_cannot_be_laid_is_told_in_a_line(masks, settings, said):
    with pytest.raises(UserError) as raised:
        laid(masks, **settings)
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)
