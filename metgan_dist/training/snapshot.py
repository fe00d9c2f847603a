"""The list of a training's checkpoints as Ray Train keeps it beside them, for a training that runs without Ray Train.

Whichever of the two a run is started with, the other goes on from where it stopped. The file's form is Ray's own affair
(ray.train.v2, checkpoint_manager.py); its version is bounded in pyproject.toml, and a test continues trainings in both
directions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from metgan_dist.storage import Options, exists, join, read_json, write_whole

FILE = "checkpoint_manager_snapshot.json"


@dataclass(frozen=True)
class Kept:
    """A checkpoint's name and metrics, and which report of the training it came with."""

    name: str
    metrics: dict[str, Any]
    report: int

    def tree(self) -> dict[str, Any]:
        """As in the file."""
        return {"version": 0, "checkpoint_dir_name": self.name, "metrics": self.metrics}


@dataclass(frozen=True)
class Snapshot:
    """The checkpoints that are kept, worst first, and the latest of them."""

    kept: tuple[Kept, ...] = ()
    latest: Kept | None = None
    reports: int = 0

    def with_report(self, name: str, metrics: dict[str, Any], order: str | None, most: int) -> Snapshot:
        """One more checkpoint; beside the latest, the best `most` are kept, or the last ones without an `order`.

        `order` says whether a low ("min") or a high ("max") `score` is good. Among equals the later one is better.
        """
        new = Kept(name, metrics, self.reports)
        sign = -1 if order == "min" else 1
        kept = sorted((*self.kept, new), key=lambda one: (sign * one.metrics["score"] if order else 0, one.report))
        dropped = set(map(id, kept[:-most])) - {id(new)}
        return Snapshot(tuple(one for one in kept if id(one) not in dropped), new, self.reports + 1)

    def write(self, folder: str, options: Options) -> None:
        """Put the list beside the checkpoints in `folder`."""
        tree = {
            "ray_version": version("ray"),
            "checkpoint_results": [one.tree() for one in self.kept],
            "checkpoint_report_indices": [one.report for one in self.kept],
            "latest_checkpoint_result": None if self.latest is None else self.latest.tree(),
            "pending_training_results": [],
            "pending_validation_specs": [],
            "current_report_index": self.reports,
            "validated_checkpoint_dir_names": [],
            "timed_out_validation_checkpoint_dir_names": [],
            "failed_validation_checkpoint_dir_names": [],
        }
        write_whole(join(folder, FILE), json.dumps(tree).encode(), options)


def read_snapshot(folder: str, options: Options) -> Snapshot:
    """What is on the list in `folder`; an empty one where there is none."""
    if not exists(join(folder, FILE), options):
        return Snapshot()
    tree = read_json(join(folder, FILE), options, holding=("checkpoint_results", "checkpoint_report_indices"))
    pairs = zip(tree["checkpoint_results"], tree["checkpoint_report_indices"], strict=True)
    kept = tuple(Kept(one["checkpoint_dir_name"], one["metrics"], report) for one, report in pairs)
    latest = tree["latest_checkpoint_result"] or {}
    named = [one for one in kept if one.name == latest.get("checkpoint_dir_name")]
    return Snapshot(kept, named[0] if named else None, tree["current_report_index"])
