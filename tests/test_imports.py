"""What processes of which there are many need not load."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("modules", "unneeded"),
    [
        (["metgan_dist.runs.job", "metgan_dist.studies.study"], ["torch", "ray"]),  # what `--help` waits for
        (["metgan_dist.tiles.load"], ["torch"]),  # each process that reads tiles
        (["metgan_dist.training.worker"], ["torchvision", "torch._dynamo", "nibabel"]),
        (["metgan_dist.evaluation.scoring"], ["torchvision", "torch._dynamo", "lpips"]),
    ],
)
def test_imports_of_seconds_are_left_out(modules, unneeded):
    code = f"import sys, {', '.join(modules)}; print(*sorted(set({unneeded!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stdout + done.stderr
