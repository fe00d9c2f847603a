"""Sweeps whose trainings only report: Tune, the ledger, MLflow and the report are real, but no training starts.

Run as a script it is tune_loss_weights.py with such trials. The first trial is whole; the others wait for a file GATE
in the sweep's folder. The third then takes its process with it, the first time that it runs.
"""

import os
import runpy
import signal
import sys
import time
from pathlib import Path

from ray import cloudpickle

from metgan_dist.errors import TrainingStopped
from metgan_dist.training.launch import Trained
from metgan_dist.tuning import sweep
from metgan_dist.tuning import trial as module

JOB = Path(__file__).resolve().parents[2] / "jobs" / "tune_loss_weights.py"
GATE, DIED = "gate", "died"
IMAGES = (8, 16, 24)

if __name__ != "__main__":
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's processes know no test


def pretend(assignment, report):
    """As the learning rate says: diverges when it is large, comes to nothing when it is tiny."""
    folder, name, rate = (
        Path(assignment.run_folder),
        assignment.review.subject,
        assignment.recipe.training.learning_rate,
    )
    while name != "trial-001" and not (folder / GATE).exists():
        time.sleep(0.05)
    if name == "trial-003" and not (folder / DIED).exists():
        (folder / DIED).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if rate > 1:
        raise TrainingStopped("step 1: generators: pair is not finite", 2)
    scores = {"validation/mae": 0.9 if rate < 1e-6 else 0.2, "validation/label_fidelity": 0.5}
    for images in IMAGES:
        row = {**scores, "images": images, "seconds": images / 8, "checkpoint": f"images-{images}"}
        if not assignment.review.goes_on(row):
            break
    return Trained("best", "last", scores["validation/mae"], images)


class Trial(module.Trial):
    """A trial that pretends."""

    def setup(self, config, sweep):
        module.run_training = pretend  # in the trial's process
        super().setup(config, sweep)


if __name__ == "__main__":
    sweep.Trainable = Trial
    runpy.run_path(str(JOB), run_name="__main__")
