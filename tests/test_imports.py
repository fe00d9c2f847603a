"""What processes of which there are many need not load."""

import subprocess
import sys

import pytest

SCORING = "import torch; image_scores(torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16))"


def loaded(code: str, names: list[str]) -> set[str]:
    """Which of these modules a process of its own has after this code."""
    code = f"import sys\n{code}\nprint(*(set({names!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("modules", "unneeded"),
    [
        # what `--help` waits for
        (["metgan_dist.runs.job", "metgan_dist.studies.study"], ["torch", "ray"]),
        # each process that reads tiles
        (["metgan_dist.tiles.load"], ["torch", "ray", "scipy", "skimage"]),
        # Ray Train's controller: what it is handed, and the backend that it starts
        (["metgan_dist.training.entry", "metgan_dist.training.assignment"], ["torch", "pandas", "zarr", "ray.train"]),
        (["metgan_dist.training.process_group"], ["metgan_dist.methods", "metgan_dist.training.launch", "zarr"]),
        (
            ["metgan_dist.training.worker"],
            [
                *("torchvision", "torch._dynamo", "monai", "lpips", "nibabel", "tifffile", "mlflow", "s3fs"),
                *("matplotlib", "scipy.stats", "scipy.optimize", "scipy.ndimage", "skimage.metrics.simple_metrics"),
            ],
        ),
        (["metgan_dist.main_job"], ["matplotlib", "scipy.stats", "scipy.ndimage", "torchvision", "mlflow"]),
        (["metgan_dist.evaluation.scoring"], ["torchvision", "torch._dynamo", "lpips", "matplotlib", "scipy.stats"]),
    ],
)
def test_imports_of_seconds_are_left_out(modules, unneeded):
    assert loaded(f"import {', '.join(modules)}", unneeded) == set()


def test_a_validation_loads_no_more_of_scipy_than_it_uses():
    code = f"from metgan_dist.scores.image import image_scores; {SCORING}"
    assert loaded(code, ["scipy.stats", "scipy.ndimage"]) == {"scipy.ndimage"}
