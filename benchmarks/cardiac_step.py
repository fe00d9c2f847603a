"""One training step of cycle_shape at paper 5's size: seconds and peak memory, with and without gradient checkpointing.

    python benchmarks/cardiac_step.py --table docs/cardiac-step.md

A step is a move of every player, the one of the paper's last two stages, on one volume of each modality (86 x 112 x 112
voxels, six classes) at width 1. Every combination of precision and checkpointing is measured in a process of its own,
since the largest resident size of a process never falls. Memory is what the process grew by since the networks were
built: activations, gradients and Adam's moments, not the libraries. On a GPU it is the largest allocation.

The first step of a process is measured where `--steps` is 1, else the median of those after it: at this size choosing
kernels and laying out memory are lost in minutes of arithmetic. `--edges` and `--width` give a smaller step.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parents[1]
CLASSES = 6
GIB = 2**30
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # what getrusage counts resident memory in


def main() -> None:
    args = _arguments()
    if args.measure:
        precision, checkpointed = args.measure.split(",")
        print(json.dumps(measure(precision, checkpointed == "yes", args)))
        return
    rows = []
    for precision in args.precisions:
        for checkpointed in ("no", "yes"):
            row = {"precision": precision, "checkpointed": checkpointed, **_child(precision, checkpointed)}
            rows.append(row)
            print(row, flush=True)
    table = _table(rows, args)
    print(table)
    if args.table:
        Path(args.table).write_text(table)


def measure(precision: str, checkpointed: bool, args: argparse.Namespace) -> dict[str, float]:
    """Seconds of a step and the memory that it takes, in this process."""
    import torch

    from metgan_dist.methods import build_method
    from metgan_dist.networks.recompute import recompute_blocks
    from metgan_dist.recipe import Recipe
    from metgan_dist.training.step import Stepper

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tiles = {"kind": "crop", "size": list(args.edges)}
    recipe = Recipe.model_validate(
        {"data": {"classes": CLASSES}, "tiles": tiles, "method": {"name": "cycle_shape", "width": args.width}}
    )
    method = build_method(recipe)
    if checkpointed:
        recompute_blocks(method)
    stepper = Stepper(method, device, autocast=torch.bfloat16 if precision == "bf16" else None)
    batch = {name: value.to(device) for name, value in _batch(args.edges).items()}
    before, seconds = _resident(), []
    for _ in range(args.steps):
        began = time.perf_counter()
        losses = stepper.step([batch])
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    assert all(bool(loss.isfinite()) for loss in losses.values())
    grown = _peak() - before
    if device.type == "cuda":
        grown = torch.cuda.max_memory_allocated()
    return {
        "seconds": round(statistics.median(seconds[1:] or seconds), 2),
        "GiB": round(grown / GIB, 2),
        "libraries, GiB": round(before / GIB, 2),
    }


def _batch(edges: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Noise, and label maps of boxes within each other."""
    import torch

    label = torch.zeros(1, *edges, dtype=torch.int64)
    for value in range(1, CLASSES):
        inside = [slice(edge * value // 16, edge - edge * value // 16) for edge in edges]
        label[0][tuple(inside)] = value
    volumes = {name: torch.rand(1, 1, *edges) * 2 - 1 for name in ("anatomy", "tumour")}
    return {**volumes, "label": label, "tumour_label": label.flip(1), "tumour_tile": torch.zeros(1, dtype=torch.int64)}


def _resident() -> int:
    import psutil

    return psutil.Process().memory_info().rss


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT


def _child(precision: str, checkpointed: str) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--measure", f"{precision},{checkpointed}"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{precision}, checkpointed {checkpointed}:\n{done.stderr or f'ended by signal {-done.returncode}'}")
    return json.loads(done.stdout.splitlines()[-1])


def _table(rows: list[dict[str, object]], args: argparse.Namespace) -> str:
    from metgan_dist.evaluation.tables import aligned_records

    body = aligned_records(rows)
    return (
        f"# A step of cycle_shape\n\n{' x '.join(map(str, args.edges))} voxels, batch 1, width {args.width:g}, "
        f"{args.threads} thread(s), {args.steps} step(s); {platform.machine()}.\n\n{body}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=lambda text: tuple(map(int, text.split(","))), default=(86, 112, 112))
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=("fp32", "bf16"))
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # a combination, measured in this process
    parser.add_argument("--table", help="Markdown file to write the table to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
