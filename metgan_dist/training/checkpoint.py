"""What a run needs to be continued as if it had never stopped.

A checkpoint is a folder: `state.pt` (the same on every rank), one `rank-N.pt` each (image pools, random state),
`recipe.yaml` and `meta.json`; beside each .pt lies its SHA-256, as `sha256sum` writes it, which is compared whenever
the file is read. Everything loads with `weights_only=True`: it holds tensors and numbers, never code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from metgan_dist.code_version import code_version
from metgan_dist.recipe import Recipe
from metgan_dist.storage import read_json
from metgan_dist.trained import digest_file, load_tensors
from metgan_dist.training.step import Stepper

SHARED = ("state.pt", "state.sha256", "recipe.yaml", "meta.json")


def own_files(rank: int) -> tuple[str, ...]:
    """The files of a checkpoint that one rank alone reads."""
    return f"rank-{rank}.pt", f"rank-{rank}.sha256"


def save_state(folder: Path, stepper: Stepper, recipe: Recipe, progress: dict[str, Any]) -> None:
    """Write the part of a checkpoint that all ranks share; `progress` holds numbers (images, steps, best scores)."""
    state = {
        "networks": {name: network.state_dict() for name, network in stepper.method.saved().items()},
        "optimisers": {name: optimiser.state_dict() for name, optimiser in stepper.optimisers.items()},
        "ema": {name: network.state_dict() for name, network in (stepper.ema or {}).items()},
        "averaged": dict(stepper.averaged),
    }
    _save(state, folder / "state.pt")
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    meta = {
        "method": recipe.method.name,
        "inference": list(stepper.method.inference),
        "code": code_version(),
        **progress,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))


def save_rank(folder: Path, stepper: Stepper, rank: int) -> None:
    """Write what differs between ranks: image pools and random state."""
    state: dict[str, Any] = {
        "pools": {name: pool.state_dict() for name, pool in stepper.method.pools.items()},
        "random": torch.get_rng_state(),
    }
    if stepper.device.type == "cuda":
        state["random_cuda"] = torch.cuda.get_rng_state(stepper.device)
    _save(state, folder / f"rank-{rank}.pt")


def _save(state: dict[str, Any], path: Path) -> None:
    """Write tensors, and their file's digest after them."""
    torch.save(state, path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    Path(digest_file(str(path))).write_text(f"{digest}  {path.name}\n")


def _lay_as_weights(optimiser: torch.optim.Optimizer) -> None:
    """Bring what an optimiser remembers into the order in which its weights lie, as a checkpoint may not have it.

    One of another device, or of an earlier version, has another order (networks/layout.py), and Adam's fused step goes
    through memory without looking at it.
    """
    for weight, remembered in optimiser.state.items():
        for name, value in remembered.items():
            if value.shape == weight.shape and value.stride() != weight.stride():
                remembered[name] = torch.empty_like(weight).copy_(value)


def begin_with(folder: Path, stepper: Stepper, names: Collection[str] | None = None) -> None:
    """Put the weights of another run's checkpoint into `stepper`: averaged ones where that run kept an average.

    `names`: the networks that get them; without it, all but the frozen ones, which are this run's own. Optimisers stay
    as they are. Raises DamagedFile for a file that is not as it was written.
    """
    state = load_tensors(str(folder / "state.pt"), device=stepper.device)
    weights = {**state["networks"], **state["ema"]}
    if names is None:
        names = set(stepper.method.saved()) - set(stepper.method.frozen)
    for networks in (stepper.method.saved(), stepper.ema or {}):
        for name in networks.keys() & names:
            networks[name].load_state_dict(weights[name])


def read_progress(folder: Path) -> dict[str, Any]:
    """The numbers that `save_state` was given."""
    return read_json(str(folder / "meta.json"), None)


def restore(folder: Path, stepper: Stepper, rank: int) -> None:
    """Put a checkpoint back into `stepper`, whose method has entered its stage. New ranks start with fresh pools.

    Raises DamagedFile for a file that is not as it was written.
    """
    state = load_tensors(str(folder / "state.pt"), device=stepper.device)
    for name, network in stepper.method.saved().items():
        network.load_state_dict(state["networks"][name])
    for name, optimiser in stepper.optimisers.items():
        optimiser.load_state_dict(state["optimisers"][name])
        _lay_as_weights(optimiser)
    for name, network in (stepper.ema or {}).items():
        network.load_state_dict(state["ema"][name])
    # Earlier versions kept the images of the run alone, all of which the averaged networks had learned from.
    stepper.averaged = state.get("averaged") or dict.fromkeys(stepper.averaged, read_progress(folder)["images"])
    mine = folder / f"rank-{rank}.pt"
    if mine.exists():
        own = load_tensors(str(mine))
        for name, pool in stepper.method.pools.items():
            pool.load_state_dict(own["pools"][name])
        torch.set_rng_state(own["random"])
        if "random_cuda" in own and stepper.device.type == "cuda":
            torch.cuda.set_rng_state(own["random_cuda"], stepper.device)
