"""Orders of 0..N-1 in which any place is found without the others: in time and memory that do not grow with N.

A Feistel network over the fewest bits that hold N is a bijection of 0..2**bits-1, whatever its round function is. A
number that it sends to N or beyond is sent on until it comes to lie below N (cycle walking), which leaves a bijection
of 0..N-1. At least half of all numbers lie below N, so it takes fewer than two walks on average.

Orders of few numbers are numpy's permutations, drawn whole: so they were before there was another way, and the runs
that are on record follow them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DRAWN_WHOLE = 2**16
"""Up to so many numbers numpy draws the order, in about a millisecond and half a MiB: more than sets on record have."""

# Twice the four that make a network of random round functions a strong pseudorandom permutation (Luby, Rackoff 1988).
ROUNDS = 8


def permuted(places: np.ndarray, count: int, words: Sequence[int]) -> np.ndarray:
    """What lies at some places of an order of 0..count-1.

    Args:
        places: int64 (N,), each in 0..count-1, in any order.
        count: how many numbers there are, 1 or more.
        words: non-negative numbers that the order follows from, such as seed and epoch.

    Returns:
        int64 (N,), in 0..count-1; different where the places are.
    """
    if count <= DRAWN_WHOLE:
        # From all words, not from one generator that is drawn on: any epoch is found without those before it.
        return np.random.Generator(np.random.PCG64(list(words))).permutation(count)[places]
    return walked(places, count, words)


def walked(places: np.ndarray, count: int, words: Sequence[int]) -> np.ndarray:
    """As `permuted`, by the Feistel network however few numbers there are."""
    bits = max(2, (count - 1).bit_length())
    keys = np.random.SeedSequence(list(words)).generate_state(ROUNDS, np.uint64)
    numbers = _sent(np.asarray(places, np.uint64), bits, keys)
    while (outside := numbers >= count).any():
        numbers[outside] = _sent(numbers[outside], bits, keys)
    return numbers.astype(np.int64)


def mixed(numbers: np.ndarray) -> np.ndarray:
    """uint64 numbers (...) whose every bit depends on all bits of the given ones: the finaliser of SplitMix64.

    Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _sent(numbers: np.ndarray, bits: int, keys: np.ndarray) -> np.ndarray:
    """The Feistel network on numbers of so many bits; where these are odd, the upper half is the smaller one."""
    low = np.uint64(bits - bits // 2)
    of_low, of_high = (np.uint64(2**size - 1) for size in (bits - bits // 2, bits // 2))
    upper, lower = numbers >> low, numbers & of_low
    for change_upper, change_lower in keys.reshape(-1, 2):
        upper = upper ^ (mixed(lower ^ change_upper) & of_high)
        lower = lower ^ (mixed(upper ^ change_lower) & of_low)
    return (upper << low) | lower
