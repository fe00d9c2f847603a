"""Tiles of brains whose maps of tissues are made: what they hold, and that the set says so."""

import numpy as np
import pytest
from two_domains import cut_here
from unmapped_brains import GREY, head, lesion, recipe_of_heads, write_heads

from metgan_dist.errors import UserError
from metgan_dist.lineage.records import Records
from metgan_dist.lineage.volumes import located, volume_links
from metgan_dist.tiles.survey import check_volumes


def test_tiles_hold_the_made_tissue_under_the_lesion_and_the_manifest_says_of_which_volumes(tmp_path, capsys):
    tiles = cut_here(recipe_of_heads(write_heads(tmp_path / "heads")), tmp_path / "tiles")
    assert "of 2 of 2 volume(s) ('s', ...) the tissue is told apart by k-means" in capsys.readouterr().out
    assert tiles.manifest["data"]["tissue_map"] == "kmeans"
    assert tiles.made_tissue == {"s": "kmeans", "h": "kmeans"}
    rows = tiles.index[tiles.index["volume"] == "s"].sort_values("z0").index
    label = np.stack([tiles.load(row)["label"] for row in rows])
    assert ((label == GREY + 1) == (lesion() > 0)).all()
    assert (label == np.where(lesion(), GREY + 1, head())).mean() > 0.95
    assert [link.facts["tissue"] for link in volume_links(tiles)] == ["made of its image by kmeans"] * 2
    assert set(located(tiles, Records([], None), "tiles", str(tmp_path / "heads"))) == {"s", "h"}


def test_volumes_that_are_not_prepared_as_a_whole_are_refused(tmp_path):
    folder = write_heads(tmp_path / "heads")
    with pytest.raises(UserError, match=r"data\.tissue_map: tells tissue apart in volumes as a whole; set tiles\.grid"):
        check_volumes(recipe_of_heads(folder, grid=None))
