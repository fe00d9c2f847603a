"""From what the folds found to numbers: mean, minimum and maximum over folds, by size and brightness of lesions too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from metgan_dist.evaluation.tables import aligned
from metgan_dist.scores.lesions import strata
from metgan_dist.scores.volumes import VOLUME_SCORES
from metgan_dist.segmentation.scoring import COUNTS, OF_CLASS, FoldScores
from metgan_dist.segmentation.volumes import volume_table

TITLES = {
    "dice": "Dice",
    "precision": "Precision",
    "recall": "Recall",
    "jaccard": "Jaccard",
    "voxel_dice": "Voxel Dice",
    "found": "Lesions found",
    "missed": "Lesions missed",
    "matched": "Predictions that match",
    "false_positives": "False positives",
}
VOLUME_TITLES = {
    "dice": "Dice",
    "f1": "F1 of lesions",
    "volume_difference": "Volume difference",
    "count_difference": "Count difference",
    "false_positive_volume": "False-positive volume",
}
# What lesions are sorted by, and what the lowest and highest of them are called.
STRATA = {"area": ("smallest", "largest"), "brightness": ("dimmest", "brightest")}
# What tiles are joined in before lesions are counted, and when one lesion counts more than once all the same.
PLACES = {
    "plane": ("planes", "A lesion that runs through several planes is one in each."),
    "slab": ("slabs of planes", "A lesion that shows in several slabs, or views, is one in each."),
    "volume": ("volumes", "Each lesion is one."),
}


def rule(unit: str) -> str:
    """How lesions are counted, where tiles are joined in places of this unit: "plane", "slab" or "volume"."""
    places, several = PLACES[unit]
    return (
        f"Lesions: connected components (pixels that touch at an edge or corner) of {places}, in which overlapping "
        f"tiles are joined first, their predictions averaged: none is counted once per tile. {several} A predicted and "
        "a true one match when they share a pixel. Precision: predictions that match, of all; recall: lesions found, "
        "of all; Dice = 2PR/(P+R), Jaccard = Dice/(2-Dice). Voxel Dice: of the joined pixels, pooled."
    )


def counted(summary: dict[str, Any]) -> str:
    """E.g. "48 lesions in 8 slabs of planes"."""
    places = PLACES[summary["unit"]][0] if summary["places"] != 1 else summary["unit"]
    return f"{summary['lesions']} lesions in {summary['places']} {places}"


def basis(summary: dict[str, Any]) -> str:
    """On how many independent units the numbers rest."""
    return (
        f"Independent places: {summary['independent']}. Folds differ in what they were trained on and share these "
        "places: their range says nothing of other volumes."
    )


def over_folds(values: Sequence[float]) -> dict[str, float]:
    """Mean, minimum and maximum."""
    return {"mean": float(np.mean(values)), "min": float(np.min(values)), "max": float(np.max(values))}


def summarise(
    scored: FoldScores, count: int, independent: str, voxels: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """The tree of numbers of a split that `result.json` and MLflow keep.

    tiles; places, in which they were joined; unit, what a place is; independent (places, in words); lesions; for each
    of SCORES and COUNTS {mean, min, max}; folds: {fold: {score: value}}; strata: {area, brightness}: {1 (lowest) ...
    `count`: {low, high, lesions, recall: {mean, min, max}}}. Where there are several classes, the voxels' Dice of each
    is a further score, `voxel_dice/NAME`. Of crops also `volumes`: volumes; without_lesions; unit, of volumes of
    lesions; and for each of VOLUME_SCORES the mean over volumes {mean, min, max} (the false-positive volume where there
    are volumes without lesions). `voxels`: millilitres of a voxel by volume, where these are known.
    """
    folds = {fold: scored.scores(fold) for fold in scored.folds}
    lesions = scored.lesions[scored.lesions["fold"] == scored.folds[0]]
    return {
        "tiles": int(scored.tiles["tile"].nunique()),
        "places": int(scored.places["place"].nunique()),
        "unit": str(scored.places["unit"].iloc[0]),
        "independent": independent,
        "lesions": len(lesions),
        **{name: over_folds([scores[name] for scores in folds.values()]) for name in folds[scored.folds[0]]},
        "strata": {name: _recalls(scored, lesions[name].to_numpy(), count) for name in STRATA},
        "folds": {str(fold): scores for fold, scores in folds.items()},
        **_of_volumes(scored, voxels or {}),
    }


def _of_volumes(scored: FoldScores, voxels: Mapping[str, float]) -> dict[str, Any]:
    table = volume_table(scored, voxels)
    if not len(table):
        return {}
    first = table[table["fold"] == table["fold"].iloc[0]]
    means = table.groupby("fold")[list(VOLUME_SCORES)].mean().dropna(axis=1, how="all")
    return {
        "volumes": {
            "volumes": len(first),
            "without_lesions": int((first["voxels"] == 0).sum()),
            "unit": "ml" if voxels else "voxels",
            **{str(name): over_folds(values.tolist()) for name, values in means.items()},
        }
    }


def _recalls(scored: FoldScores, values: np.ndarray, count: int) -> dict[str, Any]:
    """Recall of each stratum; every fold has the same lesions in the same order."""
    found = np.stack([scored.lesions.loc[scored.lesions["fold"] == fold, "found"] for fold in scored.folds])
    group = strata(values, count)
    return {
        str(number + 1): {
            "low": float(values[group == number].min()),
            "high": float(values[group == number].max()),
            "lesions": int((group == number).sum()),
            "recall": over_folds(found[:, group == number].mean(axis=1).tolist()),
        }
        for number in sorted(set(group.tolist()))
    }


def markdown(title: str, summary: dict[str, Any]) -> str:
    """Scores over folds and recall by stratum as two Markdown tables, and how lesions are counted."""
    folds = summary["folds"]
    rows = [["Score", "mean", "min", "max", *(f"fold {fold}" for fold in folds)]]
    for name in next(iter(folds.values())):
        ours = [summary[name][part] for part in ("mean", "min", "max")] + [folds[fold][name] for fold in folds]
        shown = "{:.4g}" if name in COUNTS else "{:.3f}"
        label = TITLES.get(name) or f"{TITLES['voxel_dice']}, {name.removeprefix(OF_CLASS)}"
        rows.append([label, *(shown.format(value) for value in ours)])
    recall = [["Recall of the", "lesions", "from", "to", "mean", "min", "max"]]
    for name, ends in STRATA.items():
        groups = summary["strata"][name]
        for number, group in groups.items():
            cells = [f"{group[end]:.4g}" for end in ("low", "high")]
            cells += [f"{group['recall'][part]:.3f}" for part in ("mean", "min", "max")]
            recall.append([_called(number, len(groups), name, ends), str(group["lesions"]), *cells])
    tables = "\n".join(aligned(one) for one in (rows, recall, *_volume_rows(summary)))
    return f"**{title}**\n\n{tables}\n{rule(summary['unit'])}{_volume_rule(summary)}\n\n{basis(summary)}\n"


def _volume_rows(summary: dict[str, Any]) -> list[list[list[str]]]:
    """The table of scores by volume, where there are any."""
    own = summary.get("volumes")
    if own is None:
        return []
    rows = [["By volume", "mean", "min", "max"]]
    for name, title in VOLUME_TITLES.items():
        if name in own:
            unit = f" ({own['unit']})" if name.endswith("volume") or name == "volume_difference" else ""
            rows.append([f"{title}{unit}", *(f"{own[name][part]:.3f}" for part in ("mean", "min", "max"))])
    return [rows]


def _volume_rule(summary: dict[str, Any]) -> str:
    own = summary.get("volumes")
    if own is None:
        return ""
    return (
        f" By volume: means over {own['volumes']} volumes, {own['without_lesions']} of them without lesions, as ISLES "
        "scores them; differences are absolute, and a volume where nothing is to be found and nothing was has Dice and "
        "F1 1. False-positive volume: what was found in volumes without lesions."
    )


def origin_notes(origins: Sequence[Mapping[str, int]]) -> list[str]:
    """How independent synthetic tiles are of the tiles that validate their fold, a line each; none without any.

    `origins`: for each fold its number (`fold`), how many synthetic tiles were left out of it because their anatomy or
    a label is from its validation tiles (`left_out`), how many of these there are (`validation`), and how many of them
    show tissue on which the generator was trained (`seen_by_generator`).
    """
    if not origins:
        return []
    left_out = ", ".join(f"{one['left_out']} (fold {one['fold']})" for one in origins)
    notes = [f"Synthetic tiles left out of a fold, made from anatomy or labels that validate it: {left_out}."]
    if any(one["seen_by_generator"] for one in origins):
        seen = ", ".join(f"{one['seen_by_generator']} of {one['validation']} (fold {one['fold']})" for one in origins)
        notes.append(f"Validation tiles that the synthetic tiles' generator was trained on: {seen}.")
    return notes


def _called(number: str, count: int, by: str, ends: tuple[str, str]) -> str:
    """ "smallest", "largest", and by number what lies between."""
    name = {"1": ends[0], str(count): ends[1]}.get(number, f"{by} group {number}")
    return f"{name} by {by}" if count == 1 else name


def table(summaries: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Unrounded: a row for each split and score, with mean, min, max and every fold."""
    rows = []
    for split, summary in summaries.items():
        for name in next(iter(summary["folds"].values())):
            folds = {f"fold_{fold}": scores[name] for fold, scores in summary["folds"].items()}
            rows.append({"split": split, "score": name, **summary[name], **folds})
    return pd.DataFrame(rows)


def strata_table(summaries: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Unrounded: a row for each split and stratum, with its range, number of lesions and recall over folds."""
    rows: list[dict[str, Any]] = []
    for split, summary in summaries.items():
        for by, groups in summary["strata"].items():
            for number, group in groups.items():
                own = {name: group[name] for name in ("low", "high", "lesions")}
                recall = {f"recall_{part}": value for part, value in group["recall"].items()}
                rows.append({"split": split, "by": by, "stratum": int(number), **own, **recall})
    return pd.DataFrame(rows)
