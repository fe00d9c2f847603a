"""How scores of single cases lie: mean, standard deviation and quartiles, as Sallé et al. (2021) print them (table 1).

A case is a patient, or a volume where none is known. Dice and surface distance are skewed, as one missed tumour has a
Dice of 0 and a distance of centimetres or none at all: their mean alone says little.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Of the cases that have the score.

    Attributes:
        count: their number; missing: of those that have none (a distance where nothing was found).
        mean, std: standard deviation as of a sample (n - 1), 0 of a single case.
        quartiles: 25th, 50th and 75th percentile, between two cases by linear interpolation.
    """

    count: int
    missing: int
    mean: float
    std: float
    quartiles: tuple[float, float, float]

    @staticmethod
    def of(values: Iterable[float]) -> Spread:
        """Of one value a case, NaN where it has none; ValueError where no case has one."""
        every = np.array(list(values), dtype=np.float64)
        known = every[~np.isnan(every)]
        if not len(known):
            raise ValueError("no case has the score")
        low, middle, high = (float(value) for value in np.percentile(known, (25, 50, 75)))
        std = float(known.std(ddof=1)) if len(known) > 1 else 0.0
        return Spread(len(known), len(every) - len(known), float(known.mean()), std, (low, middle, high))

    def text(self, digits: int, *, falling: bool = False) -> str:
        """E.g. "0.46 ± 0.32 (0.13, 0.61, 0.70)"; `falling`: the quartiles from the worst of a score to be low."""
        quartiles = self.quartiles[::-1] if falling else self.quartiles
        shown = ", ".join(f"{value:.{digits}f}" for value in quartiles)
        return f"{self.mean:.{digits}f} ± {self.std:.{digits}f} ({shown})"


def above(values: Iterable[float], least: float) -> int:
    """How many cases have a higher value than `least`; those without one do not."""
    return int(np.sum(np.array(list(values), dtype=np.float64) > least))
