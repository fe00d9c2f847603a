"""How long, how fast, and on what."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from metgan_dist.recipe.interval import Every, Interval
from metgan_dist.recipe.section import Section, Seed

Keep = Literal["last", "mae", "msd", "ssim", "psnr", "correlation", "cycle_mae", "label_fidelity", "mask_distance"]

# What recipes of earlier versions say, true and false, stays what is kept of it: a run goes on under its own recipe.
_AUGMENT = {
    **dict.fromkeys(("flips", "true", "yes", "on", "1"), True),
    **dict.fromkeys(("none", "false", "no", "off", "0"), False),
    "affine": "affine",
    "affine-shift": "affine-shift",
}


def _augment(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.lower() not in _AUGMENT:
        raise ValueError("must be flips (or true), affine, affine-shift, or none (or false)")
    return _AUGMENT[value.lower()]


def _log_every(value: Any) -> Any:
    if value == "auto":
        return value
    if isinstance(value, bool) or not str(value).isdecimal() or int(value) < 1:
        raise ValueError("must be auto, or a whole number of steps above 0")
    return int(value)


class Training(Section):
    """The loop: how long, how fast, how often to look."""

    epochs: int = Field(
        200, ge=1, description="passes over the training tiles; a method in stages may have its own for each (stages)"
    )
    max_steps: int | None = Field(
        None,
        ge=1,
        description="stop after this many optimiser steps, if before the epochs end; stages get shorter in proportion",
    )
    stages: dict[str, Annotated[int, Field(ge=0)]] = Field(
        {}, description="epochs of the method's stages by name, such as pretrain=20,joint=50; 0 leaves one out [>= 0]"
    )
    stages_from: dict[str, str] = Field(
        {},
        description="stages that are not trained, by name: their networks get the weights of another run (its name or "
        "folder, or a checkpoint; averaged ones, where it kept some)",
    )
    shares: dict[Literal["source", "target"], Annotated[float, Field(gt=0, le=1)]] = Field(
        {},
        description="of two domains, share of either's training patients (volumes, where none are known) to train on, "
        "such as target=0.14: at least one; a smaller share is part of a larger one of the same seed [> 0, <= 1]",
    )
    batch_size: int = Field(1, ge=1, description="tiles on one worker in one step")
    accumulate: int = Field(1, ge=1, description="batches whose gradients make one step")
    batch_norm: Literal["joint", "local"] = Field(
        "joint",
        description="what BatchNorm normalises by with several workers: joint, all their tiles, as one worker with the "
        "whole batch would, at a collective a layer; local, each worker's own (the papers' batch of one), whose "
        "running statistics are averaged after each step",
    )
    gradients: Literal["exact", "bf16"] = Field(
        "exact",
        description="what several workers exchange: exact, gradients as they are; bf16, rounded to 8 bits of "
        "precision, half as much to send (one worker sends nothing)",
    )
    gradient_views: bool = Field(
        False,
        description="several workers: gradients lie where they are exchanged instead of being copied there, which "
        "saves their size in memory and changes no number",
    )
    learning_rate: float = Field(2e-4, gt=0, description="Adam's learning rate")
    decay_from: float = Field(
        0.5,
        ge=0,
        le=1,
        description="fraction of the run after which the rate falls linearly to 0; stages may have their own",
    )
    start_from: str | None = Field(
        None,
        description="weights to start from: a run's name or folder, or a checkpoint, of the same method and network "
        "sizes (averaged ones, where it kept some); the optimisers start afresh",
    )
    start_checkpoint: Literal["best", "last"] = Field(
        "best",
        description="of runs that start_from and stages_from name: the checkpoint that a run is known by, or its last",
    )
    seed: Seed = Field(0, description="seed of weights, order and augmentation")
    shuffle_window: int | None = Field(
        None,
        ge=32,
        description="of larger training sets: tiles that are shuffled together, in blocks of 16 that lie beside each "
        "other, so that a request fetches a block; best a multiple of 16 times the tiles of a step on all workers; "
        "none, and for sets of no more tiles: a full shuffle, at a request or more a tile",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 on GPUs and CPUs that multiply in it (AMX, AVX512-BF16), else fp32"
    )
    augment: Annotated[bool | Literal["affine", "affine-shift"], BeforeValidator(_augment)] = Field(
        True,
        description="flips (or true): random flips and quarter turns in the plane; affine: these, and then random "
        "rotations (of crops about each axis), scales and shears; affine-shift: these, and shifts by up to a tenth of "
        "each edge; none (or false): tiles as they are",
    )
    ema_half_life: int = Field(
        0,
        ge=0,
        description="images in which the averaged generator forgets half, at most 5 % of those seen; 0: no average",
    )
    validate_every: Every = Field(
        2000, description="between two validations: images (2000), steps (500 steps) or a time (45 s, 30 min, 2 h)"
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="stop after so many validations (of the last stage) without a better score; none: run to the end",
    )
    keep: Keep | None = Field(
        None,
        description="the checkpoint that a run is known by: `last`, or the best by a validation score (cycle_mae only "
        "with keep_floor); empty: mae for methods trained on pairs, label_fidelity for images from labels, last for "
        "unpaired ones, mask_distance for masks; segmentors always by dice",
    )
    keep_floor: float | None = Field(
        None,
        gt=0,
        le=1,
        description="with a score in keep: only checkpoints whose label fidelity is at least this share of what the "
        "real validation images reach; where none is, the last",
    )
    validate_tiles: int = Field(64, ge=1, description="tiles scored in a validation, at most")
    checkpoint_every: Every = Field(
        2000,
        description="between two checkpoints, beside the one of each validation: images (2000), steps (500 steps) or a "
        "time (45 s, 30 min, 2 h)",
    )
    log_every: Annotated[int | Literal["auto"], BeforeValidator(_log_every)] = Field(
        "auto",
        description="steps of which the mean losses are logged; auto: 1, and of a run of more than 2,500 steps so many "
        "that its curves have about that number of points, which is all that MLflow draws [>= 1]",
    )
    max_failures: int = Field(3, ge=0, description="restarts from the last checkpoint after a worker is lost")
    compile: bool = Field(False, description="torch.compile the players' forward")
    checkpoint_gradients: bool = Field(
        False,
        description="less memory for more time: levels of U-Nets, SPADE and residual blocks are computed again in the "
        "backward pass instead of being kept (not DynUNet's); the gradients are the same",
    )

    @model_validator(mode="after")
    def _check(self) -> Training:
        if self.compile and self.checkpoint_gradients:
            raise ValueError("checkpoint_gradients does not go with compile; set one of them to false")
        if self.patience is not None and Interval.of(self.validate_every).seconds is not None:
            raise ValueError(
                f"patience counts validations, and how many {self.validate_every!r} has in a run depends on the "
                "machine; give validate_every in images or steps, or leave patience out"
            )
        for name in self.stages_from:
            if name in self.stages:
                raise ValueError(f"stages_from takes {name!r} from another run; leave it out of stages")
        return self


def _address(cluster: str) -> str:
    if cluster not in ("auto", "local") and not re.fullmatch(
        r"(ray://)?(\[[0-9A-Fa-f:.]+\]|[^\s:/]+):\d{1,5}", cluster
    ):
        raise ValueError("must be auto, local, or the address HOST:PORT of a cluster")
    return cluster


class Scaling(Section):
    """What the run may take of the machine or cluster."""

    workers: int = Field(
        1,
        ge=0,
        description="training processes; 0: train, and score, in the job's own, which nothing restarts (checkpoints "
        "are the same, and either continues the other)",
    )
    min_workers: int | None = Field(
        None, ge=1, description="go on with as few as this while lost ones are not replaced; none: wait for all"
    )
    gpus_per_worker: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="GPUs of one; auto: one each if the cluster has them"
    )
    cpus_per_worker: Annotated[float, Field(gt=0)] | Literal["auto"] = Field("auto", description="CPUs reserved by one")
    cluster: Annotated[str, AfterValidator(_address)] = Field(
        "auto", description="auto: RAY_ADDRESS if set, else a cluster on this machine; `local`; or HOST:PORT"
    )
    grow: bool = Field(False, description="the cluster autoscales: ask it for the missing nodes and wait for them")
    wait: float = Field(300, ge=0, description="seconds to wait for a busy or growing cluster before giving up")
    tile_memory: int = Field(256, ge=16, description="MiB of voxels that one tiling task may hold")
    tile_tasks: int | None = Field(None, ge=1, description="tiling tasks at once; default: one more than CPUs")
    trainings: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="trainings of a study at once; auto: as many as have room with the workers' CPUs and GPUs"
    )
    share: float = Field(
        1.0, gt=0, le=1, description="part of the cluster that this run plans with; a study gives each training its own"
    )

    @property
    def in_process(self) -> bool:
        """Whether trainings run in the job's own process, without Ray Train."""
        return self.workers == 0

    @property
    def processes(self) -> int:
        """How many processes train together, at least one."""
        return max(1, self.workers)
