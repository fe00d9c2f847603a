"""What changes between two rows of a study, score by score: a method trained on shuffled labels minus on clean ones."""

from __future__ import annotations

from collections.abc import Mapping

from metgan_dist.evaluation.comparison import Comparison, mark, tests_against
from metgan_dist.evaluation.tables import aligned
from metgan_dist.recipe import Scores


def differences(comparison: Comparison, against: Mapping[str, str], settings: Scores) -> list[str]:
    """A Markdown table of the pairs (label -> label to subtract) that were both scored, or nothing without any.

    Marks are those of the pair's own paired test.
    """
    pairs = {one: other for one, other in against.items() if {one, other} <= comparison.values.keys()}
    if not pairs:
        return []
    header = ["Difference", *(f"{column.title} {column.arrow}" for column in comparison.columns)]
    rows = []
    for one, other in pairs.items():
        both = comparison.per_tile[comparison.per_tile["method"].isin([one, other])]
        tests = tests_against(both, other, settings)
        cells = []
        for column in comparison.columns:
            change = comparison.values[one][column.name].value - comparison.values[other][column.name].value
            sign = mark(tests, one, column, settings).replace("*", r"\*")
            cells.append(f"{change:+.{column.digits}f}{sign}")
        rows.append([f"{one} - {other}", *cells])
    return [aligned([header, *rows])]
