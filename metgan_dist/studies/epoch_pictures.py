"""Paper 4's figures 4 to 8, as a study's YAML names their rows and tiles."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from metgan_dist.figures import histograms
from metgan_dist.recipe import class_names
from metgan_dist.runs.open_run import OpenRun
from metgan_dist.segmentation.epoch_figures import Segmented, epoch_boxes, learning_curves, segmented_volumes
from metgan_dist.segmentation.scoring import predict_tiles
from metgan_dist.storage import read_bytes
from metgan_dist.studies.works import Works
from metgan_dist.tiles.tile_set import TileSet, chosen_rows

if TYPE_CHECKING:
    from metgan_dist.studies.epoch_report import Trained

MOST_TILES, MOST_VOXELS = 128, 20_000  # of each set, and of each class of a set: what a distribution is drawn from


def pictures(opened: OpenRun, works: Works, rows: Mapping[str, Trained]) -> dict[str, bytes]:
    """The figures of which a row, or the tiles, are there, by file."""
    study = works.study
    assert study.epochs is not None
    labels = {row.name: row.label for row in study.rows}
    files = {}
    if curves := {labels[name]: rows[name].curves for name in study.epochs.curves if name in rows}:
        files["figure-4.png"] = learning_curves(
            curves, "Test volumes after each epoch, training tiles without augmentation"
        )
    for boxes in study.epochs.boxes:
        groups = {
            group: {labels[name]: rows[name].dice for name in names if name in rows}
            for group, names in boxes.groups.items()
        }
        if groups := {group: values for group, values in groups.items() if values}:
            printed = {
                row.label: study.paper(row)["epoch_dice"] for row in study.rows if "epoch_dice" in study.paper(row)
            }
            files[f"{boxes.name}.png"] = epoch_boxes(groups, printed, boxes.title)
    if drawn := _intensities(works):
        files["figure-6.png"] = drawn
    if shown := [name for name in study.epochs.examples if name in rows]:
        files |= _examples(opened, works, {labels[name]: rows[name] for name in shown})
    return files


def _intensities(works: Works) -> bytes | None:
    """Figure 6: how intensities are distributed, class by class; None while there are no such tiles."""
    study = works.study
    assert study.epochs is not None
    assert study.tiles is not None
    there = {
        what: works.tiles(step) for what, step in study.epochs.intensities.items() if works.result(step) is not None
    }
    if not there:
        return None
    lesions = works.tiles(study.tiles).index.groupby("volume")["foreground"].sum()
    healthy = set(lesions.index[lesions == 0])
    panels: dict[str, dict[str, np.ndarray]] = {}
    for what, tiles in there.items():
        for name, values in by_class(tiles, healthy).items():
            panels.setdefault(name, {})[what] = values
    return histograms(
        panels,
        title="Intensities of voxels, training volumes with a lesion; 1 is the upper end of a volume's range",
        across=4,
    )


def by_class(tiles: TileSet, without: set[str]) -> dict[str, np.ndarray]:
    """Intensities in [0, 1] of voxels of each class (and of all labelled ones) of some training tiles.

    without: volumes that are left out. Tiles and voxels are evenly spaced, and always the same.
    """
    rows = tiles.positions("train", "tumour", "label")
    rows = chosen_rows(rows[~tiles.index["volume"].iloc[rows].isin(without).to_numpy()], MOST_TILES)
    names = class_names(tiles.manifest["data"]["labels"])
    found: dict[str, list[np.ndarray]] = {"all tissues": [], **{name: [] for name in names[1:]}}
    for row in rows:
        tile = tiles.load(int(row))
        image, label = (tile["tumour"][0] + 1) / 2, tile["label"]
        found["all tissues"].append(image[label > 0])
        for number in np.unique(label[label > 0]):
            found[names[number]].append(image[label == number])
    joined = {name: np.concatenate(parts) for name, parts in found.items() if parts}
    return {name: chosen_rows(values, MOST_VOXELS) for name, values in joined.items() if len(values)}


def _examples(opened: OpenRun, works: Works, rows: Mapping[str, Trained]) -> dict[str, bytes]:
    """Figure 8: the test volume with the largest lesion, and the one with most lesions, as the rows segment them."""
    assert works.study.tiles is not None
    tiles = works.tiles(works.study.tiles)
    drawn: dict[str, dict[str, Segmented]] = {}
    for label, one in rows.items():
        artefacts: dict[str, Any] = one.result["artefacts"]
        if "volumes_csv" not in artefacts:
            continue
        fold, checkpoint = next(iter(artefacts["checkpoints"].items()))
        scores = pd.read_csv(io.BytesIO(read_bytes(str(artefacts["volumes_csv"]), opened.recipe.storage.options)))
        scores = scores[(scores["fold"] == int(fold)) & (scores["split"] == "test")]
        chosen = example_tiles(tiles, scores)
        examples = predict_tiles(checkpoint, tiles, list(chosen.values()), opened.plan)
        for name, row in chosen.items():
            dice = float(scores.loc[scores["volume"] == tiles.index["volume"].iloc[row], "dice"].iloc[0])
            drawn.setdefault(name, {})[label] = Segmented(examples[row], dice)
    title = "Found (filled), true (outlined);\nDice of the whole volume"
    return {"figure-8.png": segmented_volumes(drawn, title)} if drawn else {}


def example_tiles(tiles: TileSet, scores: pd.DataFrame) -> dict[str, int]:
    """The test tile of the volume with most labelled voxels, and that of another one with most lesions, by a name.

    scores: with the columns volume, lesions, voxels, of which the truth alone counts. Of several volumes with as many
    lesions it is the one with the smallest, of a volume of several tiles the one that holds most.
    """
    ill = scores[scores["voxels"] > 0].sort_values(["voxels", "volume"], ascending=[False, True])
    others = ill.iloc[1:].sort_values(["lesions", "voxels", "volume"], ascending=[False, True, True])
    rows = tiles.positions("test", "tumour", "label")
    fullest = tiles.index.iloc[rows].sort_values("foreground", ascending=False).drop_duplicates("volume")
    row_of = {volume: int(row) for row, volume in fullest["volume"].items()}
    named = {"largest lesion": ill["volume"].iloc[:1], "most lesions": others["volume"].iloc[:1]}
    return {f"{what}: {volume}": row_of[volume] for what, volumes in named.items() for volume in volumes}
