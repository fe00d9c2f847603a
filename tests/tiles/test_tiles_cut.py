import numpy as np
import pytest

from metgan_dist.recipe import Tiles
from metgan_dist.tiles.blocks import plan_blocks
from metgan_dist.tiles.cut import cut_block, cut_volume, finish, resample
from metgan_dist.tiles.geometry import plan_tiles

SHAPE = (20, 33, 41)


@pytest.fixture(params=["uint16", "int16", "float32"])
def volume(request):
    random = np.random.default_rng(0)
    # Signed types get negative values only: a maximum that starts from zero would show.
    values = random.integers(1, 60000, SHAPE) if request.param == "uint16" else -random.integers(1, 30000, SHAPE)
    return {"anatomy": values.astype(request.param), "label": random.integers(0, 4, SHAPE).astype(np.uint8)}


def cut(volume, tiles, chunks=(4, 8, 16), limit=2000):
    plans = plan_tiles(tiles, "v", SHAPE)
    blocks = plan_blocks(plans, SHAPE, chunks, 3, 4000, 2**20)
    dtypes = {role: voxels.dtype for role, voxels in volume.items()}

    def read(role, region):
        return volume[role][tuple(slice(*span) for span in region)]

    for block in blocks:
        tiles_of = cut_block(block, read, dtypes, chunks, limit)
        for number, plan in enumerate(block.plans):
            yield plan, {role: tiles_of[role][number] for role in dtypes}


def test_projections_read_in_pieces_equal_the_maximum_of_their_region(volume):
    seen = 0
    for plan, tile in cut(volume, Tiles(size=(10,), views=("z", "y", "x"))):
        part = tuple(slice(*span) for span in plan.region)
        for role in volume:
            np.testing.assert_array_equal(tile[role], volume[role][part].max(axis="zyx".index(plan.view)))
            assert tile[role].dtype == volume[role].dtype
        seen += 1
    assert seen == 3 * 2 * 4 * 5


@pytest.mark.parametrize("tiles", [Tiles(kind="slice", size=(9,), views=("y",)), Tiles(kind="crop", size=(7, 8, 9))])
def test_slices_and_crops_are_the_voxels_themselves(volume, tiles):
    for plan, tile in cut(volume, tiles):
        part = volume["anatomy"][tuple(slice(*span) for span in plan.region)]
        np.testing.assert_array_equal(tile["anatomy"], part.squeeze())


def test_a_volume_in_memory_is_cut_like_one_on_disk(volume):
    tiles = Tiles(size=(10,), views=("x", "z"))
    expected = {plan.index: tile["anatomy"] for plan, tile in cut(volume, tiles)}
    plans = plan_tiles(tiles, "v", SHAPE)
    for plan, tile in zip(plans, cut_volume(plans, volume)["anatomy"], strict=True):
        np.testing.assert_array_equal(tile, expected[plan.index])


def test_padding_is_zero_and_lies_behind_the_image():
    plan = plan_tiles(Tiles(kind="slice", size=(8,), edge="pad"), "v", (1, 5, 6))[0]
    tile = finish(np.full((5, 6), 7, np.uint16), plan, is_label=False)
    assert tile.shape == (8, 8)
    assert tile.dtype == np.uint16
    assert (tile[:5, :6] == 7).all()
    assert tile.sum() == 7 * 30


def test_resized_labels_keep_their_classes_and_images_their_mean():
    random = np.random.default_rng(1)
    label = (random.integers(0, 2, (30, 30)) * 3).astype(np.uint8)
    image = random.integers(0, 60000, (300, 300)).astype(np.uint16)
    small = resample(label, (16, 16), is_label=True)
    assert small.dtype == np.uint8
    assert set(np.unique(small)) <= {0, 3}
    resized = resample(image, (256, 256), is_label=False)
    assert resized.dtype == np.float32
    assert resized.mean() == pytest.approx(image.mean(), rel=0.01)


def test_halving_an_image_averages_instead_of_picking_pixels():
    stripes = np.tile(np.array([0, 1000], np.uint16), (64, 32))
    halved = resample(stripes, (32, 32), is_label=False)
    assert np.abs(halved[4:-4, 4:-4] - 500).max() < 150
