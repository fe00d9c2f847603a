"""How well shapes stay when images are translated between two domains: the S-score (Zhang et al., CVPR 2018, 5.2).

The judge of a domain looks for labels in what was translated into it, and they are compared with those of the source of
the translation. Two directions: `target` (source images translated to the target domain) and `source` (the other way).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from metgan_dist.methods.method import Batch, Method
from metgan_dist.methods.segmentor import Segmentor
from metgan_dist.scores.column import Column
from metgan_dist.scores.labels import count_columns, mean_dice, stacked_counts
from metgan_dist.scores.scored import Scored
from metgan_dist.scores.surface import SURFACE_SCORES
from metgan_dist.tasks.joined import Finder, WholeScores, region_names
from metgan_dist.tasks.task import GENERATED, REAL
from metgan_dist.tiles.tile_set import TileSet

Side = Literal["target", "source"]
SIDES: tuple[Side, ...] = get_args(Side)
S_SCORE, DICE = "s_score", "dice"
SEGMENTED = "segmented"
PER_UNIT = "per_unit"
# Which role a domain plays, and which judge looks at what was translated into it.
ROLES: Mapping[Side, str] = {"target": "tumour", "source": "anatomy"}
JUDGES: Mapping[Side, str] = {"target": "judge", "source": "judge_source"}


def whole_columns(source: str = "source", target: str = "target") -> tuple[Column, ...]:
    """All scores of whole places as columns of a table, titled by the names of the domains."""
    ways: Mapping[Side, str] = {"target": f"{source} → {target}", "source": f"{target} → {source}"}
    domains: Mapping[Side, str] = {"target": target, "source": source}
    found = [Column(f"{S_SCORE}_{side}", f"S-score {ways[side]}", "max") for side in SIDES]
    own = [Column(f"{DICE}_{side}", f"Dice {domains[side]}", "max") for side in SIDES]
    apart = [
        Column(f"{prefix}{score}_{side}", f"{score.upper()} {named[side]}", "min", 2)
        for prefix, named in (("", ways), (f"{SEGMENTED}_", domains))
        for score in SURFACE_SCORES
        for side in SIDES
    ]
    return (Column(S_SCORE, "S-score", "max"), *found, *own, *apart)


def sample_of(score: str) -> tuple[str, str]:
    """In which sample of `whole_shapes` a score of `whole_columns` is, and its name there."""
    if score.startswith(f"{SEGMENTED}_"):
        return SEGMENTED, score.removeprefix(f"{SEGMENTED}_")
    return (SEGMENTED if score.startswith(f"{DICE}_") else GENERATED), score


def judges_of(score: str) -> set[str]:
    """Roles of the judges without whom there is no such score of `whole_columns`."""
    sample, name = sample_of(score)
    if sample == SEGMENTED:
        return set()
    return {JUDGES[side] for side in SIDES if name == S_SCORE or name.endswith(f"_{side}")}


def other(side: Side) -> Side:
    """The domain that is translated into this one."""
    return "source" if side == "target" else "target"


def translated(method: Method, batch: Batch, side: Side) -> Tensor:
    """What a method makes of a batch of the other domain's tiles, images (N, C, ...) of this one."""
    if side == "target":
        return method.translate(batch)
    return method.translate_back({**batch, "tumour_label": batch["label"]})


def with_mean(scores: dict[str, float]) -> dict[str, float]:
    """S-scores with `s_score`, the mean of both directions, where both are there."""
    both = [scores[f"{S_SCORE}_{side}"] for side in SIDES if f"{S_SCORE}_{side}" in scores]
    return {**scores, S_SCORE: sum(both) / 2} if len(both) == len(SIDES) else scores


def pooled(tiles: TileSet, scored: Scored | None, side: Side) -> dict[str, float]:
    """The S-score of single tiles, pooled over them, and that of each region where there are several.

    Empty where nothing was scored; classes that do not occur are left out.
    """
    if scored is None or not count_columns(scored.per_tile):
        return {}
    sums = stacked_counts(scored.per_tile).sum(axis=0)
    names = region_names(tiles)
    values = {f"{S_SCORE}_{side}": float(mean_dice(sums))}
    if len(names) > 1:
        values |= {f"{S_SCORE}_{side}/{name}": float(mean_dice(sums[[k]])) for k, name in enumerate(names)}
    return {name: value for name, value in values.items() if not np.isnan(value)}


def whole_shapes(
    tiles: TileSet, judges: Mapping[str, Method], method: Method | None, split: str, device: torch.device
) -> dict[str, dict[str, Any]]:
    """Scores of whole places of a split, each unit counting once (`WholeScores`), of a method or of the real images.

    Returns, of what there is, for a method: `generated`, the S-scores of both directions and their surface distances;
    `segmented`, the Dice and distances of its own segmentors on real images. Without one: `real`, the scores of real
    images of either domain, found by its judge. And `per_unit`: of each of these, every unit's scores.
    """
    found: dict[str, dict[str, Any]] = {}
    each: dict[str, dict[str, dict[str, float]]] = {}

    def add(sample: str, dice: str, domain: Side, side: Side, find: Finder) -> None:
        """Score the labelled tiles of a domain under the names of a side."""
        rows = tiles.positions(split, ROLES[domain], "label")
        if not len(rows):
            return
        whole = WholeScores.of(tiles, rows, find, device)
        found.setdefault(sample, {}).update(whole.summary(dice, side))
        for unit, scores in whole.by_name(dice, side).to_dict("index").items():
            known = {str(name): float(value) for name, value in scores.items() if not np.isnan(value)}
            each.setdefault(sample, {}).setdefault(str(unit), {}).update(known)

    for side in SIDES:
        judge = judges.get(JUDGES[side])
        if isinstance(judge, Segmentor):
            if method is None:
                add(REAL, S_SCORE, side, side, _judged_real(judge, side))
            elif side == "target" or method.translates_back:
                add(GENERATED, S_SCORE, other(side), side, _judged_translation(judge, method, side))
        if method is not None and ROLES[side] in method.segments:
            add(SEGMENTED, DICE, side, side, _own(method, side))
    for sample in (GENERATED, REAL):
        if sample in found:
            found[sample] = with_mean(found[sample])
    return {**found, **({PER_UNIT: each} if each else {})}


def _judged_translation(judge: Segmentor, method: Method, side: Side) -> Finder:
    return lambda batch: judge.network.class_scores(translated(method, batch, side))


def _judged_real(judge: Segmentor, side: Side) -> Finder:
    return lambda batch: judge.network.class_scores(batch[ROLES[side]])


def _own(method: Method, side: Side) -> Finder:
    return lambda batch: method.class_scores(batch[ROLES[side]], ROLES[side])
