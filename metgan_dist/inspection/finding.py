"""What is wrong with a data set, a line each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """An error keeps the set from being used, or makes its scores worthless; a warning is for a person to judge.

    volume: id, "" for the set as a whole; plane: of the volume, where it is on a single one.
    """

    kind: Kind
    volume: str
    what: str
    plane: int | None = None

    def __str__(self) -> str:
        """One line."""
        where = f"{self.volume}: " if self.volume else ""
        return f"{self.kind}: {where}{self.what}"
