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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ray
import torch
from torch import Tensor

from metgan_dist.cluster.progress import Progress
from metgan_dist.cluster.resources import ResourcePlan
from metgan_dist.scores.distribution import FeatureSet, distribution_scores
from metgan_dist.scores.image import image_scores
from metgan_dist.scores.inception import InceptionFeatures
from metgan_dist.scores.labels import PooledDice
from metgan_dist.scores.perceptual import PerceptualDistance
from metgan_dist.tiles.stream import tile_batches
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.trained import load_method
from metgan_dist.weights import find_weights, missing

BATCH = 4
IMAGE_SCORES = ("mae", "msd", "ssim", "psnr", "correlation")
WEIGHTS = {"fid": "inception", "kid": "inception", "lpips": "alexnet"}
REAL = "real images"
_GPU_SHARE = 0.25  # scoring is half arithmetic on the CPU, so several tasks share a GPU
_VARIABLES = ("METGAN_WEIGHTS", "METGAN_WEIGHTS_UNVERIFIED", "METGAN_CACHE")


def unusable_scores(names: Sequence[str], missing_weights: str) -> dict[str, str]:
    """Which of the scores cannot be computed here, and why.

    Raises UserError instead where `missing_weights` is "error", and where weights are not the published ones.
    """
    reasons: dict[str, str] = {}
    for name in names:
        weights = WEIGHTS.get(name)
        if weights is None:
            continue
        if missing_weights == "skip" and missing([weights]):
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


@dataclass
class Part:
    """Scores of one method on the tiles of one block.

    `per_tile` has the columns tile (row number), the scores of single tiles, and for label fidelity the judge's counts
    of each class: ``overlap_k`` and ``size_k``, whose sums give the pooled Dice 2 overlap / size. `pictures` holds
    images (H, W) by row.
    """

    per_tile: pd.DataFrame
    features: FeatureSet | None = None
    pictures: dict[int, np.ndarray] = field(default_factory=dict)


@dataclass
class Scored:
    """A method's scores: tile by tile (see `Part`), of the whole set (FID, KID), and some of its images."""

    per_tile: pd.DataFrame
    of_set: dict[str, float]
    pictures: dict[int, np.ndarray]


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
    results: dict[str, Scored] = {}
    real: FeatureSet | None = None
    for label in (REAL, *checkpoints):
        frames: list[pd.DataFrame] = []
        pictures: dict[int, np.ndarray] = {}
        features: FeatureSet | None = None
        for part in itertools.islice(parts, len(blocks)):
            frames.append(part.per_tile)
            pictures |= part.pictures
            features = _joined(features, part.features)
            done, own = done + len(part.per_tile), sum(map(len, frames))
            progress.step(done, f"{label}: {own} of {len(rows)} tiles", now=own == len(rows))
        of_set = distribution_scores(features, real) if features is not None and real is not None else {}
        real = real or features
        results[label] = Scored(pd.concat(frames, ignore_index=True), of_set, pictures)
    return results


def _joined(one: FeatureSet | None, other: FeatureSet | None) -> FeatureSet | None:
    return one + other if one is not None and other is not None else one or other


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


def _in_order(jobs: Sequence[Any], submit: Callable[[Any], ray.ObjectRef], window: int) -> Iterator[Part]:
    """Results in the order of the jobs, with at most `window` of them on their way."""
    waiting: deque[ray.ObjectRef] = deque()
    for job in jobs:
        if len(waiting) == window:
            yield ray.get(waiting.popleft())
        waiting.append(submit(job))
    while waiting:
        yield ray.get(waiting.popleft())


def score_block(checkpoint: str | None, task: Task, rows: np.ndarray, show: frozenset[int]) -> Part:
    """One task: score a checkpoint, or the real images, on some tiles."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    tiles = TileSet.open(task.tiles, task.options)
    judge = load_method(task.judge, task.options)[0].to(device) if "label_fidelity" in task.names else None
    method = load_method(checkpoint, task.options)[0].to(device) if checkpoint else None
    perceptual = PerceptualDistance(device) if method is not None and "lpips" in task.names else None
    inception = InceptionFeatures(device) if {"fid", "kid"} & set(task.names) else None
    features = FeatureSet(inception.weights) if inception else None
    pictures: dict[int, np.ndarray] = {}
    frames = []
    with torch.no_grad():
        for batch in tile_batches(tiles, rows, BATCH):
            batch = {name: value.to(device) for name, value in batch.items()}
            numbers, real = batch["tile"].tolist(), batch["tumour"]
            output = real if method is None else method.translate(batch).float()
            scores = _against(output, real, task.names, perceptual) if method is not None else {}
            if judge is not None:
                found = judge.translate({**batch, "tumour": output})
                scores |= _counts(found, batch["label"], int(tiles.manifest["data"]["classes"]))
            frames.append(pd.DataFrame({"tile": numbers, **scores}))
            if inception is not None and features is not None:
                features.add(inception(output), numbers)
            for row, image in zip(numbers, output, strict=True):
                if row in show:
                    pictures[row] = image[0].cpu().numpy()
    return Part(pd.concat(frames, ignore_index=True), features, pictures)


def _against(
    output: Tensor, real: Tensor, names: Sequence[str], perceptual: PerceptualDistance | None
) -> dict[str, np.ndarray]:
    scores: dict[str, np.ndarray] = {}
    if set(IMAGE_SCORES) & set(names):
        scores = {name: values for name, values in image_scores(output, real).items() if name in names}
    return scores if perceptual is None else scores | perceptual(output, real)


def _counts(found: Tensor, label: Tensor, classes: int) -> dict[str, np.ndarray]:
    """The judge's counts of each tile, and its Dice, NaN where the label is empty: there is nothing to find."""
    tiles = []
    for k in range(len(label)):
        tile = PooledDice(classes)
        tile.add(found[k : k + 1], label[k : k + 1])
        tiles.append(tile)
    labelled = (label.flatten(1) > 0).any(dim=1).cpu().numpy()
    columns = {"dice": np.where(labelled, [tile.value() for tile in tiles], np.nan)}
    for k in range(classes - 1):
        columns[f"overlap_{k + 1}"] = np.array([tile.overlap[k] for tile in tiles])
        columns[f"size_{k + 1}"] = np.array([tile.size[k] for tile in tiles])
    return columns
