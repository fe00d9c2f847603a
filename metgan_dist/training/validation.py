"""Scoring a method on held-out tiles, during the training (all ranks together) and after it (per split and volume)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from metgan_dist.figures import image_grid
from metgan_dist.methods.method import Method
from metgan_dist.scores.image import image_scores, summarise
from metgan_dist.scores.labels import PooledDice
from metgan_dist.scores.reference import References, fit_references
from metgan_dist.tiles.stream import tile_batches
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.training.step import Batch, Stepper

BATCH = 4
PICTURES = 4


@dataclass
class Scored:
    """Scores of one prediction over some tiles: a value per tile, and pooled Dice counts."""

    rows: list[int] = field(default_factory=list)
    per_tile: dict[str, list[float]] = field(default_factory=dict)
    dice: PooledDice | None = None

    def add(self, rows: Sequence[int], scores: dict[str, np.ndarray]) -> None:
        """Append the scores of a batch."""
        self.rows += [int(row) for row in rows]
        for name, values in scores.items():
            self.per_tile.setdefault(name, []).extend(values.tolist())

    def count(self, predicted: Tensor, label: Tensor, classes: int) -> None:
        """Add label maps to the Dice counts."""
        if self.dice is None:
            self.dice = PooledDice(classes)
        self.dice.add(predicted, label)

    def joined(self, others: Iterable[Scored]) -> Scored:
        """These scores and those of other ranks, in the order of the rows."""
        parts = [self, *others]
        rows = np.concatenate([np.asarray(part.rows, dtype=int) for part in parts])
        order = np.argsort(rows, kind="stable")
        names = {name: None for part in parts for name in part.per_tile}
        per_tile = {
            name: np.concatenate([part.per_tile.get(name, []) for part in parts])[order].tolist() for name in names
        }
        counts = [part.dice for part in parts if part.dice is not None]
        dice = sum(counts[1:], start=counts[0]) if counts else None
        return Scored(rows[order].tolist(), per_tile, dice)

    def summary(self, dice_name: str) -> dict[str, float]:
        """Means and spreads over tiles, and the pooled Dice under `dice_name`."""
        scores = summarise({name: np.asarray(values) for name, values in self.per_tile.items()})
        if self.dice is not None:
            scores[dice_name] = self.dice.value()
        return scores


def chosen_rows(rows: np.ndarray, most: int) -> np.ndarray:
    """At most `most` rows, evenly spaced, always the same ones."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]


def _to(batch: Batch, device: torch.device) -> Batch:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


@dataclass
class Validator:
    """Scores the live method on the validation tiles; every rank takes every `world`-th tile."""

    tiles: TileSet
    rows: np.ndarray
    judge: Method | None
    device: torch.device
    rank: int = 0
    world: int = 1

    def __call__(self, stepper: Stepper) -> tuple[dict[str, float], bytes | None]:
        """Scores over all ranks and, on rank 0, a PNG grid; nothing where there are no validation tiles.

        A translation gets the image scores and `label_fidelity` (the judge's Dice), a segmentation `dice`.
        """
        if not len(self.rows):
            return {}, None
        classes = int(self.tiles.manifest["data"]["classes"])
        with stepper.inference() as method:
            scored, is_label = Scored(), False
            for batch in tile_batches(self.tiles, self.rows[self.rank :: self.world], BATCH):
                batch = _to(batch, self.device)
                output = method.translate(batch)
                is_label = not output.is_floating_point()
                if is_label:
                    scored.count(output, batch["label"], classes)
                    continue
                scored.add(
                    batch["tile"].tolist(),
                    {**image_scores(output, batch["tumour"]), **cycle_score(method, batch, output)},
                )
                if self.judge is not None:
                    scored.count(self.judge.translate({**batch, "tumour": output}), batch["label"], classes)
            picture = None
            if self.rank == 0:
                picture = grid(method, self.tiles, picture_rows(self.tiles, self.rows), self.device)
        if self.world > 1:
            parts: list[Any] = [None] * self.world
            dist.all_gather_object(parts, scored)
            scored = parts[0].joined(parts[1:])
            is_label = not scored.per_tile
        return scored.summary("dice" if is_label else "label_fidelity"), picture


def cycle_score(method: Method, batch: Batch, output: Tensor) -> dict[str, np.ndarray]:
    """`cycle_mae` per tile: mean absolute difference of the anatomy and what the method's inverse makes of `output`."""
    cycled = method.cycle(batch, output)
    if cycled is None:
        return {}
    difference = (cycled.float() - batch["anatomy"].float()).abs().flatten(1).mean(dim=1)
    return {"cycle_mae": difference.double().cpu().numpy()}


def picture_rows(tiles: TileSet, rows: np.ndarray, count: int = PICTURES) -> np.ndarray:
    """Rows worth looking at: evenly spaced among those with foreground, others only where these are too few."""
    foreground = tiles.index["foreground"].to_numpy()[rows]
    filled, empty = rows[foreground > 0], rows[~(foreground > 0)]
    return chosen_rows(filled, count) if len(filled) >= count else np.concatenate([filled, empty])[:count]


def grid(method: Method, tiles: TileSet, rows: np.ndarray, device: torch.device) -> bytes:
    """PNG of the method's pictures (anatomy, label, generated, real, cycled), a tile a row."""
    columns: dict[str, list[np.ndarray]] = {}
    with torch.no_grad():
        for batch in tile_batches(tiles, rows, 1):
            for name, images in method.pictures(_to(batch, device)).items():
                columns.setdefault(name, []).append(images[0].float().cpu().numpy())
    return image_grid(columns)


def references(tiles: TileSet) -> References:
    """The trivial predictions, fitted on the training tiles alone."""
    batches = tile_batches(tiles, tiles.positions("train"), BATCH)
    return fit_references((batch["anatomy"], batch["tumour"]) for batch in batches)


def evaluate(
    method: Method, tiles: TileSet, rows: np.ndarray, judge: Method, trivial: References, device: torch.device
) -> dict[str, Any]:
    """Scores of the method and of the trivial predictions on `rows`, with the judge's Dice on each and on real images.

    Returns `{"tiles": n, "generated": {...}, "identity": {...}, "affine": {...}, "real": {"label_fidelity": d}}`.
    """
    classes = int(tiles.manifest["data"]["classes"])
    scored = {name: Scored() for name in ("generated", "identity", "affine", "real")}
    with torch.no_grad():
        for batch in tile_batches(tiles, rows, BATCH):
            batch = _to(batch, device)
            outputs = {"generated": method.translate(batch), **trivial.predictions(batch["anatomy"])}
            for name, output in outputs.items():
                own = cycle_score(method, batch, output) if name == "generated" else {}
                scored[name].add(batch["tile"].tolist(), {**image_scores(output, batch["tumour"]), **own})
            for name, output in {**outputs, "real": batch["tumour"]}.items():
                scored[name].count(judge.translate({**batch, "tumour": output}), batch["label"], classes)
    return {"tiles": len(rows), **{name: value.summary("label_fidelity") for name, value in scored.items()}}


def evaluate_splits(
    method: Method, tiles: TileSet, judge: Method, device: torch.device, say: Callable[[str], None]
) -> dict[str, Any]:
    """`evaluate` on the test tiles together and volume by volume, and on volumes that no split ever touched."""
    trivial = references(tiles)
    results: dict[str, Any] = {}
    for split in ("test", "unseen"):
        rows = tiles.positions(split)
        if not len(rows):
            continue
        results[split] = evaluate(method, tiles, rows, judge, trivial, device)
        volumes = tiles.index["volume"].to_numpy()[rows]
        names = sorted(set(volumes))
        if len(names) > 1:
            results[split]["per_volume"] = {
                name: evaluate(method, tiles, rows[volumes == name], judge, trivial, device) for name in names
            }
        say(_line(split, results[split]))
    return results


def _line(split: str, scores: dict[str, Any]) -> str:
    parts = [f"{name} MAE {scores[name]['mae']:.4f}" for name in ("generated", "identity", "affine")]
    dice = [f"{name} {scores[name]['label_fidelity']:.3f}" for name in ("generated", "real", "identity")]
    return f"{split}: {scores['tiles']} tiles; {', '.join(parts)}; label fidelity {', '.join(dice)}"
