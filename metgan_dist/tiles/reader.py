"""The pixels of tiles by what the index says of them, normalised; without the index: it travels with every task."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from metgan_dist.storage import Options, is_local
from metgan_dist.tiles.intensity import normalise
from metgan_dist.tiles.shards import read_tile, read_tiles
from metgan_dist.volumes.layers import Layer

AT_ONCE = 16
"""Arrays of shards that are read from object storage at a time: most of it is waiting."""

Place = tuple[str, Layer, int]
"""Shard, layer as it is called there, and position of what is stored of a tile."""


@dataclass(frozen=True)
class TileReader:
    """Reads tiles by what the index says of them; small.

    layers: of each role that the set has, one for each of its channels; holds: by domain, the roles of its tiles, where
    the set has domains; stored: what a layer is called in the shards, where that is another name. The tiles of a mixed
    set lie in its parts: each is read by the reader of its own.
    """

    folder: str
    digest: str
    layers: Mapping[str, tuple[Layer, ...]]
    clip: bool
    options: Options | None
    parts: tuple[TileReader, ...] = ()
    holds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stored: Mapping[Layer, Layer] = field(default_factory=dict)

    def load(self, tile: dict[str, Any], roles: Collection[str] | None = None) -> dict[str, np.ndarray]:
        """Arrays of a tile described by `TileSet.addresses`; as `TileSet.load`. Of `roles` alone, where given."""
        (loaded,) = self.load_together([tile], roles)
        return loaded

    def load_together(
        self, tiles: Sequence[dict[str, Any]], roles: Collection[str] | None = None
    ) -> list[dict[str, np.ndarray]]:
        """As `load` of each tile, in their order; what they have in one shard is read together, shards side by side."""
        if self.parts:
            return self._of_parts(tiles, roles)
        wanted: dict[tuple[str, Layer], set[int]] = {}
        for tile in tiles:
            for layer in self._layers(tile, roles):
                shard, name, position = self._place(tile, layer)
                wanted.setdefault((shard, name), set()).add(position)
        stored = self._read({array: sorted(positions) for array, positions in wanted.items()})
        return [self._normalised(tile, roles, stored) for tile in tiles]

    def pixels(self, tile: dict[str, Any], layer: Layer) -> np.ndarray:
        """As `TileSet.pixels`."""
        if self.parts:
            return self.parts[tile["part"]].pixels(tile, layer)
        return read_tile(self.folder, *self._place(tile, layer), self.digest, self.options)

    def _of_parts(self, tiles: Sequence[dict[str, Any]], roles: Collection[str] | None) -> list[dict[str, np.ndarray]]:
        loaded: dict[int, dict[str, np.ndarray]] = {}
        for number, part in enumerate(self.parts):
            own = [place for place, tile in enumerate(tiles) if tile["part"] == number]
            loaded |= zip(own, part.load_together([tiles[place] for place in own], roles), strict=True)
        return [loaded[place] for place in range(len(tiles))]

    def _roles(self, tile: dict[str, Any], roles: Collection[str] | None) -> list[str]:
        held = self.holds.get(tile.get("domain", ""), tuple(self.layers))
        return [role for role in held if roles is None or role in roles]

    def _layers(self, tile: dict[str, Any], roles: Collection[str] | None) -> list[Layer]:
        return [layer for role in self._roles(tile, roles) for layer in self.layers[role]]

    def _place(self, tile: dict[str, Any], layer: Layer) -> Place:
        prefix = "label_" if layer == "label" else ""
        return str(tile[f"{prefix}shard"]), self.stored.get(layer, layer), int(tile[f"{prefix}position"])

    def _read(self, wanted: Mapping[tuple[str, Layer], Sequence[int]]) -> dict[Place, np.ndarray]:
        """What is stored at some positions of arrays."""

        def read(array: tuple[str, Layer]) -> np.ndarray:
            return read_tiles(self.folder, *array, wanted[array], self.digest, self.options)

        if is_local(self.folder):
            parts = [read(array) for array in wanted]
        else:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                parts = list(pool.map(read, wanted))
        return {
            (*array, position): pixels
            for (array, positions), part in zip(wanted.items(), parts, strict=True)
            for position, pixels in zip(positions, part, strict=True)
        }

    def _normalised(
        self, tile: dict[str, Any], roles: Collection[str] | None, stored: Mapping[Place, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The arrays of a tile from what is stored of it."""

        def channel(layer: Layer) -> np.ndarray:
            low, high = tile[f"{layer}_low"], tile[f"{layer}_high"]
            return normalise(stored[self._place(tile, layer)], low, high, clip=self.clip)

        return {
            role: stored[self._place(tile, role)].astype(np.uint8)
            if role == "label"
            else np.stack([channel(layer) for layer in self.layers[role]])
            for role in self._roles(tile, roles)
        }
