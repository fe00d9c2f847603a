"""Mask generation: label maps are drawn from nothing, and compared as a set with real ones that were held out.

A method draws one mask for each held-out tile, by the tile's number, so that the same are scored each time; there is no
tile that it should be like. What is scored is in scores/masks.py. A mask counts as near to a training mask by what the
tile set holds of them, so copies are told without the generator's help.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch

from metgan_dist.figures import image_grid
from metgan_dist.methods.method import Batch, Method
from metgan_dist.scores.column import columns
from metgan_dist.scores.masks import AXES, TrainingMasks, compare_masks, mask_measures
from metgan_dist.scores.scored import Scored, TileScorer
from metgan_dist.tasks.pictures import on_device
from metgan_dist.tasks.task import ALL, GENERATED, REAL, Maker, Task, Wanted
from metgan_dist.tiles.stream import tile_batches

DISTRIBUTIONS = ("volume", "components", "sphericity", "place")


class MaskGeneration(Task):
    """Masks are scored as a set, held-out masks beside them; only `nearest` is of a single mask."""

    name = "mask_generation"
    fields = ("label",)
    columns = columns(
        "mask_distance",
        *(f"{name}_distance" for name in DISTRIBUTIONS),
        *("precision", "recall", "density", "coverage", "nearest"),
    )

    def samples(self, split: str) -> dict[str, np.ndarray]:
        """As many masks as are held out, and these."""
        return {GENERATED: self.rows(split), REAL: self.rows(split)}

    def scorer(self, sample: str, wanted: Wanted = ALL) -> TileScorer:
        """That notes the measures of each mask."""
        return TileScorer(int(self.tiles.manifest["data"]["classes"]), show=wanted.show)

    def score(self, sample: str, scorer: TileScorer, batch: Batch, maker: Maker | None) -> None:
        """The masks that `maker` draws; those of the batch without one."""
        masks = (batch["label"] if maker is None else maker.translate(batch)).cpu().numpy()
        found = [self.measures(mask) for mask in masks]
        shown = torch.from_numpy(np.stack([_from_above(mask) for mask in masks])).unsqueeze(1) if scorer.show else None
        scorer.add(batch, {name: np.array([own[name] for own in found]) for name in found[0]}, shown)

    def summary(self, scored: Mapping[str, Scored]) -> dict[str, float]:
        """As `compare_masks`, without its tests; of copying also `nearest_real`, what the held-out masks have."""
        return {name: value for name, value in _compared(scored).items() if not name.endswith("_p")}

    def of_set(self, scored: Scored, real: Scored) -> dict[str, float]:
        """All columns that are no single mask's."""
        found = compare_masks(scored.per_tile, real.per_tile)
        return {column.name: found[column.name] for column in self.columns if column.name in found.keys() - {"nearest"}}

    def summaries(self, scored: Mapping[str, Scored], rows: np.ndarray) -> dict[str, dict[str, float]]:
        """As `summary`, with the tests; of the real masks how many are independent (`units`), and means of measures."""
        return self.compared_with({name: one.of(rows) for name, one in scored.items()}, rows)

    def compared_with(self, scored: Mapping[str, Scored], rows: np.ndarray) -> dict[str, dict[str, float]]:
        """As `summaries`, of any number of drawn masks; `rows`: of the real ones."""
        means = scored[REAL].per_tile.drop(columns="tile").mean().dropna()
        of_real = {"units": float(self.units(rows).count), **{str(name): float(own) for name, own in means.items()}}
        return {GENERATED: _compared(scored), REAL: of_real}

    def line(self, split: str, scores: Mapping[str, Any]) -> str:
        """The four distributions, what is covered, and how near to the training masks."""
        made, real = scores[GENERATED], scores[REAL]
        parts = [f"{split}: {scores['tiles']} drawn; real ones of {real['units']:.0f} units"]
        if "mask_distance" in made:
            each = [f"{name} {made[f'{name}_distance']:.3g} (p {made[f'{name}_p']:.2g})" for name in DISTRIBUTIONS]
            parts.append(f"distance {made['mask_distance']:.3f} deviations: {', '.join(each)}")
            parts.append(
                f"precision {made['precision']:.2f}, recall {made['recall']:.2f}, density {made['density']:.2f}, "
                f"coverage {made['coverage']:.2f}"
            )
        copied = f", {made['copies']:.0%} nearer than 95 % of the real ones" if "copies" in made else ""
        parts.append(f"nearest training mask at a Dice of {made['nearest']:.3f} (real {real['nearest']:.3f}){copied}")
        return "; ".join(parts)

    def doubt(self, scores: Mapping[str, Any]) -> str | None:
        """Masks without a voxel."""
        empty = scores[GENERATED]["empty"]
        return f"{empty:.0%} of the masks that were drawn are empty" if empty else None

    def notes(self, split: str) -> list[str]:
        """What the tests count."""
        return [
            f"Masks are drawn from nothing: none has a true one. The real masks are of {self.units(self.rows(split))}; "
            "tests count masks, so that of several masks of one patient they are too sure."
        ]

    def grid(self, method: Method, rows: np.ndarray, device: torch.device) -> bytes:
        """PNG of masks drawn and real ones, each as its projections along all axes (2D: as it is)."""
        shown: dict[str, list[np.ndarray]] = {}
        for batch in tile_batches(self.tiles, rows, 1):
            drawn = method.translate(on_device(batch, device))[0].cpu().numpy()
            for title, mask in (("drawn", drawn), ("real", batch["label"][0].numpy())):
                for name, picture in projections(mask).items():
                    shown.setdefault(f"{title}{name}", []).append(picture)
        order = sorted(shown, key=lambda title: title.startswith("real"))
        return image_grid({title: shown[title] for title in order})

    def given(self, rows: np.ndarray) -> dict[str, list[np.ndarray]]:
        """The real masks of the tiles, along z, which no method has seen; any drawn one may stand beside any."""
        return {"real": [_from_above(self.tiles.load(int(row))["label"]) for row in rows]}

    @property
    def training_rows(self) -> np.ndarray:
        """The tiles of `training_masks`, in their order."""
        return self.tiles.positions("train", *self.fields)

    @cached_property
    def training_masks(self) -> TrainingMasks:
        """What the generator may have copied: the training tiles' labels."""
        kept = TrainingMasks()
        for batch in tile_batches(self.tiles, self.training_rows, 8):
            for mask in batch["label"].numpy():
                kept.add(mask)
        return kept

    @cached_property
    def _voxel(self) -> tuple[float, ...] | None:
        """Proportions of a voxel, where they are known."""
        names = [f"spacing_{axis}" for axis in AXES[-len(self.tiles.shape) :]]
        if any(name not in self.tiles.index for name in names) or self.tiles.index[names].isna().to_numpy().any():
            return None
        return tuple(float(self.tiles.index[name].iloc[0]) for name in names)

    def measures(self, mask: np.ndarray) -> dict[str, float]:
        """All that is noted of a mask (D, H, W) or (H, W); NaN where an empty one has nothing."""
        return {**mask_measures(mask, self._voxel), "nearest": self.training_masks.nearest(mask)[0]}


def _compared(scored: Mapping[str, Scored]) -> dict[str, float]:
    real = scored[REAL].per_tile
    return {**compare_masks(scored[GENERATED].per_tile, real), "nearest_real": float(real["nearest"].mean())}


def _from_above(mask: np.ndarray) -> np.ndarray:
    """The first of `projections`."""
    return next(iter(projections(mask).values()))


def projections(mask: np.ndarray) -> dict[str, np.ndarray]:
    """Of a mask (D, H, W), by axis, how much of each line along it is filled, black to white as far as any line is.

    Of a mask (H, W), which has no name, the mask itself.
    """
    filled = (mask > 0).astype(np.float32)
    views = {"": filled} if mask.ndim == 2 else {f" along {axis}": filled.sum(axis=k) for k, axis in enumerate(AXES)}
    return {name: view * (2 / max(1.0, float(view.max()))) - 1 for name, view in views.items()}
