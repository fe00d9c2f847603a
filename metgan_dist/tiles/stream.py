"""Tiles as batches: an endless, exactly resumable stream for training, read by Ray Data; a plain iterator for the rest.

The stream is defined by arithmetic, not by the state of a loader. Image p of a run is tile p % N of the permutation of
epoch p // N, and the permutation follows from (seed, epoch). Whoever knows how many images a run has seen
can go on from there, with any number of workers. It is planned here and read by Ray tasks, in executions
of some thousand tiles: a Ray Data execution costs a fraction of a second to start. In an execution tiles are read in
the order in which they lie, and handed on in that of the stream: what is asked of one shard is asked together.

`training.shuffle_window` takes the place of the permutation where a request for each tile is too dear: see windows.py.

Where anatomy and tumour images are drawn apart, image p consists of two tiles, each by this arithmetic over the tiles
of its own domain: each domain goes through permutations of its own, as often as its size asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import ray.data
import torch
from ray.data import ExecutionResources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from metgan_dist.cluster.progress import quiet
from metgan_dist.errors import UserError
from metgan_dist.recipe import Recipe
from metgan_dist.recipe.methods.terms import organs_of
from metgan_dist.tiles.load import NUMBERS, TARGET, Load
from metgan_dist.tiles.organs import organ_numbers
from metgan_dist.tiles.permutation import permuted
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.tiles.windows import window_end, windowed

EXECUTION_BYTES = 256 * 2**20
TASK_BYTES = 32 * 2**20
TASK_TILES = 64
# The word that keeps the permutations of the tiles that are drawn apart from those of the others.
TARGET_ORDER = (2,)

Batch = dict[str, torch.Tensor]


def tile_stream(
    tiles: TileSet,
    recipe: Recipe,
    *,
    split: str = "train",
    rows: np.ndarray | None = None,
    target: np.ndarray | None = None,
    rank: int = 0,
    world: int = 1,
    batch_size: int = 1,
    start: int = 0,
    stop: int,
    cpus: float = 1.0,
    within: bool = False,
    here: bool = False,
) -> Iterator[Batch]:
    """Batches of one rank, from image `start` to image `stop` of the whole run (all ranks counted).

    A global batch is world * batch_size consecutive images; this rank gets its part of each. Batches are whole:
    the last one reaches past `stop` where that does not divide.

    Args:
        tiles: the set.
        recipe: `training.seed`, `training.augment`, `training.shuffle_window` and `method.organs` are used.
        split: whose tiles.
        rows: these alone, rows of the set, instead of a split's.
        target: rows of the set whose tumour images are drawn apart from the anatomy, which `rows` then give.
        rank, world: this worker and their number.
        batch_size: images on this rank in one batch.
        start, stop: images of the run.
        cpus: logical CPUs that the reading tasks of this rank may take together.
        within: this process has reserved them with its own: the tasks run on its node and ask Ray for none.
        here: tiles are read in this process, by a thread, without Ray.

    Yields:
        anatomy, tumour: float32 (N, C, [D,] H, W) in [-1, 1]; label: int64 (N, [D,] H, W); tile: int64 (N,), rows;
        organ: int64 (N,), places in `method.organs`, or in the set's list of organs where that is empty; -1 for another
        organ or none; left out where both are empty. With `target` also tumour_label: int64 (N, [D,] H, W) and
        tumour_tile: int64 (N,), of the tile that gives `tumour`; the others are of the anatomy's. Of a domain without
        labels label or tumour_label is left out, and of rows of one domain what these have not.

    Raises UserError when the split has no tiles.
    """
    rows = tiles.positions(split) if rows is None else rows
    if not len(rows) or (target is not None and not len(target)):
        raise UserError(f"{tiles.uri}: no tiles in split {split}; make the tiles with other tiles.test, val or gap")
    seed = recipe.training.seed
    augment = recipe.training.augment
    affine, shifted = augment in ("affine", "affine-shift"), augment == "affine-shift"
    load = Load(tiles.reader, seed if augment else None, affine, shifted)
    per_task, most = _tiles_per_task(tiles, batch_size), EXECUTION_BYTES // _tile_bytes(tiles)
    window = _window(recipe, rows)
    parts = _parts(start, stop, rank, world, batch_size, _sizes(per_task, most, window), len(rows), window)
    planned = (_planned(tiles, rows, target, part, recipe) for part in parts)
    if here:
        # A batch is read at a time, but of a window what this process is to have of it: its blocks lie together.
        yield from _read_here(load, planned, batch_size, batch_size if window is None else None)
        return

    def execute(part: list[dict[str, Any]]) -> tuple[ray.data.Dataset, np.ndarray]:
        """The tiles of a part of the stream, all in the object store when this returns, and where each of them is."""
        lying = sorted(range(len(part)), key=lambda place: _address(part[place]))
        dataset = _loaded([part[place] for place in lying], load, per_task, cpus, within)
        return dataset, np.argsort(lying)

    # One execution is read while the one before it is trained on; two would only hold more memory.
    with ThreadPoolExecutor(1) as ahead:
        for dataset, order in _one_ahead(ahead, execute, planned):
            yield from _batches(dataset, order, batch_size)


def _one_ahead(ahead: ThreadPoolExecutor, do: Callable[[Any], Any], given: Iterable[Any]) -> Iterator[Any]:
    """What is done with each, in order, the next one begun when one is handed out."""
    coming = None
    for one in given:
        ready, coming = coming, ahead.submit(do, one)
        if ready is not None:
            yield ready.result()
    if coming is not None:
        yield coming.result()


def _read_here(
    load: Load, planned: Iterable[list[dict[str, Any]]], batch_size: int, together: int | None
) -> Iterator[Batch]:
    """Whole batches of the planned tiles, so many read together (None: all of a part), the next while one is used."""
    pieces = (
        part[first : first + (together or len(part))]
        for part in planned
        for first in range(0, len(part), together or len(part))
    )
    with ThreadPoolExecutor(1) as ahead:
        for piece in _one_ahead(ahead, load.stack, pieces):
            for first in range(0, len(piece["tile"]), batch_size):
                yield _tensors({role: values[first : first + batch_size] for role, values in piece.items()})


def tile_batches(
    tiles: TileSet, rows: Sequence[int] | np.ndarray, batch_size: int, organs: Sequence[str] = ()
) -> Iterator[Batch]:
    """Batches of the given tiles in the given order, read in this process, never augmented; as `tile_stream`.

    organs: the list that `organ` counts in, as a method knows it; empty: the set's own.
    """
    load = Load(tiles.reader, None)
    for first in range(0, len(rows), batch_size):
        part = np.asarray(rows[first : first + batch_size])
        yield _tensors(load.stack(_plan(tiles, part, np.zeros_like(part), organs)))


def rank_positions(start: int, stop: int, rank: int, world: int, batch_size: int) -> np.ndarray:
    """Images of the run that one rank gets, in order."""
    whole = world * batch_size
    firsts = np.arange(start, stop, whole) + rank * batch_size
    return (firsts[:, None] + np.arange(batch_size)).ravel()


def planned_rows(
    rows: np.ndarray, positions: np.ndarray, seed: int, order: Sequence[int] = (), window: int | None = None
) -> np.ndarray:
    """Row number of the tile at each position of the endless stream over `rows`; positions ascend.

    `order`: further words that the permutations follow from, for a stream beside that of (seed, epoch). `window`: tiles
    that are shuffled together, where there are more; without one, all of them are.
    """
    epochs, places = np.divmod(positions, len(rows))
    planned = np.empty(len(positions), dtype=np.int64)
    for epoch in np.unique(epochs):
        here, words = epochs == epoch, (seed, int(epoch), *order)
        if window is None or len(rows) <= window:
            planned[here] = rows[permuted(places[here], len(rows), words)]
        else:
            planned[here] = rows[windowed(places[here], len(rows), window, words)]
    return planned


def _planned(
    tiles: TileSet, rows: np.ndarray, target: np.ndarray | None, positions: np.ndarray, recipe: Recipe
) -> list[dict[str, Any]]:
    """What is read for the images at these positions of the run."""
    seed, window = recipe.training.seed, recipe.training.shuffle_window
    own = _plan(tiles, planned_rows(rows, positions, seed, (), window), positions, organs_of(recipe.method))
    if target is None:
        return own
    others = _plan(tiles, planned_rows(target, positions, seed, TARGET_ORDER, window), positions, ())
    pairs = zip(own, others, strict=True)
    return [tile | {TARGET + key: value for key, value in other.items()} for tile, other in pairs]


def _plan(tiles: TileSet, rows: np.ndarray, images: np.ndarray, organs: Sequence[str]) -> list[dict[str, Any]]:
    """What a task must know of each tile: where it lies, its row, its place in the stream, its organ."""
    numbers = zip(rows.tolist(), images.tolist(), tiles.addresses(rows), strict=True)
    planned = [{"tile": row, "image": image, **address} for row, image, address in numbers]
    if names := organs or tiles.organs:
        for tile, organ in zip(planned, organ_numbers(tiles.columns.take("organ", rows), names).tolist(), strict=True):
            tile["organ"] = organ
    return planned


def _window(recipe: Recipe, rows: np.ndarray) -> int | None:
    """Tiles of a window, where these rows are more than one."""
    window = recipe.training.shuffle_window
    return None if window is None or len(rows) <= window else window


def _address(tile: dict[str, Any]) -> tuple[int, str, int]:
    """Where a planned tile lies: it is read with those that lie beside it."""
    return tile.get("part", 0), tile["shard"], tile["position"]


def _sizes(per_task: int, most: int, window: int | None) -> Iterator[int]:
    """A rank's images in executions: few first, so that training starts soon, then more; at once where it has windows,
    whose blocks would be read twice.
    """
    largest = max(1, most // per_task) * per_task
    size = 2 * per_task if window is None else largest
    while True:
        yield size
        size = min(2 * size, largest)


def _parts(
    start: int, stop: int, rank: int, world: int, batch_size: int, sizes: Iterator[int], count: int, window: int | None
) -> Iterator[np.ndarray]:
    """A rank's images from `start` to `stop` of a run over `count` tiles, cut into executions of whole batches.

    They end where windows end, after the global batch that lies in both.
    """
    whole = world * batch_size
    while start < stop:
        batches = next(sizes) // batch_size
        if window is not None:
            batches = min(batches, -(-(window_end(start, count, window) - start) // whole))
        end = start + batches * whole
        yield rank_positions(start, min(end, stop), rank, world, batch_size)
        start = end


def _loaded(
    planned: Sequence[dict[str, Any]], load: Load, per_task: int, cpus: float, within: bool
) -> ray.data.Dataset:
    """One Ray Data execution, in order, within `cpus`; its tiles are in the object store when this returns.

    Reading batches from a running execution would be simpler, but Ray then schedules in a busy loop within the
    training process until the last tile is taken: on two cores that halved the speed of training.
    """
    blocks = -(-len(planned) // per_task)
    share = min(1.0, cpus)
    place: dict[str, Any] = {"num_cpus": share}
    if within:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        place = {"num_cpus": 0, "scheduling_strategy": here}
    dataset = ray.data.from_items(list(planned), override_num_blocks=blocks).map_batches(
        load,
        batch_size=per_task,
        **place,
        compute=ray.data.TaskPoolStrategy(size=min(blocks, max(1, int(cpus / share)))),
    )
    quiet(dataset)
    dataset.context.raise_original_map_exception = True  # a damaged file is told by its name
    dataset.context.execution_options.preserve_order = True
    dataset.context.execution_options.resource_limits = ExecutionResources.for_limits(cpu=max(cpus, share))
    return dataset.materialize()


def _batches(dataset: ray.data.Dataset, order: np.ndarray, batch_size: int) -> Iterator[Batch]:
    """Batches of what was read, in the order of the stream: `order` says which tile of the dataset comes next."""
    # Results, whose sizes are Ray's choice, are taken as they lie in the object store.
    results = list(dataset.iter_batches(batch_size=None, prefetch_batches=1))
    firsts = np.cumsum([0, *(len(result["tile"]) for result in results)])
    which = np.searchsorted(firsts, order, side="right") - 1
    places = list(zip(which.tolist(), (order - firsts[which]).tolist(), strict=True))
    for first in range(0, len(places), batch_size):
        own = places[first : first + batch_size]
        yield _tensors({role: np.stack([results[part][role][place] for part, place in own]) for role in results[0]})


def _tile_bytes(tiles: TileSet) -> int:
    """Of a loaded tile: channels of float32 and a label."""
    return int(np.prod(tiles.shape)) * (1 + 4 * len((*tiles.layers("anatomy"), *tiles.layers("tumour"))))


def _tiles_per_task(tiles: TileSet, batch_size: int) -> int:
    """A multiple of the batch: enough to outweigh the cost of a task, few enough to keep its result small."""
    return max(1, min(TASK_TILES, TASK_BYTES // _tile_bytes(tiles)) // batch_size) * batch_size


def _tensors(batch: dict[str, np.ndarray]) -> Batch:
    """Torch tensors of their own memory: what Ray hands out is shared and read-only."""
    kinds = dict.fromkeys(("label", "tumour_label", *NUMBERS.values()), torch.int64)
    return {
        role: torch.tensor(np.array(values), dtype=kinds.get(role, torch.float32)) for role, values in batch.items()
    }
