"""One tile before the generator sees it: an anatomy and the label imposed on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from cachetools import LRUCache

from metgan_dist.errors import UserError
from metgan_dist.recipe import Synthesis
from metgan_dist.synthesis.drawings import Drawing
from metgan_dist.synthesis.labels import Bend, bend, lay, merge
from metgan_dist.synthesis.placement import Placed, place, tissue_of
from metgan_dist.synthesis.plan import KINDS, Sources
from metgan_dist.tiles.intensity import normalise
from metgan_dist.tiles.shards import read_tile
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.volumes.layers import Layer

# How often a label is drawn anew on one anatomy, and how many anatomies are tried, before the job gives up.
LABEL_ATTEMPTS, ANATOMY_ATTEMPTS = 4, 24
KEPT_BYTES = 2**26


class PlannedTile(NamedTuple):
    """A row of the table that `plan_tiles` makes; `sources` without the -1."""

    number: int
    kind: str
    anatomy: int
    group: int
    sources: tuple[int, ...]
    seed: int
    sample: int


def planned_tiles(table: pd.DataFrame) -> list[PlannedTile]:
    """The rows of (a part of) the table; a tile's number is its index in it."""
    columns = [name for name in table.columns if name.startswith("source_")]
    rows = zip(
        table.index.tolist(),
        table["kind"].tolist(),
        table["anatomy"].tolist(),
        table["group"].tolist(),
        table[columns].to_numpy().tolist(),
        table["seed"].tolist(),
        table["sample"].tolist(),
        strict=True,
    )
    return [
        PlannedTile(number, KINDS[kind], anatomy, group, tuple(s for s in sources if s >= 0), seed, sample)
        for number, kind, anatomy, group, sources, seed, sample in rows
    ]


@dataclass(frozen=True)
class Composed:
    """What the generator gets, and where it is from.

    pixels: layers of the anatomy as their files have them, ([D,] H, W); anatomy: float32 (C, [D,] H, W) in [-1, 1];
    label: uint8 ([D,] H, W), never empty; origin: columns of the index (source_tile, kind, label_sources, transform,
    seed, sample, foreground).
    """

    pixels: dict[Layer, np.ndarray]
    anatomy: np.ndarray
    label: np.ndarray
    origin: dict[str, Any]


class StoredTiles:
    """The source tiles' pixels as they are stored.

    Those that were read last are kept: a few hundred real tiles give thousands of synthetic ones.
    """

    def __init__(self, tiles: TileSet, kept: int = KEPT_BYTES) -> None:
        self.tiles = tiles
        self._kept: LRUCache[tuple[int, str], np.ndarray] = LRUCache(kept, getsizeof=lambda pixels: pixels.nbytes)

    def read(self, row: int, layer: Layer) -> np.ndarray:
        """Pixels ([D,] H, W) of one layer of a row of the index, not to be written to."""
        key = (row, layer)
        if key in self._kept:
            return self._kept[key]
        tiles, tile = self.tiles, self.tiles.index.iloc[row]
        pixels = read_tile(tiles.uri, tile["shard"], layer, int(tile["position"]), tiles.digest, tiles.options)
        pixels.flags.writeable = False
        if pixels.nbytes <= self._kept.maxsize:
            self._kept[key] = pixels
        return pixels


class Composer:
    """Carries out rows of the plan; each depends on itself alone, in whatever order and process they are done."""

    def __init__(
        self, stored: StoredTiles, sources: Sources, settings: Synthesis, drawings: Sequence[Drawing] = ()
    ) -> None:
        self._stored, self._sources, self._settings, self._drawings = stored, sources, settings, drawings
        self._tiles = stored.tiles
        self._last: tuple[tuple[int, int], Composed] | None = None

    def compose(self, tile: PlannedTile) -> Composed:
        """Anatomy and label of a tile; all samples of one label get the same.

        Where no lesion finds a place in tissue the label is drawn anew, then another anatomy of the group is taken.
        Raises UserError when that fails as well.
        """
        key = (tile.seed, tile.anatomy)
        # Samples of one label follow one another in the plan, so one tile is all there is to remember.
        if self._last is None or self._last[0] != key:
            self._last = key, self._composed(tile)
        known = self._last[1]
        return Composed(known.pixels, known.anatomy, known.label, {**known.origin, "sample": tile.sample})

    def organs(self, composed: Sequence[Composed]) -> list[str | None]:
        """Of the anatomies, which the images show: a label may be from elsewhere."""
        return self._tiles.index["organ"].iloc[[tile.origin["source_tile"] for tile in composed]].tolist()

    def _composed(self, tile: PlannedTile) -> Composed:
        anatomy_row = tile.anatomy
        for other in range(ANATOMY_ATTEMPTS):
            pixels, anatomy = self._anatomy(anatomy_row)
            # Where there are several channels, the first one says what is tissue.
            tissue = None if self._settings.tissue is None else tissue_of(anatomy[0], self._settings.tissue)
            # Without any tissue no label can be placed: on to the next anatomy.
            for again in range(LABEL_ATTEMPTS if tissue is None or tissue.any() else 0):
                attempt = LABEL_ATTEMPTS * other + again
                # Seeded by tile and attempt, so that it matters neither who composes it nor what was composed before.
                random = np.random.Generator(np.random.PCG64([tile.seed, attempt]))
                label, facts = self._label(tile, random)
                placed = Placed(label) if tissue is None else place(label, tissue, random)
                if placed.label.any():
                    facts |= _facts(attempt, placed)
                    return Composed(pixels, anatomy, placed.label, self._origin(tile, anatomy_row, placed, facts))
            # The third word keeps this draw apart from those of labels.
            random = np.random.Generator(np.random.PCG64([tile.seed, other, 1]))
            anatomy_row = self._sources.anatomies.draw(tile.group, random)
        raise UserError(
            f"synthesis.tissue: tile {tile.number}: no lesion of its label found room in the tissue of "
            f"{ANATOMY_ATTEMPTS} anatomy tiles; lower the level, or set it to none"
        )

    def _anatomy(self, row: int) -> tuple[dict[Layer, np.ndarray], np.ndarray]:
        tile, clip = self._tiles.index.iloc[row], self._tiles.reader.clip
        pixels = {layer: self._stored.read(row, layer) for layer in self._tiles.layers("anatomy")}
        limits = {layer: (float(tile[f"{layer}_low"]), float(tile[f"{layer}_high"])) for layer in pixels}
        return pixels, np.stack([normalise(own, *limits[layer], clip=clip) for layer, own in pixels.items()])

    def _label(self, tile: PlannedTile, random: np.random.Generator) -> tuple[np.ndarray, dict[str, Any]]:
        """The label before it is placed, and the numbers of what was done to it."""
        if tile.kind == "drawn":
            drawing = self._drawings[tile.sources[0]]
            if drawing.pixels.shape == self._tiles.shape:
                return drawing.pixels, {}
            label, offset = lay(drawing.pixels, self._tiles.shape, random)
            return label, {"offset": offset}
        labels = [self._stored.read(row, "label").astype(np.uint8) for row in tile.sources]
        if tile.kind != "transformed":
            return merge(labels), {}
        settings = self._settings
        how = Bend.draw(random, settings.rotation, settings.scale, settings.elastic, settings.elastic_smoothness)
        return bend(labels[0], how, random), {"angle": how.angle, "scale": how.scale, "elastic": how.elastic}

    def _origin(self, tile: PlannedTile, anatomy: int, placed: Placed, facts: dict[str, Any]) -> dict[str, Any]:
        if tile.kind == "drawn":
            sources = [self._drawings[number].source for number in tile.sources]
        else:
            sources = [{"tile": row} for row in tile.sources]
        return {
            "source_tile": anatomy,
            "kind": tile.kind,
            "label_sources": json.dumps(sources),
            "transform": json.dumps(facts),
            "seed": tile.seed,
            "foreground": int(np.count_nonzero(placed.label)),
        }


def _facts(attempt: int, placed: Placed) -> dict[str, Any]:
    """How a label came to its place; what did not happen is left out."""
    facts = {"attempt": attempt, "moved": placed.moved, "removed": placed.removed}
    return {name: value for name, value in facts.items() if value}
