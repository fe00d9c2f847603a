"""Orders by blocks and windows: every tile once, whole blocks for each rank, mixed as well as a full shuffle mixes."""

import itertools

import numpy as np
import pytest
from scipy.stats import kstest

from metgan_dist.tiles.permutation import permuted
from metgan_dist.tiles.windows import BLOCK, tiles_of, window_end, windowed


def epoch_of(count, window, words=(3, 1)):
    return windowed(np.arange(count), count, window, words)


@pytest.mark.parametrize("window", [1, 16, 32, 80, 100, 1000])
def test_every_tile_comes_once_however_many_there_are(window):
    for count in (*range(1, 70), 255, 256, 257, 1023, 4099):
        assert (np.sort(epoch_of(count, window)) == np.arange(count)).all(), count


def test_any_place_is_found_without_the_others():
    whole = epoch_of(5003, 320)
    for places in (np.arange(4000, 5003), np.array([5002, 17, 17, 3000])):
        np.testing.assert_array_equal(windowed(places, 5003, 320, (3, 1)), whole[places])
    assert windowed(np.array([10**8, 5]), 10**8 + 1, 4096, (0, 0)).max() <= 10**8


def test_epochs_seeds_and_further_words_give_other_orders():
    orders = [epoch_of(4099, 320, words) for words in ((1, 0), (1, 1), (2, 0), (1, 0, 2))]
    for one, other in itertools.combinations(orders, 2):
        assert (one == other).mean() < 0.01


def test_a_window_is_so_many_blocks_of_neighbours_from_anywhere():
    count, window = 4096, 512
    for part in epoch_of(count, window).reshape(-1, window):
        rows = np.sort(part)
        runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
        # Neighbouring blocks may meet in a window, and one goes round the end.
        assert sum(len(run) % BLOCK == 0 for run in runs) >= len(runs) - 2
        assert len(runs) > 20
        assert rows[-1] - rows[0] > count / 2


@pytest.mark.parametrize(("world", "batch"), [(1, 4), (2, 1), (3, 2), (4, 4)])
def test_a_rank_gets_whole_blocks_where_they_divide_among_the_batches(world, batch):
    count, window = 48 * BLOCK * 5, 48 * BLOCK
    order = epoch_of(count, window)
    for rank in range(world):
        taken = order.reshape(-1, world, batch)[:, rank].reshape(5, -1)
        for part in taken:
            rows = np.sort(part)
            assert (np.diff(rows) == 1).mean() >= (BLOCK - 1) / BLOCK - 2 / len(rows)


def test_tiles_of_a_block_come_in_an_order_of_their_own():
    count, window = 1600, 320
    turns = [windowed(np.arange(k, window, window // BLOCK), count, window, (0, 0)) for k in range(window // BLOCK)]
    orders = {tuple((rows - rows.min()).tolist()) for rows in turns if rows.max() - rows.min() == BLOCK - 1}
    assert len(orders) >= window // BLOCK - 1
    assert tuple(range(BLOCK)) not in orders


@pytest.mark.parametrize("window", [256, 1024, 4096])
def test_neighbours_in_the_stream_are_as_far_apart_in_the_source_as_in_a_full_shuffle(window):
    """The stated bound: over an epoch the mean distance is within 3 % of a full shuffle's, a third of the set, and the
    largest difference of the two distributions of distances below 0.03; so for all neighbours within a batch of 8.
    """
    count = 50_000
    order, full = epoch_of(count, window), permuted(np.arange(count), count, (3, 1))
    for apart in range(1, 8):
        ours, theirs = (np.abs(one[apart:] - one[:-apart]) for one in (order, full))
        assert ours.mean() == pytest.approx(count / 3, rel=0.03)
        assert kstest(ours, theirs).statistic < 0.03
        # Neighbourhoods meet by chance, and where a window ends and a batch is of two.
        assert (ours < BLOCK).mean() < 3 * BLOCK / count + 2 / window


def test_over_epochs_every_tile_comes_early_and_late_alike():
    """Mean place of each tile over 600 epochs: as far from the middle as chance has it for a full shuffle."""
    count, epochs = 203, 600
    places = np.zeros(count)
    for epoch in range(epochs):
        places[epoch_of(count, 64, (5, epoch))] += np.arange(count)
    spread = count / np.sqrt(12 * epochs)
    assert np.abs(places / epochs - (count - 1) / 2).max() < 5 * spread


def test_windows_end_where_their_blocks_do_and_at_the_end_of_an_epoch():
    assert (tiles_of(5), tiles_of(47), tiles_of(48)) == (16, 32, 48)
    assert [window_end(position, 100, 48) for position in (0, 47, 48, 95, 96, 99, 100, 147, 148)] == [
        *(48, 48, 96, 96, 100, 100),
        *(148, 148, 196),
    ]
