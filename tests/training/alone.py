"""A training assigned to this process or to Ray's workers, and how it dies."""

from pathlib import Path

import torch
from mlflow_store import make_store

from metgan_dist.cluster.resources import ResourcePlan
from metgan_dist.tracking import start_run
from metgan_dist.training import in_process
from metgan_dist.training.assignment import Assignment


def assignment(folder, name, recipe, tiles, **more):
    """The training of a recipe on tiles in the run folder `name` of `folder`, whose MLflow store it keeps."""
    store = make_store(folder / "mlflow.db")
    return Assignment(
        role=recipe.method.name,
        recipe=recipe,
        tiles=tiles,
        run_folder=str(folder / name),
        plan=ResourcePlan(1, 1.0, 0.0, 1.0, 2.0, 0.0, shares_cores=True),
        tracking_uri=store,
        mlflow_run_id=start_run(store, recipe.tracking, name, {}),
        spool=str(folder / name / "spool"),
        **more,
    )


def state(trained):
    """What the last checkpoint of a training holds."""
    folder = Path(trained.last)
    return {name: torch.load(folder / name, weights_only=True) for name in ("state.pt", "rank-0.pt")}


def same(first, second):
    """Whether two states are equal to the last bit."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


class Killed(BaseException):
    """What no handler of the training catches, as none catches SIGKILL."""


def killed_at(monkeypatch, images):
    """From now on a training in this process dies when it is about to store the checkpoint of so many images."""
    keep = in_process.Alone.keep

    def dies(self, folder, name, metrics, **how):
        if metrics["images"] >= images:
            raise Killed
        keep(self, folder, name, metrics, **how)

    monkeypatch.setattr(in_process.Alone, "keep", dies)
