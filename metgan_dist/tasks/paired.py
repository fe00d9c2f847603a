"""Paired translation: anatomy and tumour image of a tile are of one place, so the image that is made has a true one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from metgan_dist.methods.method import Batch
from metgan_dist.recipe import Recipe
from metgan_dist.scores.column import columns
from metgan_dist.scores.reference import References, fit_references
from metgan_dist.scores.scored import CYCLE
from metgan_dist.tasks.task import Drawn, Maker
from metgan_dist.tasks.translation import Translation
from metgan_dist.tiles.stream import tile_batches

if TYPE_CHECKING:
    from metgan_dist.volumes.labelled import Role

BATCH = 4


class Paired(Translation):
    """Images are held against the real ones of their places, and beside them two trivial predictions are.

    A method with a cycle also has its error. So are methods scored that train unpaired, wherever there are pairs.
    """

    name = "paired"
    fields: ClassVar[tuple[Role, ...]] = ("anatomy", "tumour", "label")
    columns = columns("mae", "msd", "ssim", "psnr", "correlation", "cycle_mae", "fid", "kid", "lpips", "label_fidelity")
    error = ("mae", "MAE")

    @property
    def usual(self) -> tuple[str, ...]:
        """All but the error of the cycle, which only some methods have, and which real images tell better."""
        return tuple(name for name in super().usual if name != CYCLE)

    def drawn(self, recipe: Recipe, part: str | None = None) -> Drawn:
        """All training tiles: as pairs, or with `data.unpaired` as the images of either kind, drawn apart."""
        rows = self.tiles.positions("train")
        return Drawn(rows, rows) if recipe.data.unpaired else Drawn(rows)

    def rows(self, split: str) -> np.ndarray:
        """Whatever has an anatomy."""
        return self.tiles.positions(split, "anatomy")

    def beside(self, say: Callable[[str], None]) -> dict[str, Maker]:
        """`identity`, where both images have equally many channels, and `affine` (scores/reference.py)."""
        batches = tile_batches(self.tiles, self.tiles.positions("train"), BATCH)
        fitted = fit_references((batch["anatomy"], batch["tumour"]) for batch in batches)
        if "identity" not in fitted.names:
            anatomy, tumour = (len(self.tiles.layers(role)) for role in ("anatomy", "tumour"))
            say(f"identity: left out, the anatomy has {anatomy} channel(s) and the tumour image {tumour}")
        return {name: Prediction(fitted, name) for name in fitted.names}


@dataclass(frozen=True)
class Prediction:
    """One of the trivial predictions, as something that makes images."""

    fitted: References
    name: str
    organs: tuple[str, ...] = ()

    def translate(self, batch: Batch) -> Tensor:
        """What it predicts for the anatomy (N, C, [D,] H, W)."""
        return self.fitted.predictions(batch["anatomy"])[self.name]

    def cycle(self, batch: Batch, output: Tensor) -> Tensor | None:
        """None: it has no inverse."""
        return None
