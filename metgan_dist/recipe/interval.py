"""How often a training does something: every so many images, steps, or by the clock."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BeforeValidator

SECONDS = {"s": 1, "min": 60, "h": 3600}
_WRITTEN = re.compile(r"(\d+(?:\.\d+)?)\s*(images?|steps?|s|min|h)?")


@dataclass(frozen=True)
class Interval:
    """`number` of `unit`, above 0: whole `images` or `steps`, or a time in `s`, `min` or `h`."""

    number: float
    unit: str

    @staticmethod
    def of(written: int | str) -> Interval:
        """What a field of type `Every` says; ValueError for anything else."""
        found = _WRITTEN.fullmatch(str(written).strip())
        number, unit = (float(found[1]), found[2] or "images") if found else (0.0, "")
        unit = {"image": "images", "step": "steps"}.get(unit, unit)
        if number <= 0 or (unit not in SECONDS and not number.is_integer()):
            raise ValueError("must be images (2000), steps (500 steps) or a time (45 s, 30 min, 2 h), above 0")
        return Interval(number, unit)

    @property
    def written(self) -> int | str:
        """As recipes have it: images, which they have always counted in, as a bare number."""
        return int(self.number) if self.unit == "images" else f"{self.number:g} {self.unit}"

    @property
    def seconds(self) -> float | None:
        """Of a time; None for images and steps."""
        return self.number * SECONDS[self.unit] if self.unit in SECONDS else None

    def times(self, count: int) -> Interval:
        """So many of this interval as one."""
        return replace(self, number=self.number * count)


def _every(given: Any) -> int | str:
    return Interval.of(given).written


Every = Annotated[int | str, BeforeValidator(_every)]
"""`2000` (images), `500 steps`, `45 s`, `30 min` or `2 h`; `Interval.of` reads it."""
