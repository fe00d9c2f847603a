"""Segmentation: labels are found in tumour images, and compared with those that they have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np

from metgan_dist.errors import UserError
from metgan_dist.methods.method import Batch
from metgan_dist.recipe import Recipe
from metgan_dist.recipe import Segmentation as Settings
from metgan_dist.scores.column import columns
from metgan_dist.scores.scored import Scored, TileScorer
from metgan_dist.tasks.pictures import loaded
from metgan_dist.tasks.task import ALL, GENERATED, Drawn, Maker, Task, Wanted
from metgan_dist.tiles.shares import cases_of, kept_for_judges, share_of
from metgan_dist.tiles.splits import segmentor_and_judge
from metgan_dist.tiles.tile_set import TileSet

Part = Literal["segmentor", "judge"]
PARTS: tuple[Part, ...] = get_args(Part)  # as `tiles.splits.segmentor_and_judge` gives them
JUDGE_SOURCE = "judge_source"  # the role of the judge of the source domain, which learns from the judges' part


class Segmentation(Task):
    """Scored by the Dice of the label maps, pooled over the tiles; of two domains the target's tiles."""

    name = "segmentation"
    fields = ("tumour", "label")
    columns = columns("dice")

    def drawn(self, recipe: Recipe, part: str | None = None) -> Drawn:
        """Labelled training tiles, or a part of them (`segmentor_rows`); of two domains a share of the target's.

        Of a segmentor for itself those that the section `segmentation` chooses.
        """
        rows = segmentor_rows(self.tiles, next((own for own in PARTS if own == part), None), recipe.method.judge_share)
        rows = chosen_cases(self.tiles, rows, recipe.segmentation, recipe.training.seed)
        share = recipe.training.shares.get("target")
        return Drawn(rows if share is None else share_of(self.tiles.index, rows, share, recipe.training.seed))

    def scorer(self, sample: str, wanted: Wanted = ALL) -> TileScorer:
        """Of label maps."""
        return TileScorer(int(self.tiles.manifest["data"]["classes"]))

    def score(self, sample: str, scorer: TileScorer, batch: Batch, maker: Maker | None) -> None:
        """The labels that `maker` finds."""
        assert maker is not None, "a segmentor's own images are not segmented by anybody else"
        scorer.add_labels(batch, maker.translate(batch))

    def summary(self, scored: Mapping[str, Scored]) -> dict[str, float]:
        """`dice`; nothing where no class occurs, neither labelled nor found."""
        return scored[GENERATED].summary("dice")

    def summaries(self, scored: Mapping[str, Scored], rows: np.ndarray) -> dict[str, dict[str, float]]:
        """As `summary`."""
        return {name: one.of(rows).summary("dice") for name, one in scored.items()}

    def line(self, split: str, scores: Mapping[str, Any]) -> str:
        """The Dice, where there is any."""
        dice = scores[GENERATED].get("dice")
        return f"{split}: {scores['tiles']} tiles; " + ("no class occurs" if dice is None else f"Dice {dice:.3f}")

    def given(self, rows: np.ndarray) -> dict[str, list[np.ndarray]]:
        """The image, and its label."""
        return loaded(self.tiles, rows, {"tumour": "tumour", "label": "label"})


def large_enough(tiles: TileSet, rows: np.ndarray, settings: Settings) -> np.ndarray:
    """Those of the rows whose tiles hold `segmentation.least_lesion` labelled pixels or more."""
    if not settings.least_lesion:
        return rows
    return rows[tiles.columns.take("foreground", rows) >= settings.least_lesion]


def chosen_cases(tiles: TileSet, rows: np.ndarray, settings: Settings, seed: int) -> np.ndarray:
    """Of the real training rows those that the section `segmentation` says: large lesions, of so many cases.

    Raises UserError where there are fewer cases than asked, or nothing is left.
    """
    kept = large_enough(tiles, rows, settings)
    if len(rows) and not len(kept):
        raise UserError(
            f"segmentation.least_lesion: none of the {len(rows)} tiles to train on holds {settings.least_lesion} "
            "labelled pixels; ask for fewer"
        )
    return kept if settings.cases is None else cases_of(tiles.index, kept, settings.cases, seed, "segmentation.cases")


def segmentor_rows(tiles: TileSet, part: Part | None = None, kept: float = 0.0) -> np.ndarray:
    """Training tiles with a tumour image and its label: all, or the frozen segmentor's part or the judge's.

    `kept`: share of the patients that is the judge's alone, where there are enough of them (`method.judge_share`).
    """
    every = tiles.positions("train", "tumour", "label")
    if part is None:
        return every
    if (tiles.domains or tiles.domain) and len(own := kept_for_judges(tiles.index, every, kept)):
        return own if part == "judge" else np.setdiff1d(every, own)
    labelled = tiles.with_roles("tumour", "label")
    index = tiles.index.assign(fold=np.where(labelled, tiles.index["fold"], -1))
    return segmentor_and_judge(index)[PARTS.index(part)]
