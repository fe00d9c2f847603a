"""What is handed to workers passes through processes of Ray's own, which must not load the networks for it."""

import subprocess
import sys


def test_an_assignment_is_read_without_torch():
    modules = "metgan_dist.training.assignment, metgan_dist.training.entry"
    code = f"import sys, {modules}; print('torch' in sys.modules, 'mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["False", "False"], done.stdout + done.stderr
