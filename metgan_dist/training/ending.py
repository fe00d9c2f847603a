"""Why a training cannot go on: left by its workers in its folder, where a restart of theirs and their driver look."""

from __future__ import annotations

import json

from metgan_dist.errors import TrainingStopped, UserError
from metgan_dist.storage import filesystem, join
from metgan_dist.training.assignment import Assignment


def leave(assignment: Assignment, error: TrainingStopped | UserError, images: int = 0) -> None:
    """Write down what ended the training, and at how many images."""
    whose = "" if isinstance(error, UserError) else f"{assignment.role}: "
    left = {"reason": f"{whose}{error}", "images": images, "mistake": isinstance(error, UserError)}
    fs, path = filesystem(_place(assignment), assignment.options)
    fs.pipe_file(path, json.dumps(left).encode())


def left(assignment: Assignment) -> TrainingStopped | UserError | None:
    """What was left, as an error to raise; None where the training may go on."""
    fs, path = filesystem(_place(assignment), assignment.options)
    if not fs.exists(path):
        return None
    found = json.loads(fs.cat_file(path))
    return UserError(found["reason"]) if found["mistake"] else TrainingStopped(found["reason"], found["images"])


def forget(assignment: Assignment) -> None:
    """Take away what an earlier start left."""
    fs, path = filesystem(_place(assignment), assignment.options)
    if fs.exists(path):
        fs.rm_file(path)


def _place(assignment: Assignment) -> str:
    return join(assignment.folder, "stopped.json")
