"""Scores as tables have them: name, title, which direction is better, digits, and whose published weights they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Order = Literal["min", "max"]


@dataclass(frozen=True)
class Column:
    """A score: its name, title, which direction is better, digits shown.

    `enough`: values that reach it are equally good, such as what real images score themselves. `weights`: the published
    weights without which it cannot be computed; its network judges 2D images.
    """

    name: str
    title: str
    better: Order
    digits: int = 3
    enough: float | None = None
    weights: str | None = None

    def capped(self, value: float) -> float:
        """A value as far as it counts."""
        if self.enough is None:
            return value
        return max(value, self.enough) if self.better == "min" else min(value, self.enough)

    def tie(self, one: float, other: float) -> bool:
        """Whether two values count as equal because both reach what is enough."""
        return self.enough is not None and self.capped(one) == self.capped(other) == self.enough

    @property
    def arrow(self) -> str:
        """Shown beside the title: ↓ where lower is better, ↑ where higher is."""
        return "↓" if self.better == "min" else "↑"


COLUMNS: Mapping[str, Column] = MappingProxyType(
    {
        column.name: column
        for column in (
            Column("mae", "MAE", "min", 4),
            Column("msd", "MSD", "min", 4),
            Column("ssim", "SSIM", "max"),
            Column("psnr", "PSNR", "max", 2),
            Column("correlation", "Cross-correlation", "max"),
            Column("cycle_mae", "Cycle MAE", "min", 4),
            Column("fid", "FID", "min", 1, weights="inception"),
            Column("kid", "KID", "min", 4, weights="inception"),
            Column("lpips", "LPIPS", "min", weights="alexnet"),
            Column("label_fidelity", "Label fidelity", "max"),
            Column("label_fidelity_of_real", "of real", "max", 2),
            Column("dice", "Dice", "max"),
            Column("mask_distance", "Mask distance", "min"),
            Column("volume_distance", "Volume (voxels)", "min", 1),
            Column("components_distance", "Components", "min", 2),
            Column("sphericity_distance", "Sphericity", "min"),
            Column("place_distance", "Place (voxels)", "min", 2),
            Column("precision", "Precision", "max"),
            Column("recall", "Recall", "max"),
            Column("density", "Density", "max"),
            Column("coverage", "Coverage", "max"),
            Column("reconstruction_rmse", "Reconstruction RMSE", "min", 4),
            Column("diversity", "Diversity", "max"),
            Column("intensity_distance", "Intensities", "min"),
            Column("patch_distance", "Patches", "min"),
            Column("nearest", "Dice with the nearest training mask", "min"),
        )
    }
)


def columns(*names: str) -> tuple[Column, ...]:
    """Those of COLUMNS, in this order."""
    return tuple(COLUMNS[name] for name in names)
