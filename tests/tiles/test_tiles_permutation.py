"""Orders that are bijections, look random, and give any place without the others."""

import tracemalloc

import numpy as np
import pytest
from scipy.stats import chi2

from metgan_dist.tiles import permutation
from metgan_dist.tiles.permutation import DRAWN_WHOLE, permuted, walked

LARGE = DRAWN_WHOLE + 1


@pytest.mark.parametrize("order", [permuted, walked])
def test_every_number_comes_once_however_many_there_are(order):
    for count in (*range(1, 66), 127, 129, 255, 257, 1000, 4097, 65535, 65536, 65537, 100_003):
        assert (np.sort(order(np.arange(count), count, (3, 1))) == np.arange(count)).all(), count


def test_few_numbers_are_ordered_as_they_always_were():
    """The order of earlier versions, which recorded runs follow: numpy's permutation of the rows themselves."""
    rows = np.arange(1000, 1000 + 7 * DRAWN_WHOLE, 7)
    for words in ((5, 0), (5, 3), (5, 3, 2)):
        drawn = np.random.Generator(np.random.PCG64(list(words))).permutation(rows)
        assert (rows[permuted(np.arange(len(rows)), len(rows), words)] == drawn).all()
    # As numpy drew them when this was written: another numpy must not draw others.
    assert permuted(np.arange(8), 8, (3, 1)).tolist() == FIRST_EIGHT
    assert permuted(np.arange(4), LARGE, (3, 1)).tolist() == FIRST_FOUR


def test_any_place_is_found_without_the_others():
    for count in (50, LARGE, 10**8, 2**40 + 9):
        places = np.array([count - 1, 0, count // 2, 7])
        alone = [int(permuted(places[k : k + 1], count, (1, 2))[0]) for k in range(4)]
        assert permuted(places, count, (1, 2)).tolist() == alone
        assert len(set(alone)) == 4
        assert max(alone) < count


def test_neither_memory_nor_work_grow_with_the_numbers(monkeypatch):
    """Of a billion numbers as of a hundred thousand: so much memory as the places take, and two walks each at most."""
    places, sent = np.arange(4096), []
    network = permutation._sent
    monkeypatch.setattr(
        permutation, "_sent", lambda numbers, *rest: sent.append(len(numbers)) or network(numbers, *rest)
    )
    for count in (LARGE, 10**9 + 1):
        sent.clear()
        tracemalloc.start()
        permuted(places, count, (0, 0))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 30 * places.nbytes
        assert sum(sent) < 2.2 * len(places)


def test_epochs_seeds_and_further_words_give_other_orders():
    places = np.arange(2000)
    orders = [permuted(places, LARGE, words) for words in ((1, 0), (1, 1), (2, 0), (1, 0, 2))]
    for number, one in enumerate(orders):
        for other in orders[:number]:
            assert (one == other).sum() < 5  # in chance 2000 / LARGE


def test_the_network_spreads_numbers_evenly():
    """Chi-square of where places go, and of what lies beside what, within bounds that chance passes once in 10,000."""
    count, cells = 100_003, 20
    for epoch in range(5):
        order = walked(np.arange(count), count, (11, epoch))
        cell = order * cells // count
        # Of the first half of the places: a share of each cell, drawn without replacement.
        half = np.bincount(cell[: count // 2], minlength=cells)
        expected = count / 2 / cells
        assert ((half - expected) ** 2 / (expected / 2)).sum() < chi2.ppf(0.9999, cells - 1)
        pairs = np.bincount(cell[:-1] * cells + cell[1:], minlength=cells**2)
        expected = (count - 1) / cells**2
        assert ((pairs - expected) ** 2 / expected).sum() < chi2.ppf(0.9999, cells**2 - 1)


def test_over_many_epochs_every_number_visits_every_place():
    """Of 13 numbers, 13 places and 2600 epochs, by the network: chi-square of all pairs."""
    seen = np.zeros((13, 13))
    for epoch in range(2600):
        seen[np.arange(13), walked(np.arange(13), 13, (4, epoch))] += 1
    assert ((seen - 200) ** 2 / 200).sum() < chi2.ppf(0.9999, 12 * 12)


FIRST_EIGHT = [2, 1, 4, 0, 5, 7, 6, 3]
FIRST_FOUR = [17456, 53519, 40531, 23758]
