"""Scores of trained methods on test tiles, spread over a Ray cluster: a task for every method and block of tiles.

Scores of whole volumes, joined from their tiles, are a task for every method, which holds the labels of one at a time.

A task returns the scores of its tiles and statistics of their Inception features, which are of bounded size and joined
as they come: no list of images or features is kept anywhere. Blocks depend on `scores.block` alone and are joined in
their order, so the result does not depend on how many tasks ran at once.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import ray
import torch

from metgan_dist.cluster.progress import Progress
from metgan_dist.cluster.resources import ResourcePlan
from metgan_dist.methods import Method
from metgan_dist.scores.column import COLUMNS
from metgan_dist.scores.distribution import FeatureSet, distribution_scores
from metgan_dist.scores.inception import InceptionFeatures
from metgan_dist.scores.perceptual import PerceptualDistance
from metgan_dist.scores.scored import Scored
from metgan_dist.tasks import GENERATED, Task, Wanted, task_named
from metgan_dist.tasks import REAL as REAL_SAMPLE
from metgan_dist.tasks.pictures import on_device
from metgan_dist.tiles.stream import tile_batches
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.trained import load_method
from metgan_dist.weights import find_weights, missing

BATCH = 4
REAL = "real images"
_GPU_SHARE = 0.25  # scoring is half arithmetic on the CPU, so several tasks share a GPU
_VARIABLES = ("METGAN_WEIGHTS", "METGAN_WEIGHTS_UNVERIFIED", "METGAN_CACHE")


def unusable_scores(names: Sequence[str], missing_weights: str, dimensions: int = 2) -> dict[str, str]:
    """Which of the scores cannot be computed here, on tiles of so many dimensions, and why.

    Raises UserError instead where `missing_weights` is "error", and where weights are not the published ones.
    """
    reasons: dict[str, str] = {}
    for name in names:
        weights = COLUMNS[name].weights if name in COLUMNS else None
        if weights is None:
            continue
        if dimensions == 3:
            reasons[name] = "its network judges 2D images, and these tiles are 3D"
        elif missing_weights == "skip" and missing([weights]):
            reasons[name] = f"no {weights} weights in METGAN_WEIGHTS"
        else:
            find_weights(weights)
    return reasons


@dataclass(frozen=True)
class Scoring:
    """What all blocks share: the tiles, the name of their task, its judges' checkpoints by role, the scores to compute.

    Attributes:
        names: of the task's columns, and of its whole columns.
        here: blocks are scored in this process, one after the other, and not on the cluster.
    """

    tiles: str
    task: str
    judges: Mapping[str, str]
    names: tuple[str, ...]
    options: dict[str, Any]
    here: bool = False


Result = TypeVar("Result")


def score_methods(
    checkpoints: dict[str, str],
    scoring: Scoring,
    samples: Mapping[str, np.ndarray],
    *,
    block: int,
    show: Sequence[int],
    plan: ResourcePlan,
    report: Callable[[str], None],
) -> dict[str, Scored]:
    """Score the methods of `checkpoints` (by label) on tiles; the result also has REAL, the real images.

    Args:
        samples: rows of the tile set that the methods are scored on (`generated`), and of the real images (`real`),
            which may be others or none, as `Task.compared` gives them.
        block: tiles in a task of the cluster.
        show: rows whose images are kept.
        plan: of the cluster; a task takes one CPU, and a share of a GPU where trainings use GPUs.
        report: gets a line of progress at a time.
    """
    rows = dict.fromkeys(checkpoints, samples[GENERATED])
    if REAL_SAMPLE in samples:
        rows = {REAL: samples[REAL_SAMPLE], **rows}
    blocks = {label: [own[first : first + block] for first in range(0, len(own), block)] for label, own in rows.items()}
    shown = frozenset(int(row) for row in show)
    calls = [(checkpoints.get(label), part, shown) for label in rows for part in blocks[label]]
    parts = _carried_out(score_block, calls, scoring, plan)
    progress = Progress(report, "scores", sum(map(len, rows.values())), unit="tiles")
    done = 0

    def arriving(label: str) -> Iterator[Scored]:
        """The parts of one method, told of as they come."""
        nonlocal done
        own, all_own = 0, len(rows[label])
        for part in itertools.islice(parts, len(blocks[label])):
            own, done = own + len(part.per_tile), done + len(part.per_tile)
            progress.step(done, f"{label}: {own} of {all_own} tiles", now=own == all_own)
            yield part

    task = task_named(scoring.task, TileSet.open(scoring.tiles, scoring.options))
    results: dict[str, Scored] = {}
    real: FeatureSet | None = None
    for label in rows:
        scored = Scored.joined(arriving(label))
        of_set = distribution_scores(scored.features, real) if scored.features and real else {}
        if label != REAL and REAL in results:
            of_set |= task.of_set(scored, results[REAL])
        real = real or scored.features
        results[label] = replace(scored, of_set=of_set, features=None)
    return results


def score_volumes(
    checkpoints: Mapping[str, str], scoring: Scoring, *, plan: ResourcePlan, report: Callable[[str], None]
) -> dict[str, dict[str, dict[str, Any]]]:
    """What the methods of `checkpoints` make of whole test volumes, by label and sample, as `Task.whole` has it.

    The result also has REAL, what the judges find in the real volumes, where there are any judges.
    """
    whom: dict[str, str | None] = {**({REAL: None} if scoring.judges else {}), **checkpoints}
    results: dict[str, dict[str, dict[str, Any]]] = {}
    progress = Progress(report, "whole volumes", len(whom), unit="methods")
    calls = [(checkpoint,) for checkpoint in whom.values()]
    for label, found in zip(whom, _carried_out(score_whole, calls, scoring, plan), strict=True):
        results[label] = found
        progress.step(len(results), label, now=True)
    return results


def _carried_out(
    work: Callable[..., Result], calls: Sequence[tuple[Any, ...]], scoring: Scoring, plan: ResourcePlan
) -> Iterator[Result]:
    """`work(scoring, *call)` of each call, in their order: in this process, or by tasks of the cluster."""
    return _here(work, calls, scoring) if scoring.here else _on_cluster(work, calls, scoring, plan)


def _here(work: Callable[..., Result], calls: Sequence[tuple[Any, ...]], scoring: Scoring) -> Iterator[Result]:
    """In this process, whose threads and random state stay what they are."""
    # Loads what a worker loads, which a driver of tasks need not.
    from metgan_dist.training.in_process import left_as_it_was

    for call in calls:
        with left_as_it_was():
            result = work(scoring, *call)
        yield result


def _on_cluster(
    work: Callable[..., Result], calls: Sequence[tuple[Any, ...]], scoring: Scoring, plan: ResourcePlan
) -> Iterator[Result]:
    gpus = min(plan.gpus_per_worker, _GPU_SHARE)
    at_once = max(1, int(min(plan.cluster_cpus, plan.cluster_gpus / gpus if gpus else plan.cluster_cpus)))
    remote = ray.remote(num_cpus=1, num_gpus=gpus, runtime_env=_environment(scoring.names))(work)
    common = ray.put(scoring)
    return _in_order(calls, lambda call: remote.remote(common, *call), 2 * at_once)


def _environment(names: Sequence[str]) -> dict[str, Any] | None:
    """The driver's settings of weights for the workers of a cluster that was started without them."""
    if not any(name in COLUMNS and COLUMNS[name].weights for name in names):
        return None
    values = {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}
    for name in ("METGAN_WEIGHTS", "METGAN_CACHE"):
        if name in values and "://" not in values[name]:
            values[name] = str(Path(values[name]).absolute())
    return {"env_vars": values}


def _in_order(calls: Sequence[Any], submit: Callable[[Any], ray.ObjectRef], window: int) -> Iterator[Any]:
    """Results in the order of the calls, with at most `window` of them on their way."""
    waiting: deque[ray.ObjectRef] = deque()
    for call in calls:
        if len(waiting) == window:
            yield ray.get(waiting.popleft())
        waiting.append(submit(call))
    while waiting:
        yield ray.get(waiting.popleft())


def score_block(scoring: Scoring, checkpoint: str | None, rows: np.ndarray, show: frozenset[int]) -> Scored:
    """One task: score a checkpoint, or the real images, on some tiles."""
    task, method, device = _loaded(scoring, checkpoint)
    sample, names = REAL_SAMPLE if method is None else GENERATED, scoring.names
    wanted = Wanted(
        names,
        perceptual=PerceptualDistance(device) if method is not None and "lpips" in names else None,
        inception=InceptionFeatures(device) if {"fid", "kid"} & set(names) else None,
        show=show,
    )
    scorer = task.scorer(sample, wanted)
    with torch.no_grad():
        for batch in tile_batches(task.tiles, rows, BATCH, method.organs if method is not None else ()):
            task.score(sample, scorer, on_device(batch, device), method)
    return scorer.scored()


def score_whole(scoring: Scoring, checkpoint: str | None) -> dict[str, dict[str, Any]]:
    """One task: score a checkpoint, or the real images, on the whole test volumes."""
    task, method, device = _loaded(scoring, checkpoint)
    return task.whole(method, "test", device)


def _loaded(scoring: Scoring, checkpoint: str | None) -> tuple[Task, Method | None, torch.device]:
    """The task with its judges, the method of a checkpoint, and where both are."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    judges = {role: load_method(uri, scoring.options)[0].to(device) for role, uri in scoring.judges.items()}
    method = load_method(checkpoint, scoring.options)[0].to(device) if checkpoint else None
    return task_named(scoring.task, TileSet.open(scoring.tiles, scoring.options), judges), method, device
