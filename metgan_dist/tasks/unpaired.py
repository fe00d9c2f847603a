"""Unpaired translation: images of a source domain are to look like those of a target, of which none is of their place.

So there is no true image to compare with. What can be told is how far the cycle brings the source image back, and what
the judge of the target finds in translated images of the labels of their sources, beside what it finds in the target's
own labelled tiles. Where there is a judge of the source, too, the S-score of both directions is told
(tasks/shapes.py): in validations pooled over single tiles, which is cheap, and after the training of whole places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from metgan_dist.errors import UserError
from metgan_dist.methods import METHODS, method_class
from metgan_dist.methods.method import Batch, Method
from metgan_dist.recipe import Recipe
from metgan_dist.recipe.methods.rows import PairRecipe
from metgan_dist.scores.column import Column, columns
from metgan_dist.scores.scored import IMAGE_SCORES, Scored, TileScorer
from metgan_dist.tasks import shapes
from metgan_dist.tasks.task import ALL, GENERATED, REAL, Drawn, Maker, Wanted
from metgan_dist.tasks.translation import Translation
from metgan_dist.tiles.shares import rows_of_method

# Target tiles that are translated to the source, and the source's own, which the judge of the source sees.
BACK, REAL_SOURCE = "generated_back", "real_source"


class Unpaired(Translation):
    """Scored are the tiles of the source; the real images are those of the target, and the same for all of them.

    `judges` may hold `judge_source` beside the target's `judge`: it finds labels in images of the source.
    """

    name = "unpaired"
    fields = ("anatomy",)
    columns = columns("cycle_mae", "fid", "kid", "label_fidelity")
    judged_by = ("judge", "judge_source")
    of_real = frozenset({REAL, REAL_SOURCE})
    error = ("cycle_mae", "cycle MAE")

    def drawn(self, recipe: Recipe, part: str | None = None) -> Drawn:
        """The training tiles of either domain: not those that are the judges' alone, and a share of the others."""
        shares, kept, seed = recipe.training.shares, recipe.method.judge_share, recipe.training.seed
        source, target = (self.tiles.positions("train", role) for role in ("anatomy", "tumour"))
        if not shares and not kept:
            return Drawn(source, target)  # without the index, which of large sets is not held
        source, target = (
            rows_of_method(self.tiles.index, rows, share, kept, seed)
            for rows, share in ((source, shares.get("source", 1.0)), (target, shares.get("target", 1.0)))
        )
        return Drawn(source, target)

    def samples(self, split: str) -> dict[str, np.ndarray]:
        """As of any translation; with a judge of the source also the target's tiles, and the source's real images."""
        own = self.held_out(split)
        if "judge_source" in self.judges:
            own[BACK] = self.tiles.positions(split, "tumour", "label")
            own[REAL_SOURCE] = self.tiles.positions(split, "anatomy", "label")
        return own

    def held_out(self, split: str) -> dict[str, np.ndarray]:
        """Without what `whole` says of the other direction."""
        return super().samples(split)

    @property
    def whole_columns(self) -> tuple[Column, ...]:
        """S-scores and what goes with them, by the names of the domains; pairs have no second one."""
        return shapes.whole_columns(*self.tiles.domains) if self.tiles.domains else ()

    def whole(self, method: Method | None, split: str, device: torch.device) -> dict[str, dict[str, Any]]:
        """S-scores, and the Dice of the method's own segmentors where it has some (`shapes.whole_shapes`)."""
        return shapes.whole_shapes(self.tiles, self.judges, method, split, device)

    def scorer(self, sample: str, wanted: Wanted = ALL) -> TileScorer:
        """As of any translation; of the other direction the labels that the judge of the source finds."""
        if sample not in (BACK, REAL_SOURCE):
            return super().scorer(sample, wanted)
        return TileScorer(int(self.tiles.manifest["data"]["classes"]), images=())

    def score(self, sample: str, scorer: TileScorer, batch: Batch, maker: Maker | None) -> None:
        """As of any translation; in the other direction as far as the method has it."""
        if sample not in (BACK, REAL_SOURCE):
            super().score(sample, scorer, batch, maker)
            return
        if sample == REAL_SOURCE:
            image = batch["anatomy"]
        elif isinstance(maker, Method) and maker.translates_back:
            image = shapes.translated(maker, batch, "source")
        else:
            return
        scorer.add_labels(batch, self.judges["judge_source"].translate({"tumour": image}))

    def summary(self, scored: Mapping[str, Scored]) -> dict[str, float]:
        """As of any translation, and with judges the S-scores, pooled over the tiles."""
        own = {"target": scored[GENERATED], "source": scored.get(BACK)}
        pooled: dict[str, float] = {}
        for side in shapes.SIDES:
            pooled |= shapes.pooled(self.tiles, own[side], side)
        return {**super().summary(scored), **shapes.with_mean(pooled)}

    def line(self, split: str, scores: Mapping[str, Any]) -> str:
        """As of any translation, and the S-scores beside those of real images."""
        source, target = self.tiles.domains
        made, real = (scores[sample] for sample in (GENERATED, REAL))
        parts = []
        for side, direction in (("target", f"{source} to {target}"), ("source", f"{target} to {source}")):
            if (score := f"{shapes.S_SCORE}_{side}") in made:
                ceiling = f" (real {real[score]:.3f})" if score in real else ""
                parts.append(f"{direction} {made[score]:.3f}{ceiling}")
        said = [f"S-score {', '.join(parts)}"] if parts else []
        own = scores.get(shapes.SEGMENTED, {})
        names = {f"{shapes.DICE}_source": source, f"{shapes.DICE}_target": target}
        if found := [f"{domain} {own[name]:.3f}" for name, domain in names.items() if name in own]:
            said.append(f"its segmentors {', '.join(found)}")
        return "; ".join([super().line(split, scores), *said])

    def beside(self, say: Callable[[str], None]) -> dict[str, Maker]:
        """None: what they would be fitted to are pairs."""
        say("MAE, identity and affine: left out, images of two domains are no pairs")
        return {}

    def notes(self, split: str) -> list[str]:
        """Of which domain the images are."""
        if not self.tiles.domains:
            return []
        source, target = self.tiles.domains
        count = len(self.compared(split)[REAL])
        return [
            f"Translated are the tiles of {source}. Real images are {count} tiles of {target}, of other places: no "
            "image has a true one, and the error of the cycle says nothing of what lies between (a copy has none)."
        ]

    def of(self, name: str, scored: Scored, rows: np.ndarray) -> Scored:
        """What was scored of some source tiles; of real images, which are of other tiles, all."""
        return scored if name in self.of_real else scored.of(rows)


def check_apart(recipe: Recipe, domains: Sequence[str] = ()) -> None:
    """UserError where anatomy and tumour images are drawn apart, and the recipe's method or choice needs pairs.

    domains: those of the data, where it has any.
    """
    name, keep = recipe.method.name, recipe.training.keep
    check_shares(recipe, domains)
    if not (recipe.data.unpaired or domains):
        return
    if not method_class(name).unpaired(recipe):
        why = f"images of two domains ({', '.join(domains)}) are no pairs" if domains else "data.unpaired parts them"
        remedy = "set method.alpha4 to 0, or " if method_class(name).unpaired(_without_pair_loss(recipe)) else ""
        raise UserError(
            f"method.name: {name} learns from anatomy and tumour images of one place, but {why}; {remedy}use "
            f"{_unpaired_methods()}"
        )
    if domains and keep in IMAGE_SCORES:
        raise UserError(
            f"training.keep: {keep} compares with the real image of the same place, which images of two domains do not "
            "have; use last or label_fidelity"
        )


def check_shares(recipe: Recipe, domains: Sequence[str]) -> None:
    """UserError for shares of domains where there are none."""
    if recipe.training.shares and not domains:
        raise UserError("training.shares: shares are of the patients of two domains, which these data do not have")


def _without_pair_loss(recipe: Recipe) -> Recipe:
    if not isinstance(recipe.method, PairRecipe):
        return recipe
    return recipe.model_copy(update={"method": recipe.method.model_copy(update={"alpha4": 0.0})})


def _unpaired_methods() -> str:
    """The methods that translate, and train unpaired with their own papers' settings, in words."""
    translating = [name for name, method in METHODS.items() if method.task in ("paired", Unpaired.name)]
    recipes = {name: Recipe.model_validate({"method": {"name": name}}) for name in translating}
    *names, last = (name for name, recipe in recipes.items() if METHODS[name].unpaired(recipe))
    return f"{', '.join(names)} or {last}"
