"""Synthetic tiles on Ray Data: tasks compose, replicas of the generator make images, tasks write; the driver sees rows.

The unit is a shard of `synthesis.shard` tiles, in batches of `synthesis.batch_size`, both cut by the plan: how many
replicas there are, which of them does what and how often a task was tried again changes no pixel. A shard's name is its
place in the plan and its marker is written last, so a job that is started again makes only what has no marker.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import ray
import ray.data
from ray.data import ActorPoolStrategy, ExecutionResources, TaskPoolStrategy

from metgan_dist.cluster.progress import Progress, quiet
from metgan_dist.errors import UserError
from metgan_dist.recipe import Synthesis
from metgan_dist.storage import Options
from metgan_dist.synthesis.compose import Composer, PlannedTile, StoredTiles, planned_tiles
from metgan_dist.synthesis.crew import Crew
from metgan_dist.synthesis.dataset import marker_of, pixels_digest
from metgan_dist.synthesis.drawings import Drawing
from metgan_dist.synthesis.plan import Sources
from metgan_dist.synthesis.replica import Replica
from metgan_dist.tiles.shards import finished_markers, read_marker, write_shard
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.volumes.layers import Layer, layers_of

READ_AT_ONCE = 8


@dataclass(frozen=True)
class Work:
    """What all tasks share, small enough to travel: source tiles, settings, checkpoints, where the shards go.

    channels: of anatomy and of tumour images.
    """

    tiles: str
    digest: str
    channels: tuple[int, int]
    settings: Synthesis
    folder: str
    model: str
    segmentor: str | None
    precision: str
    options: Options


@dataclass
class Part:
    """The tiles of one shard on their way: arrays with the tile axis first, and their origins."""

    shard: str
    origins: list[dict[str, Any]]
    pixels: dict[Layer, np.ndarray]
    anatomy: np.ndarray
    label: np.ndarray
    organs: list[str | None]
    tumour: np.ndarray | None = None
    dice: np.ndarray | None = None
    precision: str = ""


def shard_jobs(plan: pd.DataFrame, size: int) -> dict[str, pd.DataFrame]:
    """The rows of each shard, by its name."""
    return {f"{first // size:07d}": plan.iloc[first : first + size] for first in range(0, len(plan), size)}


def generate(
    work: Work, plan: pd.DataFrame, drawings: Sequence[Drawing], crew: Crew, report: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Make the shards that are not there yet; the markers of all of them, by name. Ray must be initialised.

    Raises UserError when a label finds no place, or source tiles changed meanwhile.
    """
    jobs = shard_jobs(plan, work.settings.shard)
    finished = sorted(finished_markers(work.folder, work.options) & jobs.keys())
    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        known = pool.map(lambda name: read_marker(work.folder, name, work.options), finished)
        markers = dict(zip(finished, known, strict=True))
    todo = {name: rows for name, rows in jobs.items() if name not in markers}
    done = len(plan) - sum(len(rows) for rows in todo.values())
    if done:
        report(f"synthesis: {done} of {len(plan)} tiles are there already")
    if not todo:
        return markers
    report(f"synthesis: {crew}")
    progress = Progress(report, "synthesis", len(plan), done=done)
    for name, marker in _answers(work, todo, drawings, crew):
        markers[name] = marker
        done += len(todo[name])
        progress.step(done)
    return markers


def _answers(
    work: Work, jobs: dict[str, pd.DataFrame], drawings: Sequence[Drawing], crew: Crew
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run the jobs on Ray Data and yield name and marker of each shard, in no particular order."""
    items = [planned_row(name, rows) for name, rows in jobs.items()]
    tasks = TaskPoolStrategy(size=min(len(items), crew.data_tasks))
    # On a GPU one part is unpacked while another one is computed.
    at_once = 2 if crew.gpus else 1
    replicas = ActorPoolStrategy(
        size=min(len(items), crew.replicas),
        max_tasks_in_flight_per_actor=at_once + 1,
        max_concurrent_calls_per_actor=at_once,
        enable_true_multi_threading=at_once > 1,
    )
    share: dict[str, Any] = {"num_gpus": crew.gpus} if crew.gpus else {"num_cpus": crew.cpus}
    dataset = (
        ray.data.from_items(items, override_num_blocks=len(items))
        .map(ComposeStage(work, ray.put(list(drawings))), num_cpus=crew.data_cpus, compute=tasks)
        .map(GenerateStage, fn_constructor_args=(work, crew.device), compute=replicas, **share)
        .map(WriteStage(work), num_cpus=crew.data_cpus, compute=tasks)
    )
    quiet(dataset)
    # So many parts may wait between the stages; without a limit composing would run ahead and fill the memory.
    waiting = 2 * (at_once + 1) * crew.replicas + 4 * crew.data_tasks
    dataset.context.execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=waiting * part_bytes(work.settings, _source(work)[0].tiles.shape, work.channels)
    )
    for row in dataset.iter_rows():
        if row["mistake"]:
            raise UserError(row["mistake"])
        answer = json.loads(row["part"])
        yield answer["shard"], answer["marker"]


def planned_row(shard: str, rows: pd.DataFrame) -> dict[str, Any]:
    """A shard of the plan as the first stage takes it."""
    return {"part": pickle.dumps((shard, planned_tiles(rows))), "mistake": ""}


def part_bytes(settings: Synthesis, shape: tuple[int, ...], channels: tuple[int, int]) -> int:
    """Memory of one shard's tiles on their way: raw and normalised anatomy, image, label."""
    anatomy, tumour = channels
    return settings.shard * int(np.prod(shape)) * (8 * anatomy + 4 * tumour + 1)


# A memo, not state: a worker process opens the source tiles once, not once a shard.
@lru_cache(maxsize=2)
def _opened(tiles: str, digest: str, settings: str, options: str) -> tuple[StoredTiles, Sources]:
    source = TileSet.open(tiles, json.loads(options))
    if source.digest != digest:
        raise UserError(f"synthesis.tiles: {tiles}: these tiles changed after the work began; start it again")
    return StoredTiles(source), Sources.of(source, Synthesis.model_validate_json(settings))


def _source(work: Work) -> tuple[StoredTiles, Sources]:
    return _opened(work.tiles, work.digest, work.settings.model_dump_json(), json.dumps(work.options, sort_keys=True))


class ComposeStage:
    """The first stage, a task: labels laid on anatomy. A user's mistake travels on as a line of text."""

    def __init__(self, work: Work, drawings: ray.ObjectRef) -> None:
        self._work, self._drawings = work, drawings

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        shard, tiles = pickle.loads(row["part"])
        try:
            return {"part": pickle.dumps(self._part(shard, tiles)), "mistake": ""}
        except UserError as error:
            return {"part": b"", "mistake": str(error)}

    def _part(self, shard: str, tiles: Sequence[PlannedTile]) -> Part:
        composer = Composer(*_source(self._work), self._work.settings, ray.get(self._drawings))
        composed = [composer.compose(tile) for tile in tiles]
        return Part(
            shard,
            [tile.origin for tile in composed],
            {layer: np.stack([tile.pixels[layer] for tile in composed]) for layer in composed[0].pixels},
            np.stack([tile.anatomy for tile in composed]),
            np.stack([tile.label for tile in composed]),
            composer.organs(composed),
        )


class GenerateStage:
    """The second stage, an actor that holds a replica of the generator."""

    def __init__(self, work: Work, device: str) -> None:
        self._settings = work.settings
        self._replica = Replica(
            work.model,
            work.segmentor,
            device=device,
            precision=work.precision,
            threads=work.settings.threads,
            options=work.options,
        )

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["mistake"]:
            return row
        part: Part = pickle.loads(row["part"])
        part.tumour, part.dice = generate_part(self._replica, part, self._settings)
        part.precision = self._replica.precision
        # The normalised anatomy has done its service.
        part.anatomy = part.anatomy[:0]
        return {"part": pickle.dumps(part), "mistake": ""}


def generate_part(replica: Replica, part: Part, settings: Synthesis) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, C, [D,] H, W) uint16 and Dice (N,) of a shard's tiles, in the plan's batches."""
    images, dice = [], []
    for first in range(0, len(part.origins), settings.batch_size):
        batch = slice(first, first + settings.batch_size)
        origin = part.origins[first]
        seed = (origin["seed"] + origin["sample"]) % 2**63
        made, found = replica.generate(
            part.anatomy[batch], part.label[batch], seed, settings.samples > 1, part.organs[batch]
        )
        images.append(made)
        dice.append(found)
    return np.concatenate(images), np.concatenate(dice)


class WriteStage:
    """The third stage, a task: the shard, then its marker."""

    def __init__(self, work: Work) -> None:
        self._folder, self._options = work.folder, work.options

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["mistake"]:
            return row
        part: Part = pickle.loads(row["part"])
        assert part.tumour is not None
        assert part.dice is not None
        images = dict(zip(layers_of("tumour", part.tumour.shape[1]), part.tumour.swapaxes(0, 1), strict=True))
        arrays = {**part.pixels, **images, "label": part.label}
        marker = marker_of(part.origins, part.label, images["tumour"], part.dice)
        marker |= {"digest": pixels_digest(arrays), "precision": part.precision}
        write_shard(self._folder, part.shard, arrays, {}, marker, self._options)
        return {"part": json.dumps({"shard": part.shard, "marker": marker}).encode(), "mistake": ""}
