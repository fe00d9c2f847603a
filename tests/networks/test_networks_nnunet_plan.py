"""nnU-Net's rules, worked out by hand and against plans that its users have published."""

import numpy as np
import pytest

from metgan_dist.networks.nnunet_plan import Fingerprint, feature_values, layout_of, plan, target_spacing

# Median shape and voxel size of sets, the 3D patch and how often it halves z, y, x, the 2D patch and its batch.
BRATS = ((140, 171, 137), (1, 1, 1), (128, 128, 128), (5, 5, 5), (192, 160), 105)
LUNG = ((252, 512, 512), (1.244979977607727, 0.78515625, 0.78515625), (80, 192, 160), (4, 5, 5), (512, 512), 12)
ANGIOGRAPHY = ((186, 575, 480), (0.59999937, 0.296875, 0.296875), (64, 192, 160), (4, 5, 5), (512, 448), 14)
HIPPOCAMPUS = ((36, 50, 35), (1, 1, 1), (40, 56, 40), (3, 3, 3), None, None)
PET = ((326, 400, 400), (3, 2.0364201068878174, 2.0364201068878174), (128, 128, 128), (5, 5, 5), (448, 448), 16)


def alike(shape, spacing, volumes=400):
    return Fingerprint((spacing,) * volumes, (shape,) * volumes)


def halvings(layout):
    return tuple(sum(stride[axis] == 2 for stride in layout.strides) for axis in range(len(layout.strides[0])))


@pytest.mark.parametrize("published", [BRATS, LUNG, ANGIOGRAPHY, HIPPOCAMPUS, PET])
def test_patches_and_levels_in_3d_are_those_of_published_plans(published):
    shape, spacing, patch, levels, _, _ = published
    found = plan(alike(shape, spacing), classes=4)
    assert found.patch == patch
    assert halvings(found.layout) == levels
    assert found.spacing == pytest.approx(spacing)


@pytest.mark.parametrize("published", [BRATS, LUNG, ANGIOGRAPHY, PET])
def test_patches_and_batches_in_2d_are_those_of_published_plans(published):
    shape, spacing, _, _, patch, batch = published
    # Thirteen vessels, whose logits are what makes the patch too large.
    classes = {BRATS: 4, ANGIOGRAPHY: 14}.get(published, 2)
    found = plan(alike(shape, spacing), 2, classes=classes)
    assert (found.patch, found.batch) == (patch, batch)
    assert found.layout.channels()[-1] == 512


def test_batches_in_3d_are_2_where_the_patch_fills_the_memory_and_9_of_the_hippocampus():
    assert plan(alike(*BRATS[:2]), classes=4).batch == 2
    assert plan(alike(*HIPPOCAMPUS[:2], volumes=260), classes=3).batch == 9
    # Never more than a twentieth of the set's voxels, which is 3.5 of 100 volumes' patches.
    assert plan(alike(*HIPPOCAMPUS[:2], volumes=100), classes=3).batch == 4
    assert plan(alike(*HIPPOCAMPUS[:2], volumes=10), classes=3).batch == 2


def test_thick_slices_wait_until_the_plane_is_as_coarse():
    layout = layout_of((64, 192, 160), (0.6, 0.297, 0.297))
    assert layout.strides == ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert layout.kernels == ((1, 3, 3), *[(3, 3, 3)] * 5)
    # crossMoDA's 1.5 x 0.41 x 0.41: 0.41, 0.82 (1.83 times less than 1.5, so both are halved).
    layout = layout_of((48, 256, 256), (1.5, 0.41, 0.41))
    assert layout.strides[:3] == ((1, 1, 1), (1, 2, 2), (2, 2, 2))
    assert layout.kernels[:2] == ((1, 3, 3), (3, 3, 3))


def test_edges_are_halved_down_to_4_and_the_last_axis_alone_from_12():
    assert halvings(layout_of((64, 64))) == (4, 4)
    assert halvings(layout_of((8, 8))) == (1, 1)
    # 4 x 32 after two; then 32 and 16 alone, but not 8, which is below 12.
    assert halvings(layout_of((16, 128))) == (2, 4)
    # 7 is too short, 9 becomes 5; with what is odd left alone 9 stays.
    assert halvings(layout_of((9, 16, 16))) == (1, 2, 2)
    assert halvings(layout_of((9, 16, 16), pad=False)) == (0, 2, 2)


def test_all_voxels_are_of_the_median_size_unless_slices_are_thick_and_few():
    even = Fingerprint(((1, 1, 1), (2, 1, 1), (3, 1, 1)), ((100, 200, 200),) * 3)
    assert target_spacing(even) == (2, 1, 1)
    sizes = ((5.0, 1, 1), (6.0, 1, 1), (10.0, 1, 1))
    few, many = Fingerprint(sizes, ((20, 200, 200),) * 3), Fingerprint(sizes, ((90, 200, 200),) * 3)
    assert target_spacing(few) == pytest.approx((np.percentile([5, 6, 10], 10), 1, 1))  # 5.2
    assert target_spacing(many) == (6, 1, 1)
    # A fifth of the volumes has thin slices, with a 10th percentile of 0.8: the plane's pixels are the limit.
    thin = Fingerprint(((0.4, 1, 1), (0.8, 1, 1), *[(4.0, 1, 1)] * 9), ((20, 200, 200),) * 11)
    assert target_spacing(thin) == pytest.approx((1, 1, 1), abs=1e-4)


def test_feature_maps_are_counted_convolution_by_convolution():
    # 8 x 8: 64 pixels of 32 channels, 16 of 64. Down 2 x (2048 + 1024), up 2 x 2048, transposed 2048, logits 2 x 64.
    layout = layout_of((8, 8))
    assert layout.channels() == (32, 64)
    assert feature_values((8, 8), layout, classes=2) == 6144 + 4096 + 2048 + 128
