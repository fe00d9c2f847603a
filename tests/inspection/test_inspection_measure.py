"""What adds up over voxels, however they are read."""

from __future__ import annotations

import numpy as np
import pytest

from metgan_dist.inspection import measure
from metgan_dist.inspection.measure import LabelValues, intensities, label_values
from metgan_dist.volumes.volume import Volume, whole


class InMemory(Volume):
    """An array (z, y, x) with chunks of some size."""

    def __init__(self, array, chunks):
        self.uri, self.source_axes, self.channels = "memory", "zyx", ("c0",)
        self._array, self.chunks = array, chunks
        self.shape, self.dtype, self.spacing = array.shape, array.dtype, None

    def _read(self, channel, region):
        return self._array[tuple(slice(*span) for span in region)]


def measured(array, chunks=(7, 9, 11)):
    volume = InMemory(array, chunks)
    return intensities(volume, "c0", whole(volume))


@pytest.fixture
def scan():
    return np.random.default_rng(0).integers(-5, 1000, (7, 9, 11)).astype(np.int16)


def test_counts_and_ends(scan):
    scan[2, 3, 4:7] = 4000
    found = measured(scan)
    assert (found.voxels, found.minimum, found.maximum, found.at_maximum) == (scan.size, scan.min(), 4000, 3)
    assert found.clipped == 3 / scan.size
    assert not found.constant


def test_nan_and_infinity_are_counted_and_left_out():
    array = np.array([[[1, np.nan, 3], [np.inf, -np.inf, 3]]], np.float32)
    found = measured(array)
    assert (found.not_finite, found.minimum, found.maximum, found.at_maximum) == (3, 1, 3, 2)


@pytest.mark.parametrize("chunks", [(1, 9, 11), (2, 3, 4), (7, 9, 11)])
@pytest.mark.parametrize("kind", ["i2", "i4", "f4", ">f8"])
def test_the_digest_is_of_values_and_places_and_not_of_how_they_are_stored(scan, chunks, kind, monkeypatch):
    monkeypatch.setattr(measure, "PIECE_BYTES", 100)
    assert measured(scan.astype(kind), chunks) == measured(scan)


def test_another_voxel_or_another_place_is_another_digest(scan):
    moved, changed = scan.copy(), scan.copy()
    moved[0, 0, [0, 1]] = moved[0, 0, [1, 0]]
    changed[6, 8, 10] += 1
    assert scan[0, 0, 0] != scan[0, 0, 1]
    assert len({measured(array).digest for array in (scan, moved, changed, scan[::-1], scan.transpose(0, 2, 1))}) == 5
    assert measured(np.array([[[0.0, 1]]])).digest == measured(np.array([[[-0.0, 1]]])).digest


def test_an_equal_plane_elsewhere_has_the_same_digest(scan):
    scan[5] = scan[1]
    volume = InMemory(scan, (1, 9, 11))
    own, other, third = (intensities(volume, "c0", ((z, z + 1), (0, 9), (0, 11))).digest for z in (1, 5, 2))
    assert own == other != third


def test_label_values_are_counted_with_the_plane_of_the_first(scan):
    label = np.zeros((4, 3, 3), np.uint16)
    label[1, 0, 0], label[2:, :, 1] = 500, 205
    volume = InMemory(label, (2, 3, 3))
    found = label_values(volume, "c0", whole(volume))
    assert found == LabelValues({0: 29, 500: 1, 205: 6}, {0: 0, 500: 1, 205: 2})


def test_an_image_in_place_of_a_label_fills_no_memory(monkeypatch):
    monkeypatch.setattr(measure, "MOST_VALUES", 10)
    volume = InMemory(np.arange(60, dtype=np.int32).reshape(3, 4, 5), (1, 4, 5))
    found = label_values(volume, "c0", whole(volume))
    assert (found.full, len(found.counts)) == (True, 10)
