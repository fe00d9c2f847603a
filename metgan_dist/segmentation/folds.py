"""What each fold trains on, and the recipe of its training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metgan_dist.errors import UserError
from metgan_dist.lineage import Sources, Tissue
from metgan_dist.methods import check_method
from metgan_dist.recipe import Data, Recipe, Segmentation
from metgan_dist.recipe.methods.segmentor import SegmentorRecipe
from metgan_dist.storage import join
from metgan_dist.tasks.segmentation import chosen_cases, large_enough
from metgan_dist.tiles.mixture import chosen_real, chosen_synthetic
from metgan_dist.tiles.splits import fewer_folds, fold_split
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.trained import find_start, read_result


@dataclass(frozen=True)
class Fold:
    """Rows of one fold: real ones to train on and to choose the checkpoint with, and those of every synthetic set.

    left_out: how many tiles of the synthetic sets it may not train on, for their anatomy or a label is from `val`.
    small: how many real and synthetic tiles it does not train on, for they hold less than `segmentation.least_lesion`.
    """

    number: int
    train: np.ndarray
    val: np.ndarray
    synthetic: tuple[np.ndarray, ...]
    left_out: int = 0
    small: int = 0

    @property
    def samples(self) -> dict[str, int]:
        """Tiles to train on: `real` and `synthetic`."""
        return {"real": len(self.train), "synthetic": sum(len(rows) for rows in self.synthetic)}


def planned_folds(tiles: TileSet, datasets: Sequence[TileSet], recipe: Recipe) -> list[Fold]:
    """The folds that the recipe asks for, after checking that all of them can be trained and scored.

    The validation tiles of a fold are real, whatever it is trained on, and no synthetic tile that it trains on shows
    anything of them: one whose anatomy or label is from tissue that they show, too, is left out.

    Raises UserError, naming the field, when the tiles lack a channel, test tiles or the fold, or when there are fewer
    tiles than asked.
    """
    settings = recipe.segmentation
    _check_tiles(tiles, recipe)
    known = sorted(int(fold) for fold in tiles.index["fold"].unique() if fold >= 0)
    sources = [Sources(dataset) for dataset in datasets]
    folds = []
    for number in _asked(tiles, known, settings):
        train, val = fold_split(tiles.index, number)
        if not len(train) or not len(val):
            side = "train on" if not len(train) else "validate with"
            raise UserError(
                f"segmentation.folds: fold {number} of {tiles.uri} has no tiles to {side}; cut the tiles with fewer "
                "tiles.folds or a smaller tiles.gap"
            )
        if not tiles.index["foreground"].to_numpy()[val].any():
            raise UserError(
                f"segmentation.folds: none of the {len(val)} validation tiles of fold {number} of {tiles.uri} holds a "
                "lesion, so no checkpoint can be chosen by Dice; cut the tiles with fewer tiles.folds, or name the "
                "other folds"
            )
        small = len(train) - len(large_enough(tiles, train, settings))
        train = chosen_cases(tiles, train, settings, recipe.training.seed)
        real = chosen_real(tiles, train, settings.real, "segmentation.real")
        # Of all folds, not of those asked: what a fold trains on does not depend on the others.
        start = known.index(number) / len(known)
        given, left_out = _usable(datasets, sources, Tissue.of(tiles, val))
        usable = [large_enough(dataset, rows, settings) for dataset, rows in zip(datasets, given, strict=True)]
        small += sum(map(len, given)) - sum(map(len, usable))
        synthetic = _chosen_synthetic(datasets, usable, settings, start)
        if not len(real) + sum(map(len, synthetic)):
            raise UserError(
                f"segmentation.real: {settings.real:g} of the {len(train)} tiles of fold {number} is none; ask for more"
            )
        folds.append(Fold(number, real, val, tuple(synthetic), left_out, small))
    return folds


def _chosen_synthetic(
    datasets: Sequence[TileSet], usable: Sequence[np.ndarray], settings: Segmentation, start: float
) -> Sequence[np.ndarray]:
    if settings.synthetic == "all":
        return usable
    return chosen_synthetic(datasets, usable, settings.synthetic, start, "segmentation.synthetic")


def _usable(
    datasets: Sequence[TileSet], sources: Sequence[Sources], validation: Tissue
) -> tuple[list[np.ndarray], int]:
    """Rows of each set that a fold may train on (none that a gate dropped), and how many its validation forbids."""
    given = [dataset.positions("train") for dataset in datasets]
    usable = [rows[~made.touching(validation)[rows]] for rows, made in zip(given, sources, strict=True)]
    return usable, sum(map(len, given)) - sum(map(len, usable))


def seen_by_generators(fold: Fold, tiles: TileSet, trained_on: Sequence[Tissue]) -> int:
    """How many validation tiles of a fold show tissue on which a generator of its synthetic tiles was trained."""
    validation = Tissue.of(tiles, fold.val)
    seen = [validation.touching(training) for training in trained_on]
    return int(np.count_nonzero(np.any(seen, axis=0))) if seen else 0


def _check_tiles(tiles: TileSet, recipe: Recipe) -> None:
    for role in ("tumour", "label"):
        if role not in tiles.manifest["roles"]:
            raise UserError(f"data.{role}: {tiles.uri}: these tiles have no {role}; name one and cut them again")
    if not len(tiles.positions("test")):
        raise UserError(f"data.path: {tiles.uri} has no test tiles to score on; cut the tiles with tiles.test above 0")
    check_method(_trained(recipe), tiles.shape)


def _asked(tiles: TileSet, known: Sequence[int], settings: Segmentation) -> Sequence[int]:
    """Numbers of the folds to train: those asked for, else all that the tiles were cut for.

    Few patients, each a fold, make fewer, which `fewer_folds` tells; too few places are a mistake.
    """
    planned = int(tiles.manifest["tiles"]["folds"])
    if not settings.folds and len(known) < planned and not fewer_folds(tiles.index, planned):
        raise UserError(
            f"tiles.folds: {planned} folds asked, but the training tiles of {tiles.uri} make {len(known)}: there are "
            "too few volumes or places; cut the tiles again with fewer folds"
        )
    for number in settings.folds:
        if number not in known:
            raise UserError(
                f"segmentation.folds: there is no fold {number} in {tiles.uri}; "
                f"there are {', '.join(str(fold) for fold in known)}"
            )
    return sorted(set(settings.folds)) or known


def fold_recipe(recipe: Recipe, fold: Fold, mixture: TileSet) -> Recipe:
    """The recipe with which train_segmentor.py trains a fold on its mixed set.

    Without `segmentation.validate_every`, a validation follows each pass over the training tiles. Folds start from
    different weights and see tiles in different orders, which are the same whatever they train on.
    """
    settings = recipe.segmentation
    every = settings.validate_every or sum(fold.samples.values())
    training = {
        "seed": recipe.training.seed + fold.number,
        "patience": settings.patience,
        "validate_every": every,
        "checkpoint_every": every,
        "start_from": start_of(recipe, fold.number),
    }
    own = _trained(recipe)
    # A mixture of tiles of one domain says nothing of the other.
    data = Data.model_validate(mixture.manifest["data"]) if recipe.data.domains else recipe.data
    return own.model_copy(
        update={
            "data": data.model_copy(update={"path": mixture.uri, "volumes": []}),
            "training": own.training.model_copy(update=training),
            # The mixture holds what they choose.
            "segmentation": settings.model_copy(update={"cases": None, "least_lesion": 0, "domain": None}),
        }
    )


def start_of(recipe: Recipe, number: int) -> str | None:
    """What a fold starts from: `training.start_from`, or the fold of this number of a cross-validation that it names.

    Raises UserError where that has no such fold.
    """
    named, options = recipe.training.start_from, recipe.storage.options
    if named is None:
        return None
    beside = join(recipe.storage.path, named)
    result = read_result(beside, options) or read_result(named, options) or {}
    folds = result.get("artefacts", {}).get("folds")
    if folds is None:
        return named
    if str(number) not in folds:
        raise UserError(
            f"training.start_from: {named} has no fold {number} to start from; it has {', '.join(sorted(folds))}"
        )
    return str(folds[str(number)])


def find_fold_start(recipe: Recipe, number: int, tiles: TileSet) -> dict[str, Any] | None:
    """The trained segmentor that a fold on these tiles starts from, as `find_start` gives it; None without one."""
    data = Data.model_validate(tiles.manifest["data"]) if recipe.data.domains else recipe.data
    own = _trained(recipe).model_copy(update={"data": data})
    training = own.training.model_copy(update={"start_from": start_of(recipe, number)})
    return find_start(own.model_copy(update={"training": training}))


def _trained(recipe: Recipe) -> Recipe:
    """The recipe with the segmentor that its section `segmentation` describes."""
    settings = recipe.segmentation
    own = SegmentorRecipe.beside(
        recipe.method,
        **dict.fromkeys(("segmentor", "judge", "judge_source")),  # a method's: a fold has no use for them
        segmentor_network=settings.network,
        segmentor_width=settings.width,
        segmentor_epochs=settings.epochs,
        segmentor_max_steps=settings.max_steps,
        segmentor_batch_size=settings.batch_size,
        segmentor_learning_rate=settings.learning_rate,
        segmentor_loss=settings.loss,
        segmentor_positive=settings.positive,
        segmentor_negative=settings.negative,
        segmentor_threshold=settings.threshold,
    )
    training = {"batch_size": settings.batch_size}
    return recipe.model_copy(
        update={
            "method": own,
            "training": recipe.training.model_copy(update=training),
        }
    )
