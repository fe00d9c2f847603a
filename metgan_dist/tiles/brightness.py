"""How bright the images of a set are: where a network starts that is to make such images."""

from __future__ import annotations

import numpy as np

from metgan_dist.tiles.tile_set import TileSet, chosen_rows

SEEN = 32  # tiles; the mean of more is hardly another one, and each worker reads them


def mean_intensities(tiles: TileSet) -> dict[str, list[float]]:
    """Of `anatomy` and `tumour`, those that there are, the mean of each channel over training tiles, in [-1, 1].

    Over SEEN of them, evenly spaced: the same on every worker.
    """
    means = {}
    for role in ("anatomy", "tumour"):
        rows = tiles.positions("train", role)
        if len(rows):
            addresses = tiles.addresses(chosen_rows(rows, SEEN))
            images = np.stack([tiles.reader.load(address, (role,))[role] for address in addresses])
            means[role] = images.mean(axis=(0, *range(2, images.ndim)), dtype=np.float64).tolist()
    return means
