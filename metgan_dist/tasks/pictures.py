"""Which tiles are looked at, and a method's pictures of them as a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from metgan_dist.figures import Voxel, by_channel, image_grid, most_label
from metgan_dist.methods.method import Method
from metgan_dist.tiles.stream import Batch, tile_batches
from metgan_dist.tiles.tile_set import TileSet, chosen_rows

PICTURES = 4


def picture_rows(tiles: TileSet, rows: np.ndarray, count: int = PICTURES) -> np.ndarray:
    """Rows worth looking at: evenly spaced among those with foreground, others only where these are too few."""
    foreground = tiles.columns.take("foreground", rows)
    filled, empty = rows[foreground > 0], rows[~(foreground > 0)]
    return chosen_rows(filled, count) if len(filled) >= count else np.concatenate([filled, empty])[:count]


def grid(method: Method, tiles: TileSet, rows: np.ndarray, device: torch.device, shown_as: Mapping[str, str]) -> bytes:
    """PNG of the method's pictures, a tile a row, a channel a column; columns in `shown_as` have that role's channels.

    Crops are cut where they hold most label.
    """
    columns: dict[str, list[np.ndarray]] = {}
    through: list[Voxel] = []
    with torch.no_grad():
        for batch in tile_batches(tiles, rows, 1, method.organs):
            for name, images in method.pictures(on_device(batch, device)).items():
                columns.setdefault(name, []).append(images[0].float().cpu().numpy())
            if len(tiles.shape) == 3 and "label" in batch:
                through.append(most_label(batch["label"][0].numpy()))
    parts = (by_channel(name, images, tiles.channels(shown_as.get(name, "label"))) for name, images in columns.items())
    return image_grid({title: images for part in parts for title, images in part.items()}, through=through)


def loaded(tiles: TileSet, rows: np.ndarray, titles: Mapping[str, str]) -> dict[str, list[np.ndarray]]:
    """Columns of a grid of what tiles hold: each title's role, by channel, where the tiles have it."""
    held = [tiles.load(int(row)) for row in rows]
    columns: dict[str, list[np.ndarray]] = {}
    for title, role in titles.items():
        if not held or role not in held[0]:
            continue
        arrays: Sequence[np.ndarray] = [tile[role] for tile in held]
        columns |= {title: list(arrays)} if role == "label" else by_channel(title, arrays, tiles.channels(role))
    return columns


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The tensors of a batch where a model is."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
