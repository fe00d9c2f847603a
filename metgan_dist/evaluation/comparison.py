"""What the scores of several methods say of each other: values with intervals, and paired tests against a reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from metgan_dist.evaluation.scoring import REAL
from metgan_dist.evaluation.tables import BETTER, WORSE, Value
from metgan_dist.evaluation.values import values_of
from metgan_dist.recipe import Scores
from metgan_dist.scores.column import COLUMNS, Column
from metgan_dist.scores.fidelity import BLIND, SHARE
from metgan_dist.scores.scored import IMAGE_SCORES, Scored
from metgan_dist.scores.significance import compare_methods, least_pairs
from metgan_dist.tiles.independence import Units

UNVERIFIED = "_unverified"
_UP_TO_REAL = "dice_up_to_real"
_TESTED_AS = {"label_fidelity": _UP_TO_REAL}
NOTHING = Scored(pd.DataFrame({"tile": np.empty(0, dtype=np.int64)}))
_SHOWN_TESTS = ("difference", "p_t_holm", "p_wilcoxon_holm", "d_z", "rank_biserial")


@dataclass(frozen=True)
class Comparison:
    """Methods side by side.

    Attributes:
        per_tile: a row per method and tile: method, tile (row number), volume, unit, alone (see
            `tiles.independence`), every score of a single tile, the judge's Dice (NaN without foreground) and its
            counts.
        values: by method and score: of all tiles, with intervals that draw units.
        tests: `compare_methods` of the units against the reference; empty for a single method or unit.
        columns: the scores in the order of the table.
        reference: the method that the others are tested against.
        ceiling: the judge's pooled Dice on the real images, where label fidelity was asked for.
        units: what is independent of each other.
    """

    per_tile: pd.DataFrame
    values: dict[str, dict[str, Value]]
    tests: pd.DataFrame
    columns: list[Column]
    reference: str
    ceiling: float | None
    units: Units

    @property
    def labelled_units(self) -> int | None:
        """Units with a label to find, which is what tests of label fidelity rest on; None where it is not scored."""
        if "dice" not in self.per_tile:
            return None
        tested = self.per_tile[self.per_tile["alone"] & self.per_tile["dice"].notna()]
        return int(tested["unit"].nunique())

    def test_numbers(self, method: str) -> dict[str, float]:
        """The tests of one method as flat numbers ``<score>_<what>``."""
        mine = self.tests[self.tests["method"] == method] if len(self.tests) else self.tests
        rows = mine.to_dict("records")
        return {f"{row['score']}_{name}": float(row[name]) for row in rows for name in _SHOWN_TESTS}


def compare(
    scored: Mapping[str, Scored],
    units: Units,
    reference: str,
    settings: Scores,
    known: Sequence[Column] = tuple(COLUMNS.values()),
) -> Comparison:
    """Put together what `score_methods` gave for the tiles of `units`; `known`: the columns of their task."""
    methods = [label for label in scored if label != REAL]
    per_tile = pd.concat([_labelled(label, scored[label].per_tile, units) for label in methods], ignore_index=True)
    real = scored.get(REAL, NOTHING)
    ceiling = real.summary().get("label_fidelity")
    if "dice" in per_tile:
        per_tile[_UP_TO_REAL] = _up_to_real(per_tile, real.per_tile)
    tests = tests_against(per_tile, reference, settings)
    columns = _columns(settings.names, [scored[label] for label in methods], ceiling, known)
    plain = {label: values_of(scored[label], units, columns, settings) for label in methods}
    if ceiling is not None and ceiling >= BLIND:
        columns = _with_share(columns, plain, ceiling)
    values = {
        label: {
            c.name: replace(own[c.name], mark="" if _tie(c, own, plain[reference]) else mark(tests, label, c, settings))
            for c in columns
            if c.name in own
        }
        for label, own in plain.items()
    }
    return Comparison(per_tile, values, tests, columns, reference, ceiling, units)


def tests_against(per_tile: pd.DataFrame, reference: str, settings: Scores) -> pd.DataFrame:
    """Paired tests of every other method of a table of scores against one of them, over units of tiles that are alone.

    Empty where there is no other method.
    """
    if per_tile["method"].nunique() < 2:
        return pd.DataFrame()
    per_tile = per_tile[per_tile["alone"]]
    tested = {*IMAGE_SCORES, *settings.names, _UP_TO_REAL}
    scores = [name for name in per_tile if name in tested or name.startswith("lpips")]
    return compare_methods(
        per_tile,
        reference,
        scores=[name for name in scores if _testable(per_tile, name)],
        group="unit",
        confidence=settings.confidence,
        resamples=settings.resamples,
    )


def _testable(per_tile: pd.DataFrame, score: str) -> bool:
    """Whether all methods have finite scores in two common units: few tiles may hold a label to find."""
    finite = per_tile[np.isfinite(per_tile[score])]
    return bool((finite.groupby("unit")["method"].nunique() == per_tile["method"].nunique()).sum() >= 2)


def _labelled(label: str, per_tile: pd.DataFrame, units: Units) -> pd.DataFrame:
    origin = per_tile[["tile"]].join(units.table, on="tile")
    origin.insert(0, "method", label)
    return origin.join(per_tile.drop(columns="tile"))


def _up_to_real(per_tile: pd.DataFrame, real: pd.DataFrame) -> pd.Series:
    """Dice of each tile, at most what its real image has: to exceed that makes up for no other tile.

    Where the real images are of other tiles, as in two domains, there is none to be held to.
    """
    if "dice" not in real:
        return per_tile["dice"]
    return per_tile["dice"].clip(upper=per_tile["tile"].map(real.set_index("tile")["dice"]))


def _columns(
    names: Sequence[str], scored: Sequence[Scored], ceiling: float | None, known: Sequence[Column]
) -> list[Column]:
    """The columns that there are values for; scores of other than the published weights say so in their title.

    Label fidelity of `ceiling`, what the real images have, is enough.
    """
    columns, of_name = [], {column.name: column for column in known}
    there = {name for one in scored for name in (*one.per_tile, *one.of_set)}
    for name in names:
        if f"{name}{UNVERIFIED}" in there:
            title = f"{of_name[name].title} (unverified weights)"
            columns.append(replace(of_name[name], name=f"{name}{UNVERIFIED}", title=title))
        elif name == "label_fidelity" and "dice" in there:
            columns.append(replace(of_name[name], enough=ceiling))
        elif name in there:
            columns.append(of_name[name])
    return columns


def _with_share(columns: Sequence[Column], values: Mapping[str, dict[str, Value]], real: float) -> list[Column]:
    """The columns with one more beside label fidelity, its share of what real images have, put into `values`."""
    for own in values.values():
        if (whole := own.get("label_fidelity")) is not None:
            low, high = (None if end is None else end / real for end in (whole.low, whole.high))
            own[SHARE] = Value(whole.value / real, low, high)
    share = replace(COLUMNS[SHARE], enough=1.0)
    return [part for column in columns for part in ((column, share) if column.name == "label_fidelity" else (column,))]


def _tie(column: Column, own: Mapping[str, Value], others: Mapping[str, Value]) -> bool:
    """Whether two methods are equally good because both reach what is enough."""
    name = column.name
    return name in own and name in others and column.tie(own[name].value, others[name].value)


def mark(tests: pd.DataFrame, method: str, column: Column, settings: Scores) -> str:
    """Whether the method differs from the reference at the level of `settings`, and in which direction.

    No mark either where there are fewer units than a test needs.
    """
    if not len(tests):
        return ""
    row = tests[(tests["method"] == method) & (tests["score"] == _TESTED_AS.get(column.name, column.name))]
    if not len(row) or row["count"].item() < least_pairs(1 - settings.confidence):
        return ""
    if not row[f"p_{settings.test}_holm"].item() < 1 - settings.confidence:
        return ""
    lower = row["difference"].item() < 0
    return BETTER if lower == (column.better == "min") else WORSE
