import numpy as np
import pytest

from metgan_dist.recipe import Tiles
from metgan_dist.tiles import brain_dwi, cardiac
from metgan_dist.tiles.intensity import Histogram, normalise
from metgan_dist.tiles.ranges import range_of


def test_brain_intensities_are_clipped_at_the_99_5th_percentile_in_both_ranges():
    pixels = np.arange(2000, dtype=np.uint16)
    low, high = range_of(Histogram.of(pixels), Tiles(modality="brain-dwi"))
    assert (low, high) == (0.0, np.percentile(pixels, 99.5, method="inverted_cdf"))
    gan = normalise(pixels, low, high, clip=True)
    unet = brain_dwi.unet_range(gan)
    assert (gan.min(), gan.max(), unet.min(), unet.max()) == (-1, 1, 0, 1)
    np.testing.assert_allclose(unet, np.clip(pixels / high, 0, 1), atol=1e-6)


def test_the_heart_centre_is_that_of_all_labels_however_the_volume_is_read():
    label = np.zeros((20, 30, 40), np.uint8)
    label[4:8, 10:20, 30:40] = 3
    parts = [((a, a + 5), (b, b + 15), (0, 40)) for a in range(0, 20, 5) for b in (0, 15)]
    read = lambda part: label[tuple(slice(*span) for span in part)]  # noqa: E731
    assert cardiac.heart_centre(read, parts) == pytest.approx((6.0, 15.0, 35.0))
    assert cardiac.heart_centre(lambda part: read(part) * 0, parts) is None


def test_a_heart_crop_states_what_is_missing_at_the_edge():
    # 0.75 mm voxels: 1.5 mm is 2 voxels, so 86 x 112 x 112 is 172 x 224 x 224 voxels.
    region, pad = cardiac.crop_region((50.0, 300.0, 500.0), (300, 600, 600), (2.0, 2.0, 2.0))
    assert region == ((0, 136), (188, 412), (388, 600))
    assert pad == ((36, 0), (0, 0), (0, 12))


def test_a_heart_crop_has_the_papers_shape_and_air_outside_the_scan():
    voxels = np.full((136, 224, 212), 100, np.int16)
    voxels[0, 0, 0] = -1000
    crop = cardiac.preprocess(voxels, ((36, 0), (0, 0), (0, 12)), is_label=False)
    assert crop.shape == (86, 112, 112)
    assert crop[5, 50, 50] == pytest.approx(-1000)
    assert crop[60, 50, 50] == pytest.approx(100)
    label = cardiac.preprocess((voxels > 0).astype(np.uint8), ((36, 0), (0, 0), (0, 12)), is_label=True)
    assert not label[5].any()
    assert label[60, 50, 50] == 1


def test_ct_has_a_window_and_mr_its_percentiles():
    pixels = Histogram.of(np.arange(-1000, 2000, dtype=np.int16))
    assert range_of(pixels, Tiles(modality="cardiac-ct")) == cardiac.CT_WINDOW
    assert range_of(pixels, Tiles(modality="cardiac-mr"))[0] == pixels.percentile(0.5)
    assert range_of(pixels, Tiles(modality="cardiac-ct", normalise="minmax")) == (-1000, 1999)
