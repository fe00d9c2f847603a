"""What a segmentor has found, to be looked at: of some test volumes the plane about the largest lesion.

As in figure 3 of Sallé et al. (2021), close by: the image, what the segmentor sees of it where it is translated, the
true label and the one that was found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from textwrap import fill

import numpy as np
import torch

from metgan_dist.figures import image_grid
from metgan_dist.tasks.joined import Finder
from metgan_dist.tasks.pictures import on_device
from metgan_dist.tasks.seen_through import Translator
from metgan_dist.tiles.splits import group_of
from metgan_dist.tiles.stream import tile_batches
from metgan_dist.tiles.tile_set import TileSet

PICTURES, CLOSE, TITLE = 4, 64, 22  # TITLE: letters of a line above a column


@dataclass(frozen=True)
class Overlays:
    """Planes of volumes, each (H, W) of at most `CLOSE` pixels: images and what is seen of them, [-1, 1], the first
    channel; true and found labels, uint8. `names`: of the units that they show."""

    names: np.ndarray
    image: np.ndarray
    seen: np.ndarray
    true: np.ndarray
    found: np.ndarray

    @staticmethod
    @torch.no_grad()
    def of(
        tiles: TileSet, rows: np.ndarray, find: Finder, translator: Translator | None, device: torch.device
    ) -> Overlays:
        """Of the tile with the most label of each of some units, spread evenly over the tiles `rows`."""
        chosen = _fullest(tiles, rows)
        planes = []
        for batch in tile_batches(tiles, chosen, 1):
            there = on_device(batch, device)
            image = there["tumour"]
            seen = image if translator is None else translator(image)
            own = image[0, 0], seen[0, 0], there["label"][0], find(there).argmax(dim=1)[0]
            planes.append(_close(*(one.float().cpu().numpy() for one in own)))
        images, views, true, found = (np.stack(part) for part in zip(*planes, strict=True))
        names = group_of(tiles.index).to_numpy()[chosen].astype(str)
        return Overlays(names, images, views, true.astype(np.uint8), found.astype(np.uint8))

    def npz(self) -> bytes:
        """As a file of NumPy's."""
        file = BytesIO()
        np.savez_compressed(file, **asdict(self))
        return file.getvalue()

    @staticmethod
    def read(content: bytes) -> Overlays:
        """Those that `npz` has written."""
        with np.load(BytesIO(content), allow_pickle=False) as parts:
            return Overlays(**parts)

    def png(self) -> bytes:
        """A row a unit: image, what is seen of it, true and found labels over the image."""
        columns = {"image": self.image, "as the segmentor sees it": self.seen, "true": self.true, "found": self.found}
        return image_grid({name: list(planes) for name, planes in columns.items()}, rows=list(self.names))


def side_by_side(found: Mapping[str, Overlays]) -> bytes:
    """PNG of what several segmentors, by name, have found in the same planes; none may be missing."""
    first = next(iter(found.values()))
    columns = {
        "image": first.image,
        "true": first.true,
        **{fill(name, TITLE): one.found for name, one in found.items()},
    }
    return image_grid({name: list(planes) for name, planes in columns.items()}, rows=list(first.names))


def _fullest(tiles: TileSet, rows: np.ndarray) -> np.ndarray:
    """Of at most `PICTURES` units the row of the tile with the most label; units without any where all are."""
    own = tiles.index.iloc[rows].assign(row=rows, unit=group_of(tiles.index).iloc[rows])
    own = own[own["foreground"] > 0] if own["foreground"].any() else own
    fullest = own.sort_values("foreground", kind="stable").groupby("unit")["row"].last().to_numpy()
    spread = np.linspace(0, len(fullest) - 1, min(PICTURES, len(fullest))).round().astype(int)
    return fullest[spread]


def _close(image: np.ndarray, seen: np.ndarray, true: np.ndarray, found: np.ndarray) -> list[np.ndarray]:
    """The plane of ([D,] H, W) with the most label, as large as can be up to `CLOSE` pixels about its middle."""
    if true.ndim == 3:
        plane = int((true > 0).sum(axis=(1, 2)).argmax())
        image, seen, true, found = image[plane], seen[plane], true[plane], found[plane]
    box = []
    for axis, length in enumerate(true.shape):
        filled = np.flatnonzero((true > 0).any(axis=1 - axis))
        middle = int(filled.mean()) if len(filled) else length // 2
        first = min(max(0, middle - CLOSE // 2), max(0, length - CLOSE))
        box.append(slice(first, first + CLOSE))
    return [part[tuple(box)] for part in (image, seen, true, found)]
