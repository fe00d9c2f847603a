import numpy as np
import pytest

from metgan_dist.errors import UserError
from metgan_dist.recipe import Tiles
from metgan_dist.tiles.intensity import Histogram, intensity_range, invert, normalise
from metgan_dist.tiles.ranges import check_volume, range_of


@pytest.fixture
def pixels():
    return np.random.default_rng(0).gamma(2.0, 300.0, 50_000)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16"])
@pytest.mark.parametrize("percent", [0, 0.5, 50, 99.8, 100])
def test_integer_percentiles_equal_numpy_exactly_however_blocks_are_split(pixels, dtype, percent):
    info = np.iinfo(dtype)
    values = np.clip(pixels - 200, info.min, info.max).astype(dtype)
    merged = Histogram.merge([Histogram.of(part) for part in np.array_split(values, 7)])
    assert merged.pixels == len(values)
    assert merged.percentile(percent) == np.percentile(values, percent, method="inverted_cdf")


def test_float_percentiles_are_within_the_stated_rank_error(pixels):
    values = pixels.astype(np.float32)
    merged = Histogram.merge([Histogram.of(part) for part in np.array_split(values, 2)])
    assert merged.pixels == pytest.approx(len(values))
    for percent in (0.5, 50, 99.8):
        low, high = np.percentile(values, [percent - 0.01, percent + 0.01])
        assert low <= merged.percentile(percent) <= high
    assert (merged.values[0], merged.values[-1]) == (values.min(), values.max())


def test_merging_very_many_different_values_keeps_ends_and_counts():
    parts = [Histogram.of(np.random.default_rng(seed).random(16_000)) for seed in range(40)]
    merged = Histogram.merge(parts)
    assert len(merged.values) <= 2**18
    assert merged.pixels == pytest.approx(640_000)
    assert merged.percentile(50) == pytest.approx(0.5, abs=0.005)
    assert merged.values[0] == min(part.values[0] for part in parts)
    assert merged.values[-1] == max(part.values[-1] for part in parts)


def test_normalise_maps_the_range_to_its_ends_and_can_be_undone():
    image = np.array([[100, 600], [1100, 350]], np.uint16)
    scaled = normalise(image, 100, 1100, clip=True)
    np.testing.assert_allclose(scaled, [[-1, 0], [1, -0.5]], atol=1e-6)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(invert(scaled, 100, 1100), image, rtol=1e-5)


def test_sixteen_bit_values_survive_the_round_trip():
    image = np.arange(65536, dtype=np.uint16)
    back = invert(normalise(image, 12.0, 65000.0, clip=False), 12.0, 65000.0)
    assert (np.rint(back) == image).all()


def test_clipping_is_counted_as_it_happens():
    image = np.arange(1000, dtype=np.uint16)
    histogram = Histogram.of(image)
    low, high = intensity_range(histogram, "percentile", (0.5, 99.8))
    outside = (np.abs(normalise(image, low, high, clip=False)) > 1).mean()
    assert histogram.fraction_outside(low, high) == pytest.approx(outside)
    assert 0.005 < outside < 0.008


def test_no_normalisation_changes_nothing():
    image = np.array([[-0.5, 0.25]], np.float32)
    low, high = intensity_range(Histogram.of(image), "none", (0.5, 99.8))
    np.testing.assert_allclose(normalise(image, low, high, clip=False), image, atol=1e-7)


def test_a_constant_volume_names_itself_and_a_constant_tile_is_background():
    constant = Histogram.of(np.full((4, 4), 7, np.uint16))
    with pytest.raises(UserError, match="volume 'brain-3': its tumour channel is 7 everywhere"):
        check_volume([constant, constant], Tiles(), "brain-3", "tumour")
    low, high = range_of(constant, Tiles())
    assert (normalise(np.full(3, 7, np.uint16), low, high, clip=True) == -1).all()


def test_percentiles_on_one_value_name_the_field():
    pixels = np.zeros(10_000, np.uint16)
    pixels[:5] = 100
    with pytest.raises(UserError, match=r"tiles.percentiles: 0.5 and 99.8 % .* 'v' are both 0"):
        check_volume([Histogram.of(pixels)], Tiles(), "v", "anatomy")
