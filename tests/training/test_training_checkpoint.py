"""Checkpoints that a recipe names."""

from pathlib import Path

import pytest

from metgan_dist.errors import UserError
from metgan_dist.recipe import Recipe
from metgan_dist.trained import check_segmentor


def test_a_segmentor_named_from_here_is_found_by_workers_elsewhere(segmentors, monkeypatch):
    named = Path(segmentors["method__segmentor"])
    monkeypatch.chdir(named.parent)
    assert check_segmentor("method.segmentor", named.name, Recipe()) == str(named)


def test_no_segmentor_where_one_was_named_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no checkpoint here"):
        check_segmentor("method.segmentor", str(tmp_path), Recipe())
