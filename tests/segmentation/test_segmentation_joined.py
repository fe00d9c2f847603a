"""A lesion is counted once however many tiles show it: on a volume with known lesions, at every stride."""

import numpy as np
import pandas as pd
import pytest
from tile_sets import HIGH, write_cut

from metgan_dist.methods.segmentor import Segmentor, SegmentorNetwork
from metgan_dist.recipe import Tiles
from metgan_dist.scores.volumes import VolumeCounts
from metgan_dist.segmentation import cells as cells_module
from metgan_dist.segmentation.cells import score_cells
from metgan_dist.segmentation.scoring import COUNTS, FoldScores, joined
from metgan_dist.segmentation.summary import markdown, summarise
from metgan_dist.segmentation.volumes import volume_table, voxel_sizes
from metgan_dist.tiles.mosaic import mosaic
from metgan_dist.tiles.tile_set import TileSet


class Brightness(SegmentorNetwork):
    """Finds what is bright: the prediction of a pixel does not depend on where a tile was cut."""

    def forward(self, image):
        return 8 * image


@pytest.fixture(autouse=True)
def finds_what_is_bright(monkeypatch):
    network = Brightness(width=1 / 16)
    monkeypatch.setattr(cells_module, "load_method", lambda uri, options: (Segmentor(network), None))


# (y, x, edge, bright, labelled) on each plane, each of them in several tiles, some across the borders of all strides.
SQUARES = [
    (2, 2, 3, True, True),
    (30, 29, 5, True, True),
    (20, 60, 9, True, True),
    (60, 20, 7, False, True),
    (61, 61, 6, False, True),
    (10, 40, 4, True, False),
    (70, 2, 8, True, False),
]
FOUND, MISSED, FALSE = 3, 2, 2


def squares(planes, depth=1):
    """(tumour, label) of `planes` planes of 96 x 96 with the squares on `depth` planes, then as many without."""
    tumour, label = np.zeros((planes, 96, 96)), np.zeros((planes, 96, 96), np.uint8)
    for first in range(0, planes, 2 * depth):
        for y, x, edge, bright, labelled in SQUARES:
            here = (slice(first, first + depth), slice(y, y + edge), slice(x, x + edge))
            tumour[here] = HIGH * bright
            label[here] = labelled
    return tumour, label


def scored(tmp_path, tumour, label, rules, cell_pixels=2**22):
    tiles = write_cut(tmp_path, tumour, label, Tiles.model_validate(rules))
    places, cells = mosaic(tiles.index, tiles.shape, tiles.positions("test"), cell_pixels)
    tables = joined(places, score_cells("", tiles.uri, cells, None))
    return FoldScores(**{name: table.assign(fold=0) for name, table in tables.items()})


def numbers(fold_scores):
    summary = summarise(fold_scores, 3, "")
    strata = summary["strata"]["area"]
    keys = ("low", "high", "lesions", "recall")
    return {
        **{name: summary[name]["mean"] for name in (*COUNTS, "voxel_dice")},
        "lesions": summary["lesions"],
        "strata": [tuple(group[key] for key in keys) for group in strata.values()],
        "areas": sorted(fold_scores.lesions["area"]),
    }


@pytest.mark.parametrize(
    ("rules", "cell_pixels"), [({"kind": "slice"}, 2500), ({"kind": "projection", "depth": 2}, 2**22)]
)
def test_counts_and_strata_do_not_depend_on_the_stride(tmp_path, rules, cell_pixels):
    found = {}
    for stride in (32, 8):
        tumour, label = squares(2 * rules.get("depth", 1), rules.get("depth", 1))
        tiles = {**rules, "size": 32, "stride": stride}
        found[stride] = scored(tmp_path / str(stride), tumour, label, tiles, cell_pixels)
    assert len(found[8].tiles) > 8 * len(found[32].tiles)
    one, other = (numbers(own) for own in found.values())
    assert one == other
    assert one["lesions"] == FOUND + MISSED
    assert [one[name] for name in COUNTS] == [FOUND, MISSED, FOUND, FALSE]
    assert one["areas"] == sorted([edge**2 for *_, edge, _, labelled in SQUARES if labelled])
    assert found[8].places["unit"].unique().tolist() == ["slab" if "depth" in rules else "plane"]


def test_crops_are_joined_in_their_volume(tmp_path):
    found = {}
    for part in (1, 4):
        tumour, label = squares(12, depth=6)
        rules = {"kind": "crop", "size": [8, 32, 32], "stride": [8 // part, 32 // part, 32 // part], "edge": "pad"}
        found[part] = numbers(scored(tmp_path / str(part), tumour, label, rules, 60_000))
    assert found[1] == found[4]
    assert found[4]["lesions"] == FOUND + MISSED
    assert [found[4][name] for name in COUNTS] == [FOUND, MISSED, FOUND, FALSE]
    assert max(found[4]["areas"]) == 6 * 9**2


def test_resized_tiles_are_joined_on_the_resized_grid(tmp_path):
    tumour, label = squares(2)
    rules = {"kind": "slice", "size": 48, "resize": 32, "stride": 12}
    found = numbers(scored(tmp_path, tumour, label, rules))
    assert found["lesions"] == FOUND + MISSED
    assert [found[name] for name in COUNTS] == [FOUND, MISSED, FOUND, FALSE]


def test_what_no_tile_covers_is_not_counted_and_a_cut_lesion_is_one(tmp_path):
    tumour, label = squares(2)
    tiles = write_cut(tmp_path, tumour, label, Tiles.model_validate({"kind": "slice", "size": 32, "stride": 8}))
    # The lesion at y = 20, x = 60 reaches from 60 to 69; these end at 64.
    rows = np.flatnonzero((tiles.index["x1"] <= 64) & (tiles.index["y1"] <= 40))
    places, cells = mosaic(tiles.index, tiles.shape, rows)
    lesions = joined(places, score_cells("", tiles.uri, cells, None))["lesions"]
    assert sorted(lesions["area"]) == [3**2, 5**2, 9 * 4]


def test_probabilities_are_averaged_before_they_are_cut(tmp_path):
    tumour = np.zeros((1, 32, 48))
    tiles = write_cut(tmp_path, tumour, tumour, Tiles.model_validate({"kind": "slice", "size": 32, "stride": 16}))
    places, cells = mosaic(tiles.index, tiles.shape, np.arange(len(tiles.index)))
    chances = {0: 0.9, 1: 0.2}

    class Differing(SegmentorNetwork):
        def probabilities(self, image):
            rows = [chances[0], chances[1]]
            return image * 0 + np.reshape(rows, (-1, 1, 1, 1)).astype(np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells_module, "load_method", lambda uri, options: (Segmentor(Differing(width=1 / 16)), None))
        tables = joined(places, score_cells("", tiles.uri, cells, None))
        assert tables["places"]["size_1"].tolist() == [32 * 32]  # 0.55 where both lie, 0.9 left, 0.2 right
        chances[1] = 0.05
        tables = joined(places, score_cells("", tiles.uri, cells, None))
        assert tables["places"]["size_1"].tolist() == [32 * 16]
        assert tables["places"]["false_positives"].tolist() == [1]


def test_tables_have_their_columns_where_there_is_nothing(tmp_path):
    empty = np.zeros((1, 32, 32))
    found = scored(tmp_path, empty, empty, {"kind": "slice", "size": 32})
    assert {"place", "label", "lesion", "area", "brightness", "found"} <= set(found.lesions)
    assert len(found.lesions) == 0
    assert pd.api.types.is_integer_dtype(found.lesions["area"])
    assert found.scores(0)["dice"] == 1


def crops(tmp_path, spacing=None, unit=None):
    """What is found in the volume of `squares(12, depth=6)`, cut into crops that overlap, and its tiles."""
    tumour, label = squares(12, depth=6)
    rules = {"kind": "crop", "size": [8, 32, 32], "stride": [4, 16, 16], "edge": "pad"}
    found = scored(tmp_path, tumour, label, rules, 60_000)
    tiles = TileSet.open(str(tmp_path))
    if spacing is not None:
        for axis, edge in zip("zyx", spacing, strict=True):
            tiles.index[f"spacing_{axis}"] = edge
        tiles.manifest["volumes"][0]["unit"] = unit
    return found, tiles, VolumeCounts.of(tumour > 0, label)


@pytest.mark.parametrize(("spacing", "unit", "voxel"), [(None, None, 1), ((2, 0.5, 0.5), "millimeter", 5e-4)])
def test_scores_by_volume_are_those_of_the_whole_masks_whatever_the_crops(tmp_path, spacing, unit, voxel):
    found, tiles, whole = crops(tmp_path, spacing, unit)
    voxels = voxel_sizes(tiles, tiles.positions("test"))
    assert voxels == ({} if spacing is None else {"v0": pytest.approx(voxel)})
    (row,) = volume_table(found, voxels).to_dict("records")
    assert (row["volume"], row["lesions"], row["voxels"]) == ("v0", FOUND + MISSED, whole.true)
    expected = whole.scores(None if spacing is None else voxel)
    assert {name: row[name] for name in expected} == pytest.approx(expected, nan_ok=True)
    summary = summarise(found, 3, "1 volume", voxels)
    own = summary["volumes"]
    assert (own["volumes"], own["without_lesions"]) == (1, 0)
    assert own["unit"] == ("voxels" if spacing is None else "ml")
    assert own["f1"]["mean"] == pytest.approx(2 * FOUND / (2 * FOUND + FALSE + MISSED))
    assert "false_positive_volume" not in own
    text = markdown("t", summary)
    assert f"Volume difference ({own['unit']})" in text
    assert "By volume: means over 1 volumes, 0 of them without lesions" in text


def test_a_volume_without_lesions_is_told_by_what_is_found_in_it(tmp_path):
    tumour, label = squares(12, depth=6)
    rules = {"kind": "crop", "size": [12, 96, 96]}
    found = scored(tmp_path, tumour, np.zeros_like(label), rules)
    summary = summarise(found, 3, "1 volume")
    assert summary["volumes"]["without_lesions"] == 1
    assert summary["volumes"]["false_positive_volume"]["mean"] == np.count_nonzero(tumour)
    assert "False-positive volume (voxels)" in markdown("t", summary)


def test_planes_have_no_scores_by_volume(tmp_path):
    found = scored(tmp_path, *squares(4), {"kind": "slice", "size": [48]})
    assert not len(volume_table(found, {}))
    assert "volumes" not in summarise(found, 3, "")
