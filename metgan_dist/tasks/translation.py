"""What paired and unpaired translation have in common: images are made, and a judge looks for the imposed labels.

The judge is a segmentor that no generator was trained to please. What it finds is label fidelity, a pooled Dice; beside
it stands what it finds in the real images, and the share that the one is of the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from metgan_dist.methods import method_class
from metgan_dist.methods.method import Batch
from metgan_dist.recipe import Recipe
from metgan_dist.scores.fidelity import SHARE, doubt, share_of_real
from metgan_dist.scores.reference import TRIVIAL
from metgan_dist.scores.scored import CYCLE, IMAGE_SCORES, Scored, TileScorer
from metgan_dist.tasks.pictures import loaded
from metgan_dist.tasks.task import ALL, GENERATED, REAL, Maker, Task, Wanted

if TYPE_CHECKING:
    from metgan_dist.volumes.labelled import Role

FIDELITY = "label_fidelity"


class Translation(Task):
    """Images (N, C, [D,] H, W) are made of `anatomy`, `label` or both, like those of `tumour`.

    Attributes:
        made_of: the role that a tile must have for an image to be made of it.
        error: the score that a line begins with, and what it is called there.
    """

    made_of: ClassVar[Role] = "anatomy"
    error: ClassVar[tuple[str, str]]
    judged_by: ClassVar[tuple[str, ...]] = ("judge",)

    @classmethod
    def needs(cls, recipe: Recipe, apart: bool) -> list[tuple[Role, ...]]:
        """Of pairs everything; of images drawn apart, the labels that the method, its segmentor or the choice needs."""
        if not apart:
            return [("anatomy", "tumour", "label")]
        method, training = method_class(recipe.method.name), recipe.training
        needs: list[tuple[Role, ...]] = [("anatomy",), ("tumour",)]
        by_judge = training.keep == FIDELITY or training.keep_floor is not None
        if method.needs_label(recipe) or by_judge:
            needs.append(("anatomy", "label"))
        untrained = "segmentor" in method.needs(recipe) and recipe.method.segmentor is None
        if untrained or method.needs_target_label(recipe) or (by_judge and recipe.method.judge is None):
            needs.append(("tumour", "label"))
        return needs

    def samples(self, split: str) -> dict[str, np.ndarray]:
        """What the method makes of the tiles; with a judge, the real images that it is held against."""
        real = {REAL: self.real_rows(split)} if "judge" in self.judges else {}
        return {GENERATED: self.rows(split), **real}

    def compared(self, split: str) -> dict[str, np.ndarray]:
        """What the method makes of the tiles, and the real images, labelled or not."""
        return {GENERATED: self.rows(split), REAL: self.tiles.positions(split, "tumour")}

    def real_rows(self, split: str) -> np.ndarray:
        """The tiles whose real images the judge sees."""
        return self.tiles.positions(split, "tumour", "label")

    def scorer(self, sample: str, wanted: Wanted = ALL) -> TileScorer:
        """Of translations the errors, and by the judge the labels, where the tiles have them; of real images these."""
        made = sample not in self.of_real
        judge = self.judges.get("judge") if wanted.has(FIDELITY) else None
        if not self.tiles.has(self.made_of if made else "tumour", "label"):
            judge = None
        known = {column.name for column in self.columns} & {*IMAGE_SCORES, CYCLE}
        return TileScorer(
            int(self.tiles.manifest["data"]["classes"]),
            None if judge is None else judge.translate,
            [name for name in (*IMAGE_SCORES, CYCLE) if name in known and wanted.has(name)] if made else (),
            wanted.perceptual if made else None,
            wanted.inception,
            wanted.show,
        )

    def score(self, sample: str, scorer: TileScorer, batch: Batch, maker: Maker | None) -> None:
        """The images that `maker` makes of a batch; those of the batch themselves without one."""
        if maker is None:
            scorer.add_images(batch, batch["tumour"])
            return
        output = maker.translate(batch)
        scorer.add_images(batch, output, maker.cycle(batch, output) if CYCLE in scorer.images else None)

    def summary(self, scored: Mapping[str, Scored]) -> dict[str, float]:
        """Scores of the images; label fidelity also as share of what the judge finds in the real ones.

        Not where that is next to nothing, or no class occurs.
        """
        scores = scored[GENERATED].summary()
        real = scored[REAL].summary().get(FIDELITY, 0.0) if REAL in scored else None
        share = share_of_real(scores.get(FIDELITY), real)
        return scores if share is None else {**scores, SHARE: share}

    def summaries(self, scored: Mapping[str, Scored], rows: np.ndarray) -> dict[str, dict[str, float]]:
        """As `summary`, of everything that was scored, with what the judge finds in the real images as `real`."""
        own = {name: self.of(name, one, rows).summary() for name, one in scored.items()}
        own.setdefault(REAL, {})
        real = own[REAL].get(FIDELITY)
        for name, scores in own.items():
            share = share_of_real(scores.get(FIDELITY), real)
            if name not in self.of_real and share is not None:
                scores[SHARE] = share
        return own

    def of(self, name: str, scored: Scored, rows: np.ndarray) -> Scored:
        """What was scored of some tiles alone."""
        return scored.of(rows)

    def line(self, split: str, scores: Mapping[str, Any]) -> str:
        """The error of the method and of the trivial predictions, and the label fidelity of all."""
        error, shown = self.error
        parts = [f"{name} {shown} {scores[name][error]:.4f}" for name in (GENERATED, *TRIVIAL) if name in scores]
        found = {name: scores[name].get(FIDELITY) for name in (GENERATED, REAL, TRIVIAL[0]) if name in scores}
        shares = {name: scores[name].get(SHARE) for name in found}
        dice = [
            f"{name} {value:.3f}" + (f" ({share:.0%} of real)" if (share := shares[name]) is not None else "")
            for name, value in found.items()
            if value is not None
        ]
        fidelity = f"; label fidelity {', '.join(dice)}" if dice else ""
        return f"{split}: {scores['tiles']} tiles; {', '.join(parts)}{fidelity}"

    def doubt(self, scores: Mapping[str, Any]) -> str | None:
        """A judge that finds next to nothing where there is something to find."""
        return doubt(scores[REAL].get(FIDELITY)) if "judge" in self.judges else None

    def given(self, rows: np.ndarray) -> dict[str, list[np.ndarray]]:
        """Figure 4 of paper 1: anatomy, imposed label, and the real image where the tile has one."""
        return loaded(self.tiles, rows, {"anatomy": "anatomy", "label": "label", "truth": "tumour"})
