"""A task: what a batch of a method holds, on which tiles the method is scored, how, and what of it is shown.

    task = task_of(method, tiles, {"judge": judge})
    for sample, rows in task.samples("test").items():
        scorer = task.scorer(sample)
        for batch in tile_batches(tiles, rows, 4):
            task.score(sample, scorer, batch, method)
        scored[sample] = scorer.scored()
    task.summary(scored)

Training validates so, scores on held-out tiles are made so, and comparisons too, of which each goes over the tiles in
a way of its own: in ranks, in splits, in blocks on a cluster. What they share is here, and what differs between tasks
is in the task's file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from metgan_dist.methods.method import Batch, Method
from metgan_dist.recipe import Recipe
from metgan_dist.scores.column import Column
from metgan_dist.scores.inception import InceptionFeatures
from metgan_dist.scores.scored import Scored, TileScorer
from metgan_dist.tasks.pictures import grid
from metgan_dist.tiles.independence import Units, independent_units
from metgan_dist.tiles.tile_set import TileSet

if TYPE_CHECKING:
    from metgan_dist.volumes.labelled import Role

GENERATED, REAL = "generated", "real"
# Whose channels the columns of a picture have, where these are no label's.
SHOWN_AS = dict.fromkeys(("anatomy", "cycled"), "anatomy") | dict.fromkeys(("tumour", "generated", "real"), "tumour")


class Maker(Protocol):
    """Who makes something of a batch: a method, or a trivial prediction that stands beside it."""

    @property
    def organs(self) -> tuple[str, ...]:
        """As `Method.organs`."""

    def translate(self, batch: Batch) -> Tensor:
        """As `Method.translate`."""

    def cycle(self, batch: Batch, output: Tensor) -> Tensor | None:
        """As `Method.cycle`."""


@dataclass(frozen=True)
class Wanted:
    """What a comparison asks of a scorer; by default all that needs no published weights, and no image is kept.

    names: of the task's scores; None for all. perceptual, inception, show: as `TileScorer` has them.
    """

    names: Sequence[str] | None = None
    perceptual: Callable[[Tensor, Tensor], dict[str, np.ndarray]] | None = None
    inception: InceptionFeatures | None = None
    show: frozenset[int] = frozenset()

    def has(self, name: str) -> bool:
        """Whether a score is asked for."""
        return self.names is None or name in self.names


ALL = Wanted()


@dataclass(frozen=True)
class Drawn:
    """Rows of a tile set to train on; with `target`, they give the anatomy and those the tumour images, drawn apart."""

    rows: np.ndarray
    target: np.ndarray | None = None

    @property
    def epoch(self) -> int:
        """Images of an epoch: a pass over the tiles, over those of the larger domain where there are two."""
        return max(len(self.rows), 0 if self.target is None else len(self.target))


class Task(ABC):
    """What the methods of one task share, on one set of tiles.

    A *sample* is some tiles of a split with what is scored on them: `generated`, what the method makes, and others
    where the task has any, such as `real`, the real images, which the judge sees too.

    Attributes:
        name: what methods call it (`Method.task`).
        fields: roles that a tile must have to be scored.
        columns: its scores, in the order of a table; a validation gives those that need no published weights.
        splits: those that are scored after a training.
        judged_by: roles of the trained segmentors that it is scored by where there are labels to train them on.
        of_real: samples that do not depend on the method.
        shown_as: whose channels the columns of a picture have, by column; one channel of their own where not named.
        tiles: the set.
        judges: trained segmentors, by the role of their training: `judge` finds labels in tumour images, and where
            there is one `judge_source` in anatomy images.
    """

    name: ClassVar[str]
    fields: ClassVar[tuple[Role, ...]]
    columns: ClassVar[tuple[Column, ...]]
    splits: ClassVar[tuple[str, ...]] = ("test", "unseen")
    judged_by: ClassVar[tuple[str, ...]] = ()
    of_real: ClassVar[frozenset[str]] = frozenset({REAL})
    shown_as: ClassVar[Mapping[str, str]] = SHOWN_AS

    def __init__(self, tiles: TileSet, judges: Mapping[str, Method] | None = None) -> None:
        self.tiles, self.judges = tiles, dict(judges or {})

    def of_method(self, method: Method | type[Method]) -> Self:
        """The task of one method, where that says which tiles are its own; the task as it is for others."""
        return self

    @property
    def usual(self) -> tuple[str, ...]:
        """The scores of a table where the recipe names none."""
        return tuple(column.name for column in self.columns)

    @classmethod
    def needs(cls, recipe: Recipe, apart: bool) -> list[tuple[Role, ...]]:
        """What a training asks of the tiles: roles that a tile must have together, one such group a member.

        apart: anatomy and tumour images are drawn apart.
        """
        return [cls.fields]

    def drawn(self, recipe: Recipe, part: str | None = None) -> Drawn:
        """The tiles that the recipe's method trains on; a segmentor that serves another training has a `part`."""
        return Drawn(self.tiles.positions("train", *self.fields))

    def rows(self, split: str) -> np.ndarray:
        """Tiles of a split (val, test, unseen) that a method is scored on."""
        return self.tiles.positions(split, *self.fields)

    def samples(self, split: str) -> dict[str, np.ndarray]:
        """The samples of a split, each with its tiles: those of which the judges that there are have something to say.

        `generated` comes first.
        """
        return {GENERATED: self.rows(split)}

    def held_out(self, split: str) -> dict[str, np.ndarray]:
        """The samples of a split after the training; not those that `whole` scores better than single tiles do."""
        return self.samples(split)

    @property
    def whole_columns(self) -> tuple[Column, ...]:
        """The scores of whole places that a table may have beside `columns`; none where single tiles are scored."""
        return ()

    def whole(self, method: Method | None, split: str, device: torch.device) -> dict[str, dict[str, Any]]:
        """Scores of whole places, joined from their tiles, by sample: of a method, or without one of the real images.

        Nothing where single tiles are what is scored.
        """
        return {}

    def compared(self, split: str) -> dict[str, np.ndarray]:
        """The samples of a comparison, which also holds distributions (FID, KID) against that of real images."""
        return self.samples(split)

    @abstractmethod
    def scorer(self, sample: str, wanted: Wanted = ALL) -> TileScorer:
        """A scorer of a sample; those of several ranks or blocks are joined by `Scored.joined`."""

    @abstractmethod
    def score(self, sample: str, scorer: TileScorer, batch: Batch, maker: Maker | None) -> None:
        """Let `maker` make something of a batch of a sample's tiles, and score it; None for the samples of `of_real`.

        The batch is as `tile_batches` gives it, and lies on the device of the maker and the judges.
        """

    def of_set(self, scored: Scored, real: Scored) -> dict[str, float]:
        """Scores of all that was made in a comparison, beside the real images; none where single tiles tell all.

        Distances of published networks' features are seen to by who compares.
        """
        return {}

    def beside(self, say: Callable[[str], None]) -> dict[str, Maker]:
        """Trivial predictions that are scored beside a method, by name, fitted on the training tiles.

        `say` gets a line for each that must be left out.
        """
        return {}

    @abstractmethod
    def summary(self, scored: Mapping[str, Scored]) -> dict[str, float]:
        """The scores of a validation, of what was scored of each sample; empty where there is nothing to tell."""

    def summaries(self, scored: Mapping[str, Scored], rows: np.ndarray) -> dict[str, dict[str, float]]:
        """The scores on some tiles of `rows`, as results keep them: of each sample, and of what stands beside it."""
        return {name: one.of(rows).summary() for name, one in scored.items()}

    @abstractmethod
    def line(self, split: str, scores: Mapping[str, Any]) -> str:
        """How the scores of a split (its number of tiles, and `summaries`) read in a line."""

    def doubt(self, scores: Mapping[str, Any]) -> str | None:
        """Why the scores of a split are to be doubted; None where they are not."""
        return None

    def notes(self, split: str) -> list[str]:
        """What a reader of a table must know of the tiles of a split beside their number."""
        return []

    def units(self, rows: np.ndarray, group: Literal["auto", "volume", "block"] = "auto") -> Units:
        """What of the tiles `rows` counts once in a test, being independent of each other."""
        return independent_units(self.tiles, rows, group)

    def grid(self, method: Method, rows: np.ndarray, device: torch.device) -> bytes:
        """PNG of what the method shows of some tiles (`Method.pictures`), a tile a row."""
        return grid(method, self.tiles, rows, device, self.shown_as)

    @abstractmethod
    def given(self, rows: np.ndarray) -> dict[str, list[np.ndarray]]:
        """The columns that stand before the methods' in a picture that compares them: what the tiles hold."""
