"""What the checkpoint of a fold finds: in a cell of joined tiles, to be counted, and on single tiles, to be shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from metgan_dist.methods.segmentor import Segmentor, likeliest, one_versus_rest
from metgan_dist.scores.labels import tile_counts
from metgan_dist.scores.lesions import match_lesions
from metgan_dist.scores.pieces import Part, match_part
from metgan_dist.tiles.mosaic import Canvas, Cell
from metgan_dist.tiles.stream import tile_batches
from metgan_dist.tiles.tile_set import TileSet, open_part
from metgan_dist.trained import load_method

BATCH = 4


@dataclass(frozen=True)
class FoundInCell:
    """What a fold found in a cell of a place: lesions by class, pixels of the cell (one row) and of each tile."""

    place: int
    classes: dict[int, Part]
    pixels: pd.DataFrame
    tiles: pd.DataFrame


def score_cells(
    checkpoint: str,
    tiles_uri: str,
    cells: Sequence[Cell],
    options: dict[str, Any] | None,
    domain: str | None = None,
) -> list[FoundInCell]:
    """One task: what a checkpoint finds in some cells of tiles, or of those of a domain, a cell's pixels at a time."""
    tiles = open_part(tiles_uri, options, domain)
    segmentor = _Segmentor(checkpoint, options)
    return [_score_cell(segmentor, tiles, cell) for cell in cells]


def _score_cell(segmentor: _Segmentor, tiles: TileSet, cell: Cell) -> FoundInCell:
    classes = segmentor.classes
    probability, truth, brightness = Canvas(cell, classes - 1), Canvas(cell, classes - 1), Canvas(cell, 1)
    corners, counted = dict(cell.tiles()), []
    for row, image, label, chances in segmentor.on(tiles, cell.rows):
        corner = corners[row]
        probability.add(corner, chances.numpy())
        truth.add(corner, one_versus_rest(label[None], classes, torch.float32)[0].numpy())
        brightness.add(corner, image.numpy()[None])
        counted.append({"tile": row, **_pixels(segmentor.labels(chances), label, classes)})
    predicted = segmentor.labels(torch.from_numpy(probability.mean()))
    # Labels differ between tiles only where each was resized by itself: what most of them say counts.
    label = likeliest(torch.from_numpy(truth.mean())[None], 0.5)[0]
    image = brightness.mean()[0]
    parts = {
        k: match_part(predicted.numpy() == k, label.numpy() == k, image, cell.low, cell.whole)
        for k in range(1, classes)
    }
    core = tuple(slice(0, -1) for _ in cell.shape)
    pixels = pd.DataFrame([_pixels(predicted[core], label[core], classes)])
    return FoundInCell(cell.place, parts, pixels, pd.DataFrame(counted))


def _pixels(predicted: Tensor, label: Tensor, classes: int) -> dict[str, int]:
    return {name: int(values[0]) for name, values in tile_counts(predicted[None], label[None], classes).items()}


@dataclass(frozen=True)
class Example:
    """A tile and what a fold made of it alone, arrays ([D,] H, W); `outcome` as in `LesionMatch.outcome`."""

    image: np.ndarray
    label: np.ndarray
    predicted: np.ndarray
    outcome: np.ndarray


def predict_block(
    checkpoint: str,
    tiles_uri: str,
    rows: Sequence[int],
    options: dict[str, Any] | None,
    domain: str | None = None,
) -> dict[int, Example]:
    """The work of `predict_tiles`, in this process."""
    tiles, segmentor = open_part(tiles_uri, options, domain), _Segmentor(checkpoint, options)
    examples = {}
    for row, image, label, chances in segmentor.on(tiles, rows):
        predicted, truth = segmentor.labels(chances).numpy(), label.numpy()
        matches = (match_lesions(predicted == k, truth == k) for k in range(1, segmentor.classes))
        outcome = np.maximum.reduce([match.outcome() for match in matches])
        examples[row] = Example(image.numpy(), truth, predicted, outcome)
    return examples


class _Segmentor:
    """A fold's checkpoint, loaded: what it makes of tiles."""

    def __init__(self, checkpoint: str, options: dict[str, Any] | None) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.set_num_threads(1)
        method = load_method(checkpoint, options)[0]
        assert isinstance(method, Segmentor), checkpoint
        self._network = method.to(self._device).network
        self.classes = self._network.classes

    @torch.no_grad()
    def on(self, tiles: TileSet, rows: Sequence[int] | np.ndarray) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """(row, real image, label, probabilities (classes - 1, ...)) of each tile, the others ([D,] H, W).

        The image is that of the first channel: of several, it stands for how bright a lesion is, and is shown.
        """
        for batch in tile_batches(tiles, rows, BATCH):
            chances = self._network.probabilities(batch["tumour"].to(self._device)).cpu()
            for k, row in enumerate(batch["tile"].tolist()):
                yield row, batch["tumour"][k, 0], batch["label"][k], chances[k]

    def labels(self, chances: Tensor) -> Tensor:
        """Hard labels ([D,] H, W) of probabilities (classes - 1, [D,] H, W)."""
        return likeliest(chances[None], self._network.threshold)[0]
