"""Scores of trained methods on test tiles, spread over a Ray cluster: a task for every method and block of tiles.

A task returns the scores of its tiles and statistics of their Inception features, which are of bounded size and joined
as they come: no list of images or features is kept anywhere. Blocks depend on `scores.block` alone and are joined in
their order, so the result does not depend on how many tasks ran at once.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from metgan_dist.cluster.progress import Progress
from metgan_dist.cluster.resources import ResourcePlan
from metgan_dist.scores.distribution import FeatureSet, distribution_scores
from metgan_dist.scores.inception import InceptionFeatures
from metgan_dist.scores.perceptual import PerceptualDistance
from metgan_dist.scores.scored import IMAGE_SCORES, Scored, TileScorer
from metgan_dist.tiles.stream import tile_batches
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.trained import load_method
from metgan_dist.weights import find_weights, missing

BATCH = 4
WEIGHTS = {"fid": "inception", "kid": "inception", "lpips": "alexnet"}
REAL = "real images"
_GPU_SHARE = 0.25  # scoring is half arithmetic on the CPU, so several tasks share a GPU
_VARIABLES = ("METGAN_WEIGHTS", "METGAN_WEIGHTS_UNVERIFIED", "METGAN_CACHE")


def unusable_scores(names: Sequence[str], missing_weights: str, dimensions: int = 2) -> dict[str, str]:
    """Which of the scores cannot be computed here, on tiles of so many dimensions, and why.

    Raises UserError instead where `missing_weights` is "error", and where weights are not the published ones.
    """
    reasons: dict[str, str] = {}
    for name in names:
        weights = WEIGHTS.get(name)
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
class Task:
    """What all tasks share: the tiles, the judge of label fidelity, the scores to compute."""

    tiles: str
    judge: str
    names: tuple[str, ...]
    options: dict[str, Any]


def score_methods(
    checkpoints: dict[str, str],
    task: Task,
    rows: np.ndarray,
    *,
    block: int,
    show: Sequence[int],
    plan: ResourcePlan,
    report: Callable[[str], None],
) -> dict[str, Scored]:
    """Score the methods of `checkpoints` (by label) on the tiles `rows`; the result also has REAL, the real images.

    Args:
        block: tiles in a task.
        show: rows whose images are kept.
        plan: of the cluster; a task takes one CPU, and a share of a GPU where trainings use GPUs.
        report: gets a line of progress at a time.
    """
    blocks = [rows[first : first + block] for first in range(0, len(rows), block)]
    jobs: list[tuple[str, np.ndarray]] = [(REAL, part) for part in blocks]
    jobs += [(label, part) for label in checkpoints for part in blocks]
    submit, at_once = _submitter(checkpoints, task, frozenset(int(row) for row in show), plan)
    parts = _in_order(jobs, submit, 2 * at_once)
    progress = Progress(report, "scores", len(rows) * (1 + len(checkpoints)), unit="tiles")
    done = 0

    def arriving(label: str) -> Iterator[Scored]:
        """The parts of one method, told of as they come."""
        nonlocal done
        own = 0
        for part in itertools.islice(parts, len(blocks)):
            own, done = own + len(part.per_tile), done + len(part.per_tile)
            progress.step(done, f"{label}: {own} of {len(rows)} tiles", now=own == len(rows))
            yield part

    results: dict[str, Scored] = {}
    real: FeatureSet | None = None
    for label in (REAL, *checkpoints):
        scored = Scored.joined(arriving(label))
        of_set = distribution_scores(scored.features, real) if scored.features and real else {}
        real = real or scored.features
        results[label] = replace(scored, of_set=of_set, features=None)
    return results


def _submitter(
    checkpoints: dict[str, str], task: Task, show: frozenset[int], plan: ResourcePlan
) -> tuple[Callable[[tuple[str, np.ndarray]], ray.ObjectRef], int]:
    gpus = min(plan.gpus_per_worker, _GPU_SHARE)
    at_once = max(1, int(min(plan.cluster_cpus, plan.cluster_gpus / gpus if gpus else plan.cluster_cpus)))
    remote = ray.remote(num_cpus=1, num_gpus=gpus, runtime_env=_environment(task.names))(score_block)
    common = ray.put(task)

    def submit(job: tuple[str, np.ndarray]) -> ray.ObjectRef:
        """Start the task of one block of tiles (rows), of a method by its label."""
        label, part = job
        return remote.remote(checkpoints.get(label), common, part, show)

    return submit, at_once


def _environment(names: Sequence[str]) -> dict[str, Any] | None:
    """The driver's settings of weights for the workers of a cluster that was started without them."""
    if not any(name in WEIGHTS for name in names):
        return None
    values = {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}
    for name in ("METGAN_WEIGHTS", "METGAN_CACHE"):
        if name in values and "://" not in values[name]:
            values[name] = str(Path(values[name]).absolute())
    return {"env_vars": values}


def _in_order(jobs: Sequence[Any], submit: Callable[[Any], ray.ObjectRef], window: int) -> Iterator[Scored]:
    """Results in the order of the jobs, with at most `window` of them on their way."""
    waiting: deque[ray.ObjectRef] = deque()
    for job in jobs:
        if len(waiting) == window:
            yield ray.get(waiting.popleft())
        waiting.append(submit(job))
    while waiting:
        yield ray.get(waiting.popleft())


def score_block(checkpoint: str | None, task: Task, rows: np.ndarray, show: frozenset[int]) -> Scored:
    """One task: score a checkpoint, or the real images, on some tiles."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    tiles = TileSet.open(task.tiles, task.options)
    judge = load_method(task.judge, task.options)[0].to(device) if "label_fidelity" in task.names else None
    method = load_method(checkpoint, task.options)[0].to(device) if checkpoint else None
    scorer = TileScorer(
        int(tiles.manifest["data"]["classes"]),
        judge=judge.translate if judge is not None else None,
        images=[name for name in task.names if name in IMAGE_SCORES] if method is not None else (),
        perceptual=PerceptualDistance(device) if method is not None and "lpips" in task.names else None,
        inception=InceptionFeatures(device) if {"fid", "kid"} & set(task.names) else None,
        show=show,
    )
    with torch.no_grad():
        for batch in tile_batches(tiles, rows, BATCH, method.organs if method is not None else ()):
            batch = {name: value.to(device) for name, value in batch.items()}
            scorer.add_images(batch, batch["tumour"] if method is None else method.translate(batch))
    return scorer.scored()
