"""What processes of which there are many need not load.

Modules share a process where they can, since each start of torch and Ray takes seconds: what a module does not load
after those before it, it does not load alone.
"""

import json
import subprocess
import sys

ASK = """
import json, sys
for code, names in json.loads(sys.argv[1]):
    exec(code)
    print(json.dumps([name for name in names if name in sys.modules]))
"""
IMAGE_SCORES = """
import torch
from metgan_dist.scores.image import image_scores
image_scores(torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16))
"""


def loaded(*stages: tuple[str, list[str]]) -> list[list[str]]:
    """Which of its names a process of its own has loaded after the code of each stage, run after those before."""
    command = [sys.executable, "-c", ASK, json.dumps(stages)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_help_and_tiles_come_without_torch():
    what_help_waits_for = "import metgan_dist.runs.job, metgan_dist.studies.study"
    each_process_that_reads_tiles = "import metgan_dist.tiles.load"
    assert loaded(
        (what_help_waits_for, ["torch", "ray"]),
        (each_process_that_reads_tiles, ["torch", "ray", "scipy", "skimage"]),
    ) == [[], []]


def test_trainings_and_jobs_leave_out_imports_of_seconds():
    what_ray_trains_controller_is_handed = "import metgan_dist.training.entry, metgan_dist.training.assignment"
    the_backend_that_it_starts = "import metgan_dist.training.process_group"
    a_job_which_knows_all_methods = "import metgan_dist.main_job"
    drawn = ["matplotlib", "scipy.stats", "scipy.ndimage", "torchvision", "torch._dynamo"]
    worker = ["monai", "lpips", "nibabel", "tifffile", "mlflow", "s3fs", "scipy.optimize"]
    assert loaded(
        (what_ray_trains_controller_is_handed, ["torch", "pandas", "zarr", "mlflow", "ray.train"]),
        (the_backend_that_it_starts, ["metgan_dist.methods", "metgan_dist.training.launch", "zarr"]),
        ("import metgan_dist.training.worker", [*worker, *drawn, "skimage.metrics.simple_metrics"]),
        (a_job_which_knows_all_methods, ["mlflow", *drawn]),
        ("import metgan_dist.evaluation.scoring", ["lpips", *drawn]),
        (IMAGE_SCORES, ["scipy.stats", "scipy.ndimage"]),  # no more of scipy than it uses
    ) == [[], [], [], [], [], ["scipy.ndimage"]]
