"""Towards which sides of the body the axes of a volume run: three letters, as RAS."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

STORED = "stored"
_SIDES = ("RL", "AP", "SI")


def _three_sides(text: str) -> str:
    """`stored`, or three letters in capitals, one of each pair of sides; ValueError otherwise."""
    if text.lower() == STORED:
        return STORED
    code = text.upper()
    pairs = [next((pair for pair in _SIDES if letter in pair), "") for letter in code]
    if sorted(pairs) != sorted(_SIDES):
        raise ValueError(f"give three letters, one each of R/L, A/P and S/I, such as RAS, or {STORED!r}")
    return code


Orientation = Annotated[str, AfterValidator(_three_sides)]
"""The sides towards which x, y and z run, as in RAS; `stored` leaves every file as it lies."""
