"""OME-Zarr written shard by shard: pyramids with their metadata, read back by zarr and by our own reader."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import zarr

from metgan_dist.errors import UserError
from metgan_dist.volumes import ome_zarr_writer as ome
from metgan_dist.volumes.open import open_volume
from metgan_dist.volumes.volume import Spacing, whole

SHAPE = (5, 21, 34)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 2 x 4 x 8 voxels, shards of up to 1 x 2 x 2 chunks."""
    monkeypatch.setattr(ome, "CHUNK", (2, 4, 8))
    monkeypatch.setattr(ome, "SHARD", (1, 2, 2))


def written(uri, dtype="uint16", spacing=None):
    """An image of random voxels with pyramid and label, written block by block; (image, label, levels)."""
    random = np.random.default_rng(0)
    image, label = random.integers(0, 60000, SHAPE).astype(dtype), random.integers(0, 3, SHAPE).astype(np.uint8)
    levels = ome.plan_levels(SHAPE, spacing)
    ome.create_image(uri, levels, dtype, "lesions", {})
    for level in levels:
        for region in ome.regions(level.shape, ome.chunks_and_shards(level.shape)[1]):
            if level is levels[0]:
                cut = tuple(slice(*span) for span in region)
                ome.write_block(uri, "s0", region, image[cut], {})
                ome.write_block(uri, "labels/lesions/s0", region, label[cut], {})
                continue
            finer = levels[levels.index(level) - 1]
            step = tuple(a // b for a, b in zip(level.factor, finer.factor, strict=True))
            ome.coarsen_block(ome.CoarserJob(uri, "lesions", finer.path, level.path, region, step, {}))
    scales = [
        ome.multiscales(name, levels, spacing, channel_axis=c) for name, c in (("image", True), ("lesions", False))
    ]
    channel = ome.channel("signal", "FF00FF", (0, 900), (0, 65535))
    label_metadata = ome.label_metadata(scales[1], {1: "small", 2: "large"})
    ome.finish_image(uri, ome.image_metadata(scales[0], [channel]), "lesions", label_metadata, {"origin": "here"}, {})
    return image, label, levels


@pytest.mark.parametrize(
    ("spacing", "factors"),
    [
        (None, [(1, 1, 1), (2, 2, 2), (4, 4, 4)]),
        (Spacing(5.0, 2.0, 2.0, "micrometer"), [(1, 1, 1), (1, 2, 2), (2, 4, 4)]),
        (Spacing(1.0, 2.0, 2.0, "micrometer"), [(1, 1, 1), (2, 2, 2), (4, 4, 4)]),
        (Spacing(30.0, 2.0, 3.0, "unknown"), [(1, 1, 1), (1, 2, 2), (1, 4, 4)]),
    ],
)
def test_levels_halve_planes_where_that_makes_voxels_cubic(spacing, factors):
    levels = ome.plan_levels((40, 500, 301), spacing)
    assert [level.factor for level in levels] == factors
    assert [level.path for level in levels] == ["s0", "s1", "s2"]
    for level in levels:
        assert level.shape == tuple(math.ceil(n / f) for n, f in zip((40, 500, 301), level.factor, strict=True))
    assert len(ome.plan_levels((40, 128, 128), spacing)) == 1


@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 160, 200), (33, 1025, 3000), (16, 128, 129)])
def test_shards_are_whole_chunks_of_bounded_size(shape):
    chunks, shards = ome.chunks_and_shards(shape)
    for length, chunk, shard, most, together in zip(shape, chunks, shards, ome.CHUNK, ome.SHARD, strict=True):
        assert chunk == min(length, most)
        assert shard % chunk == 0
        assert shard <= most * together
    voxels = np.zeros(shape, bool)
    for region in ome.regions(shape, shards):
        cut = tuple(slice(*span) for span in region)
        assert not voxels[cut].any()
        voxels[cut] = True
    assert voxels.all()


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_a_pyramid_is_means_of_means_and_its_label_keeps_every_lesion(tmp_path, small_chunks, dtype):
    uri = str(tmp_path / "v.ome.zarr")
    image, label, levels = written(uri, dtype)
    assert len(levels) == 4
    for finer, coarser in itertools.pairwise(levels):
        image, label = (
            np.pad(voxels, [(0, n % 2) for n in voxels.shape], mode="edge") if voxels.shape[0] > 1 else voxels
            for voxels in (image, label)
        )
        step = [a // b for a, b in zip(coarser.factor, finer.factor, strict=True)]
        cells = [part for n, s in zip(coarser.shape, step, strict=True) for part in (n, s)]
        image, label = image.reshape(cells), label.reshape(cells)
        image, label = image.astype(np.float32).mean(axis=(1, 3, 5)), label.max(axis=(1, 3, 5))
        image = image if dtype == "float32" else np.rint(image).astype(dtype)
        read = open_volume(uri, level=coarser.path)
        np.testing.assert_allclose(read.read("signal", whole(read)), image, rtol=1e-6)
        mask = open_volume(f"{uri}/labels/lesions", level=coarser.path)
        np.testing.assert_array_equal(mask.read("c0", whole(mask)), label)


def test_metadata_say_size_place_and_names(tmp_path, small_chunks):
    uri = str(tmp_path / "v.ome.zarr")
    image, label, levels = written(uri, spacing=Spacing(4.0, 2.0, 2.0, "micrometer"))
    volume = open_volume(uri)
    np.testing.assert_array_equal(volume.read("signal", whole(volume)), image)
    np.testing.assert_array_equal(open_volume(f"{uri}/labels/lesions").read("c0", whole(volume)), label)
    assert volume.labels == ("lesions",)
    assert volume.levels == tuple(level.path for level in levels)
    assert volume.spacing == Spacing(4.0, 2.0, 2.0, "micrometer")
    assert open_volume(uri, level="s2").spacing == Spacing(8.0, 8.0, 8.0, "micrometer")
    attributes = zarr.open_group(uri, mode="r").attrs
    assert attributes["origin"] == "here"
    (scales,) = attributes["ome"]["multiscales"]
    # The first coarse voxel along z joins planes 0 and 1, whose centres lie at 0 and 4; along x the voxels 0 to 3.
    assert scales["datasets"][2]["coordinateTransformations"] == [
        {"type": "scale", "scale": [1.0, 8.0, 8.0, 8.0]},
        {"type": "translation", "translation": [0.0, 2.0, 3.0, 3.0]},
    ]
    array = ome.open_level(uri, "s0", {})
    assert (array.chunks, array.shards) == ((1, 2, 4, 8), (1, 2, 8, 16))


def test_a_volume_opens_when_it_is_finished_not_before(tmp_path, small_chunks):
    uri = str(tmp_path / "v.ome.zarr")
    ome.create_image(uri, ome.plan_levels(SHAPE, None), "uint8", "lesions", {})
    with pytest.raises(UserError, match="no multiscales"):
        open_volume(uri)


def test_a_torn_shard_is_written_anew_even_at_the_end_of_the_array(tmp_path, small_chunks):
    uri = str(tmp_path / "v.ome.zarr")
    image, _, _ = written(uri)
    region = ((4, 5), (16, 21), (32, 34))
    file = tmp_path / "v.ome.zarr/s0/c/0/2/2/2"
    file.write_bytes(b"torn")
    ome.write_block(uri, "s0", region, image[4:5, 16:21, 32:34], {})
    np.testing.assert_array_equal(ome.open_level(uri, "s0", {})[0], image)


def test_channels_are_written_and_coarsened_each_by_itself(tmp_path):
    uri, shape = str(tmp_path / "two.zarr"), (2, 4, 6)
    levels = [ome.Level("s0", shape, (1, 1, 1)), ome.Level("s1", (2, 2, 3), (1, 2, 2))]
    ome.create_image(uri, levels, "uint16", "lesions", {}, channels=2)
    image = np.arange(2 * 48, dtype=np.uint16).reshape(2, *shape)
    region = ((0, 2), (0, 4), (0, 6))
    for channel, voxels in enumerate(image):
        ome.write_block(uri, "s0", region, voxels, {}, channel)
    ome.write_block(uri, "labels/lesions/s0", region, np.ones(shape, np.uint8), {})
    job = ome.CoarserJob(uri, "lesions", "s0", "s1", ((0, 2), (0, 2), (0, 3)), (1, 2, 2), {})
    ome.coarsen_block(job)
    np.testing.assert_array_equal(ome.open_level(uri, "s0", {})[:], image)
    expected = np.rint(image.reshape(2, 2, 2, 2, 3, 2).mean(axis=(3, 5)))
    np.testing.assert_array_equal(ome.open_level(uri, "s1", {})[:], expected)
