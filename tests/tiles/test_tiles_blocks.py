import itertools

import numpy as np
import pytest

from metgan_dist.errors import UserError
from metgan_dist.recipe import Tiles
from metgan_dist.tiles.blocks import chunk_reads, pieces, plan_blocks
from metgan_dist.tiles.geometry import plan_tiles

MEMORY = 64 * 2**20


def planned(tiles, shape, chunks, memory=MEMORY, tile=2**12):
    plans = plan_tiles(tiles, "v", shape)
    return plans, plan_blocks(plans, shape, chunks, 5, tile, memory)


@pytest.mark.parametrize(
    ("tiles", "shape", "chunks"),
    [
        (Tiles(size=(300,), views=("z", "y", "x")), (900, 2000, 2000), (64, 128, 128)),
        (Tiles(size=(300,), views=("z", "y", "x")), (600, 1500, 1500), (1, 1500, 1500)),
        (Tiles(size=(64,), depth=64), (64, 512, 512), (32, 64, 64)),
        (Tiles(kind="slice", size=(128,), stride=(64,)), (26, 1116, 627), (1, 1116, 627)),
        (Tiles(kind="slice", size=(256,)), (128, 1024, 1024), (8, 256, 256)),
        (Tiles(kind="slice", size=(100,), views=("y",)), (200, 300, 400), (16, 64, 64)),
        (Tiles(kind="crop", size=(64,)), (256, 512, 512), (64, 128, 128)),
    ],
)
def test_a_chunk_is_read_about_once_and_no_tile_is_lost(tiles, shape, chunks):
    plans, blocks = planned(tiles, shape, chunks)
    read, needed = chunk_reads(blocks, chunks)
    assert read / needed <= 1.2
    assert sorted(plan.index for block in blocks for plan in block.plans) == [plan.index for plan in plans]
    for block in blocks:
        for plan in block.plans:
            assert all(a <= c and d <= b for (a, b), (c, d) in zip(block.box, plan.region, strict=True))


def test_chunk_accounting_by_hand():
    # Two tiles of 6 on a row of chunks of 4: chunks 0, 1 and 1, 2. As two blocks 4 reads of 3 chunks, as one 3.
    tiles = Tiles(kind="slice", size=(6,))
    plans = plan_tiles(tiles, "v", (1, 6, 12))
    one = plan_blocks(plans, (1, 6, 12), (1, 6, 4), 1, 36, MEMORY)
    assert len(one) == 1
    assert chunk_reads(one, (1, 6, 4)) == (3, 3)
    two = plan_blocks(plans, (1, 6, 12), (1, 6, 4), 1, 36, 90)
    assert len(two) == 2
    assert chunk_reads(two, (1, 6, 4)) == (4, 3)


def test_pieces_cover_a_box_once_in_whole_chunks_within_the_limit():
    box, chunks, limit = ((3, 21), (0, 50), (7, 90)), (4, 16, 32), 2 * 4 * 16 * 32 * 3
    count = np.zeros((21, 50, 90), int)
    reads = 0
    for piece in pieces(box, chunks, 2, limit):
        count[tuple(slice(*span) for span in piece)] += 1
        reads += np.prod([(b - 1) // c - a // c + 1 for (a, b), c in zip(piece, chunks, strict=True)])
        assert np.prod([b - a for a, b in piece]) * 2 <= limit
    assert (count[3:21, 0:50, 7:90] == 1).all()
    assert count.sum() == 18 * 50 * 83
    assert reads == 6 * 4 * 3


def test_blocks_stay_within_the_memory_of_a_task():
    _, blocks = planned(Tiles(kind="slice", size=(64,)), (64, 1024, 1024), (8, 128, 128), 16 * 2**20, 64 * 64 * 10)
    assert max(len(block.plans) for block in blocks) * 64 * 64 * 10 <= 12 * 2**20


def test_a_tile_beyond_the_memory_names_the_field():
    with pytest.raises(UserError, match=r"scaling.tile_memory: one tile of volume 'v' takes 40 MiB"):
        planned(Tiles(kind="crop", size=(64,)), (64, 64, 64), (64, 64, 64), MEMORY, 40 * 2**20)


def test_the_plan_does_not_depend_on_the_order_it_is_asked_in():
    tiles = Tiles(size=(30,), views=("z", "x"))
    first, second = (planned(tiles, (60, 90, 90), (16, 16, 16))[1] for _ in range(2))
    assert first == second
    assert all(a.number < b.number for a, b in itertools.pairwise(first))
