"""What a method's outputs on tiles score, tile by tile: gathered batch by batch, joined over blocks and over ranks.

    scorer = TileScorer(classes, judge=judge.translate)
    for batch in batches:
        scorer.add_images(batch, method.translate(batch))
    Scored.joined([scorer.scored(), *others]).summary()

Trainings validate with it and comparisons score with it; they differ in what they ask of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from metgan_dist.scores.distribution import FeatureSet
from metgan_dist.scores.image import image_scores, summarise
from metgan_dist.scores.inception import InceptionFeatures
from metgan_dist.scores.labels import count_columns, dice, pooled_dice, tile_counts

IMAGE_SCORES = ("mae", "msd", "ssim", "psnr", "correlation")  # of an image against the real one of its place
CYCLE = "cycle_mae"  # of the anatomy that is brought back from an image


@dataclass
class Scored:
    """Scores of one method's outputs on some tiles.

    Attributes:
        per_tile: a row a tile, tiles ascending, with the columns tile (its row in the tile set), one for each score of
            a single image, and where label maps were compared `dice` (NaN where the label is empty: there is nothing to
            find) and the pixels of each class k: overlap_k (in both maps) and size_k (in one plus in the other).
        of_set: scores of the set of tiles (FID, KID), once that is whole; parts have none.
        pictures: images (C, [D,] H, W) by tile.
        features: Inception features of the tiles, of bounded size.
    """

    per_tile: pd.DataFrame
    of_set: dict[str, float] = field(default_factory=dict)
    pictures: dict[int, np.ndarray] = field(default_factory=dict)
    features: FeatureSet | None = None

    @staticmethod
    def joined(parts: Iterable[Scored]) -> Scored:
        """What all parts hold, in whatever order they come: features are added up one by one, tables joined at the end.

        Parts without tiles add nothing. Raises ValueError where parts were not scored alike.
        """
        frames: list[pd.DataFrame] = []
        pictures: dict[int, np.ndarray] = {}
        features: FeatureSet | None = None
        for part in parts:
            frames.append(part.per_tile)
            pictures |= part.pictures
            features = features + part.features if features and part.features else features or part.features
        return Scored(_table(frames), pictures=pictures, features=features)

    def of(self, tiles: Sequence[int] | np.ndarray) -> Scored:
        """The scores of some of the tiles; what belongs to the whole set is left out."""
        return Scored(self.per_tile[self.per_tile["tile"].isin(tiles)].reset_index(drop=True))

    def summary(self, dice_name: str = "label_fidelity") -> dict[str, float]:
        """Mean and spread over the tiles of each score of an image; Dice pooled over the tiles under `dice_name`.

        A score that is NaN on a tile is NaN. There is no Dice where no class occurs, neither labelled nor found.
        """
        counts = count_columns(self.per_tile)
        images = [name for name in self.per_tile if name not in ("tile", "dice", *counts)]
        scores = summarise({name: self.per_tile[name].to_numpy() for name in images})
        pooled = pooled_dice(self.per_tile) if counts else np.nan
        return scores if np.isnan(pooled) else {**scores, dice_name: pooled}


@dataclass
class TileScorer:
    """Scores outputs on tiles, a batch at a time.

    Attributes:
        classes: of the label maps, background included.
        judge: finds the labels (N, [D,] H, W) in the images that a batch holds as `tumour`; None leaves it out.
        images: those of IMAGE_SCORES, and `cycle_mae`, that are wanted.
        perceptual: further scores of images against real ones, as `PerceptualDistance` gives them.
        inception: gives the features that FID and KID of the set are made of.
        show: tiles whose images are kept.
    """

    classes: int
    judge: Callable[[Mapping[str, Tensor]], Tensor] | None = None
    images: Sequence[str] = (*IMAGE_SCORES, CYCLE)
    perceptual: Callable[[Tensor, Tensor], dict[str, np.ndarray]] | None = None
    inception: InceptionFeatures | None = None
    show: frozenset[int] = frozenset()
    _frames: list[pd.DataFrame] = field(default_factory=list, init=False)
    _pictures: dict[int, np.ndarray] = field(default_factory=dict, init=False)
    _features: FeatureSet | None = field(default=None, init=False)

    def add(self, batch: Mapping[str, Tensor], scores: Mapping[str, np.ndarray], shown: Tensor | None = None) -> None:
        """Note the scores, (N,) each, of the tiles of a batch, whose row numbers are `tile` (N,), and what is shown.

        shown: images (N, C, [D,] H, W), of which those of the tiles in `show` are kept.
        """
        tiles = batch["tile"].tolist()
        self._frames.append(pd.DataFrame({"tile": tiles, **scores}))
        if shown is not None:
            self._pictures |= {tile: shown[k].cpu().numpy() for k, tile in enumerate(tiles) if tile in self.show}

    @torch.no_grad()
    def add_images(self, batch: Mapping[str, Tensor], output: Tensor, cycled: Tensor | None = None) -> None:
        """Score images (N, C, [D,] H, W) in [-1, 1] that were made of a batch.

        They are held against its `tumour` and, by the judge, against its `label`.

        Args:
            cycled: the anatomy brought back from the output, for `cycle_mae`, the mean absolute difference.
        """
        output = output.float()
        scores = self._of_images(batch, output, cycled)
        if self.inception is not None:
            self._features = self._features or FeatureSet(self.inception.weights, output.shape[1])
            self._features.add(self.inception(output), batch["tile"].tolist())
        self.add(batch, scores, output)

    @torch.no_grad()
    def add_labels(self, batch: Mapping[str, Tensor], found: Tensor) -> None:
        """Compare label maps (N, [D,] H, W) of integers with the `label` of a batch."""
        self.add(batch, self._of_labels(found, batch["label"]))

    def scored(self) -> Scored:
        """The scores of all that was added."""
        return Scored(_table(self._frames), pictures=self._pictures, features=self._features)

    def _of_images(self, batch: Mapping[str, Tensor], output: Tensor, cycled: Tensor | None) -> dict[str, np.ndarray]:
        scores: dict[str, np.ndarray] = {}
        if paired := [name for name in IMAGE_SCORES if name in self.images]:
            every = image_scores(output, batch["tumour"])
            scores = {name: every[name] for name in paired}
        if cycled is not None and CYCLE in self.images:
            difference = (cycled.float() - batch["anatomy"].float()).abs().flatten(1).mean(dim=1)
            scores[CYCLE] = difference.double().cpu().numpy()
        if self.perceptual is not None:
            scores |= self.perceptual(output, batch["tumour"])
        if self.judge is not None:
            scores |= self._of_labels(self.judge({**batch, "tumour": output}), batch["label"])
        return scores

    def _of_labels(self, found: Tensor, label: Tensor) -> dict[str, np.ndarray]:
        labelled = (label.flatten(1) > 0).any(dim=1).cpu().numpy()
        per_tile = np.where(labelled, dice(found, label, self.classes), np.nan)
        return {"dice": per_tile, **tile_counts(found, label, self.classes)}


def _table(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table, tiles ascending, of tables with the same columns; those without tiles may have none."""
    filled = [frame for frame in frames if len(frame)]
    if not filled:
        return pd.DataFrame({"tile": np.empty(0, dtype=np.int64)})
    for frame in filled[1:]:
        if list(frame) != list(filled[0]):
            raise ValueError(f"cannot join scores {', '.join(filled[0])} and {', '.join(frame)}")
    return pd.concat(filled).sort_values("tile", kind="stable", ignore_index=True)
