"""Surface distances against cubes worked out by hand: voxels of 1 x 1 x 3 mm, and regions that one map lacks."""

import numpy as np
import pytest
import torch

from metgan_dist.scores.surface import surface_distances

VOXEL = (1.0, 1.0, 3.0)


def box(x0, x1, value=1):
    """A map (1, 8, 8, 8) with a bar of 2 x 2 voxels across, from x0 to x1: all its voxels are surface."""
    label = torch.zeros(1, 8, 8, 8, dtype=torch.long)
    label[0, 3:5, 3:5, x0:x1] = value
    return label


@pytest.mark.parametrize(
    ("found", "true", "assd", "hd95"),
    [
        # A cube of 8 voxels beside itself: 4 of either side lie 3 mm off, 4 on the other: 2 * 4 * 3 / 16.
        (box(2, 4), box(3, 5), 1.5, 3.0),
        # Half of a bar: all 8 found voxels lie on it, 4 true ones 3 mm off and 4 of them 6 mm: (4 * 3 + 4 * 6) / 24.
        (box(2, 4), box(2, 6), 1.5, 6.0),
        (box(2, 4), box(2, 4), 0.0, 0.0),
    ],
)
def test_distances_equal_those_worked_out_by_hand(found, true, assd, hd95):
    for one, other in ((found, true), (true, found)):
        got = surface_distances(one, other, spacing=VOXEL)
        assert (got["assd_1"].item(), got["hd95_1"].item()) == pytest.approx((assd, hd95))


def test_without_spacing_distances_are_in_voxels_and_2d_maps_have_them_too():
    assert surface_distances(box(2, 4), box(3, 5))["assd_1"].item() == pytest.approx(0.5)
    # In the plane, squares of 4 pixels: 2 of either side one pixel off.
    flat = surface_distances(box(2, 4)[:, 3], box(3, 5)[:, 3], spacing=(1.0, 2.0))
    assert (flat["assd_1"].item(), flat["hd95_1"].item()) == pytest.approx((1.0, 2.0))


def test_a_class_that_one_map_lacks_has_no_distance_and_the_others_keep_theirs():
    found = torch.cat([box(2, 4), box(2, 4) + box(5, 7, 2)])
    true = torch.cat([box(3, 5) + box(6, 8, 2), box(2, 4) + box(6, 8, 2)])
    got = surface_distances(found, true, classes=3, spacing=VOXEL)
    np.testing.assert_allclose(got["assd_1"], [1.5, 0.0])
    np.testing.assert_allclose(got["assd_2"], [np.nan, 1.5])
    np.testing.assert_allclose(got["hd95_2"], [np.nan, 3.0])
