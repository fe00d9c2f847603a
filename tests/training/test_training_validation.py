"""Scores of several ranks are those of one, and the tiles that are looked at are always the same ones."""

import numpy as np
import pytest
import torch

from metgan_dist.training.validation import Scored, chosen_rows


def test_scores_of_two_ranks_join_to_those_of_one():
    random = np.random.default_rng(0)
    mae = random.random(7)
    label = torch.from_numpy(random.integers(0, 2, (7, 8, 8)))
    found = torch.from_numpy(random.integers(0, 2, (7, 8, 8)))
    parts = []
    for rows in (range(7), range(0, 7, 2), range(1, 7, 2)):
        scored = Scored()
        for row in rows:
            scored.add([row], {"mae": mae[[row]]})
            scored.count(found[[row]], label[[row]], 2)
        parts.append(scored)
    whole, *ranks = parts
    joined = ranks[0].joined(ranks[1:])
    assert joined.rows == list(range(7))
    assert joined.per_tile == whole.per_tile
    assert joined.summary("dice") == whole.summary("dice")
    overlap = 2 * ((label == 1) & (found == 1)).sum() / ((label == 1).sum() + (found == 1).sum())
    assert joined.summary("dice")["dice"] == pytest.approx(float(overlap), abs=1e-6)


def test_a_rank_without_tiles_takes_nothing_away():
    scored = Scored()
    scored.add([0], {"mae": np.array([0.5])})
    assert scored.joined([Scored()]).per_tile == {"mae": [0.5]}


def test_chosen_rows_are_few_spread_and_stable():
    rows = np.arange(100, 200)
    chosen = chosen_rows(rows, 4)
    assert chosen.tolist() == [100, 133, 166, 199]
    assert chosen_rows(rows, 1000).tolist() == rows.tolist()
