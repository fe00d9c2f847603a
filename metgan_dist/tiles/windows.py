"""An order of tiles that is read a part of a shard at a time, and still shuffled: for sets in object storage.

In a full shuffle each tile costs requests of its own, for its neighbours in the shard are asked for at other times.
Here the tiles of an epoch are taken in blocks of 16 neighbours, which lie beside each other in their shard. The order
of all blocks of the set is permuted, and so many blocks that follow each other are a window. In it the blocks take
turns: each gives a tile, then each the next one, in an order of its own. So

- tiles that follow each other in the stream are of blocks from anywhere in the set, as in a full shuffle;
- a rank that takes every k-th tile, or every k-th few of them, gets whole blocks wherever the blocks of a window are a
  multiple of the tiles of a global batch, and need not read what other ranks get;
- whoever holds a rank's part of a window reads each of its blocks once.

Blocks begin at another row in each epoch, so that what is neighbours in one of them need not be in the next. All of it
is arithmetic on (seed, epoch, position), of constant time and memory: there is no list of shards or blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metgan_dist.tiles.permutation import mixed, permuted

BLOCK = 16
"""Tiles of a block: what a request fetches at once, and how often in a window the same blocks meet in a batch."""
# Words that keep the draws apart from each other and from those of a full shuffle, of two domains and of augmentation.
BLOCKS, WITHIN = 4, 5


def tiles_of(window: int) -> int:
    """Tiles of a window as it is: whole blocks, one at least."""
    return max(1, window // BLOCK) * BLOCK


def window_end(position: int, count: int, window: int) -> int:
    """The first position of the endless stream over `count` tiles after the window that one lies in."""
    epoch, place = divmod(position, count)
    size = tiles_of(window)
    return epoch * count + min((place // size + 1) * size, count)


def windowed(places: np.ndarray, count: int, window: int, words: Sequence[int]) -> np.ndarray:
    """What lies at some places of an epoch of 0..count-1: `permutation.permuted`, but shuffled by blocks and windows.

    Args:
        places: int64 (N,), each in 0..count-1.
        count: how many tiles there are.
        window: tiles of a window, rounded down to whole blocks.
        words: what the order follows from, such as seed and epoch.

    Returns:
        int64 (N,), in 0..count-1; different where the places are.
    """
    first, key = np.random.SeedSequence([*words, WITHIN]).generate_state(2, np.uint64)
    block, turn = _blocks(places, count, tiles_of(window))
    whole = count // BLOCK
    # A last block that is shorter stays the last: it begins at another row in each epoch, as all do.
    moved = block.copy()
    if whole:
        moved[block < whole] = permuted(block[block < whole], whole, [*words, BLOCKS])
    within = _within(moved, turn, count, key)
    return (int(first % np.uint64(count)) + moved * BLOCK + within) % count


def _blocks(places: np.ndarray, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which block of the permuted ones gives the tile of a place, and its how-manieth tile that is."""
    window, place = np.divmod(places, size)
    here = np.minimum(size, count - window * size)
    blocks = -(-here // BLOCK)
    # As long as the last block of the epoch has tiles, all blocks of its window take turns; then all but it.
    shared = (here - (blocks - 1) * BLOCK) * blocks
    rest, others = place - shared, np.maximum(blocks - 1, 1)
    together = rest < 0
    turn = np.where(together, place // blocks, shared // blocks + rest // others)
    return window * (size // BLOCK) + np.where(together, place % blocks, rest % others), turn


def _within(blocks: np.ndarray, turn: np.ndarray, count: int, key: np.uint64) -> np.ndarray:
    """The tile of each block (N,) at its turn (N,): the order of a block is that of random numbers, one a tile."""
    tiles = blocks[:, None] * BLOCK + np.arange(BLOCK)
    drawn = mixed(mixed(tiles.astype(np.uint64)) ^ key)
    drawn[tiles >= count] = np.iinfo(np.uint64).max
    order: np.ndarray = np.argsort(drawn, axis=1, kind="stable")[np.arange(len(blocks)), turn]
    return order
