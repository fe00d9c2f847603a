"""Tumours cut out, laid elsewhere, and blended: by hand, and bit by bit where nothing was to change."""

import numpy as np
import pytest
from skimage.filters import gaussian
from skimage.morphology import dilation, disk

from metgan_dist.errors import UserError
from metgan_dist.recipe import Tiles
from metgan_dist.synthesis.pasting import Range, Tumour, blended, blending, tissue_of

RULES = Tiles(kind="slice", size=(32,), normalise="minmax")


def tumour():
    """2 x 3 x 2 voxels at (1, 4, 5), of which a corner is missing; levels count up."""
    mask = np.zeros((4, 12, 12), bool)
    mask[1:3, 4:7, 5:7] = True
    mask[1, 4, 5] = False
    return mask, Tumour.cut(mask, np.arange(mask.size).reshape(1, *mask.shape) / mask.size)


def test_a_tumour_that_is_cut_out_and_laid_where_it_was_is_what_it_was():
    mask, cut = tumour()
    assert (cut.mask.shape, cut.corner) == ((2, 3, 2), (1, 4, 5))
    laid, levels = cut.laid(cut.corner, mask.shape)
    assert np.array_equal(laid, mask)
    assert levels[0, 2, 5, 6] == pytest.approx((2 * 144 + 5 * 12 + 6) / mask.size)


def test_a_tumour_goes_about_a_voxel_or_does_not_fit():
    _, cut = tumour()
    corner = cut.about((2, 8, 9))
    assert corner == (2, 7, 9)
    mask, _ = cut.laid(corner, (4, 12, 12))
    assert [tuple(ends) for ends in np.argwhere(mask)[[0, -1]]] == [(2, 7, 10), (3, 9, 10)]
    assert cut.fits((2, 9, 10), (4, 12, 12))
    assert not cut.fits((3, 9, 10), (4, 12, 12))
    assert not cut.fits((-1, 0, 0), (4, 12, 12))


def test_a_drawn_place_lies_in_tissue_and_follows_from_the_seed():
    _, cut = tumour()
    tissue = np.zeros((6, 20, 20), bool)
    tissue[1:5, 10:18, 2:9] = True
    places = [
        cut.drawn_corner(tissue, np.random.default_rng(seed), name="v", inside=1, tries=200) for seed in range(20)
    ]
    assert places[0] == cut.drawn_corner(tissue, np.random.default_rng(0), name="v", inside=1, tries=200)
    assert len(set(places)) > 5
    for corner in places:
        assert tissue[cut.laid(corner, tissue.shape)[0]].all()
    with pytest.raises(UserError, match=r"insertion\.tissue: volume 'v' has no voxel"):
        cut.drawn_corner(np.zeros_like(tissue), np.random.default_rng(0), name="v", inside=1, tries=9)
    thin = np.zeros_like(tissue)
    thin[3] = True
    with pytest.raises(UserError, match=r"a tumour of 2 x 3 x 2 voxels lies nowhere in the tissue of volume 'v'"):
        cut.drawn_corner(thin, np.random.default_rng(0), name="v", inside=1, tries=9)


def test_tissue_is_what_is_bright_on_the_whole_in_some_channel():
    levels = np.zeros((2, 3, 40, 40), np.float32)
    levels[1, 1, 10:30, 10:30] = 0.5
    levels[0, 2, 5, 5] = 1  # a voxel is none
    tissue = tissue_of(levels, 0.1)
    assert tissue[1, 20, 20]
    assert not tissue[[0, 2]].any()
    assert not tissue[1, 2, 2]


def test_levels_are_of_the_volume_or_of_each_slice_and_come_back():
    image = np.stack([np.arange(32).reshape(2, 4, 4), np.arange(32, 64).reshape(2, 4, 4) * 3]).astype(np.int16)
    of_volume = Range.of(image, RULES)
    levels = of_volume.levels(image)
    assert levels.dtype == np.float32
    assert (levels[0, 0, 0, 0], levels[0, 1, 3, 3], levels[1, 1, 3, 3]) == (0, 1, 1)
    assert levels[0, 0, 3, 3] == pytest.approx(15 / 31)
    assert np.allclose(of_volume.intensities(levels), image, atol=1e-4)
    of_slices = Range.of(image, RULES.model_copy(update={"normalise_over": "plane"}))
    assert (of_slices.levels(image)[:, :, -1, -1] == 1).all()
    assert np.array_equal(of_slices.part(slice(1, 2)).levels(image[:, 1:]), of_slices.levels(image)[:, 1:])
    assert of_volume.levels(image + 1000).max() == 1


def test_the_blending_is_that_of_the_authors():
    mask = np.zeros((80, 90), bool)
    mask[30:38, 40:45] = True
    theirs = gaussian(dilation(mask, disk(7)).astype(float), sigma=5)
    assert np.allclose(blending(mask, 7, 5), theirs / theirs.max(), atol=1e-12)
    assert np.array_equal(blending(mask, 0, 0), mask)
    assert np.array_equal(blending(mask, 7, 0) > 0, dilation(mask, disk(7)))
    touched = blending(mask, 7, 5) > 0
    assert touched[30 - 7 - 20, 42]
    assert not touched[30 - 7 - 20 - 1].any()


def test_blending_in_three_dimensions_reaches_other_slices():
    mask = np.zeros((9, 30, 30), bool)
    mask[4, 15, 15] = True
    weight = blending(mask, 2, 0)
    assert [int(own.sum()) for own in weight] == [0, 0, 1, 9, 13, 9, 1, 0, 0]


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.float64])
def test_where_nothing_is_blended_the_voxels_are_the_very_same(kind):
    random = np.random.default_rng(0)
    source = (random.normal(size=(3, 20, 20)) * 40 + 100).astype(kind)
    weight = np.zeros((3, 20, 20))
    weight[1, 5:9, 5:9] = random.uniform(0.01, 1, (4, 4))
    made = np.full(source.shape, 60.0)
    mixed = blended(source, made, weight)
    assert mixed.dtype == source.dtype
    assert mixed[weight == 0].tobytes() == source[weight == 0].tobytes()
    there = weight > 0
    expected = (1 - weight[there]) * source[there] + weight[there] * 60
    assert np.abs(mixed[there] - expected).max() <= (0.5 if kind in (np.uint8, np.int16) else 1e-4)
