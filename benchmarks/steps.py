"""CPU seconds of one training step of every method at the paper's size, against an older commit of this project.

    python benchmarks/steps.py --folder /tmp/steps --table docs/steps.md

A step is that of all players on one tile of 256 pixels, at width 1, on one thread, with the precision that
`training.precision: auto` takes on this machine (`--precision fp32` compares the arithmetic alone). The older commit is
checked out into a git worktree below `--folder`, and both are timed in turns, each in a process of its own, on the same
batch: CPU seconds of a process, so that other work on the machine counts little. Shown is the median over rounds of the
ratio within a round. The perceptual loss is left out on both sides, since its weights cannot be made up.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from metgan_dist.methods.method import Method
    from metgan_dist.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
EDGE = 256


def main() -> None:
    args = _arguments()
    if args.measure:
        print(json.dumps(measure(args.measure, args.precision, args.steps)))
        return
    older = _worktree(Path(args.folder) / "older", args.older)
    rows = []
    for name in args.methods or _methods(older):
        row = _in_turns(name, older, args)
        rows.append(row)
        print(row, flush=True)
    table = _table(rows, args)
    print(table)
    if args.table:
        Path(args.table).write_text(table)


def measure(name: str, precision: str, steps: int) -> float:
    """CPU seconds per step of the method `name`, by the package that is found first on the path; the median."""
    import torch

    from metgan_dist.methods import build_method, build_segmentor_network, method_class
    from metgan_dist.recipe import Recipe
    from metgan_dist.training.step import Stepper

    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device("cpu")
    without_vgg = {"perceptual": 0} if name.startswith(("spade", "sean", "redgan")) else {}
    recipe = Recipe.model_validate({"method": {"name": name, **without_vgg}, "training": {"precision": precision}})
    needed = name == "segmentor" or _needs_segmentor(method_class(name), recipe)
    segmentor = build_segmentor_network(recipe).requires_grad_(name == "segmentor") if needed else None
    stepper = Stepper(build_method(recipe, segmentor), device, autocast=_autocast(recipe, device))
    lesions = torch.zeros(1, EDGE, EDGE, dtype=torch.int64)
    lesions[0, 100:140, 60:110] = 1
    batch = {"anatomy": torch.rand(1, 1, EDGE, EDGE) * 2 - 1, "tumour": torch.rand(1, 1, EDGE, EDGE) * 2 - 1}
    seconds = []
    for _ in range(steps + 1):
        began = time.process_time()
        stepper.step([{**batch, "label": lesions}])
        seconds.append(time.process_time() - began)
    # The first step also lays out memory and chooses kernels.
    return statistics.median(seconds[1:])


def _needs_segmentor(method: type[Method], recipe: Recipe) -> bool:
    """As the package says it; before methods said all their needs in one place, in a place of its own."""
    if hasattr(method, "needs"):
        return "segmentor" in method.needs(recipe)
    return bool(method.needs_segmentor(recipe))  # type: ignore[attr-defined]


def _autocast(recipe: Recipe, device: torch.device) -> torch.dtype | None:
    """What `training.precision` means to the package; before it was a function of its own, float32 on every CPU."""
    try:
        from metgan_dist.training.precision import autocast_dtype
    except ImportError:
        return None
    return autocast_dtype(recipe.training.precision, device)


def _in_turns(name: str, older: Path, args: argparse.Namespace) -> dict[str, object]:
    ratios, before, now = [], [], []
    for _ in range(args.rounds):
        before.append(_child(name, older, args))
        now.append(_child(name, ROOT, args))
        ratios.append(now[-1] / before[-1])
    return {
        "method": name,
        "before, CPU s": round(statistics.median(before), 2),
        "now, CPU s": round(statistics.median(now), 2),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": " ".join(f"{ratio:.2f}" for ratio in ratios),
    }


def _child(name: str, tree: Path, args: argparse.Namespace) -> float:
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", name]
    command += ["--precision", args.precision, "--steps", str(args.steps)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(tree)}, cwd=tree, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{name} in {tree}:\n{done.stderr}")
    return float(done.stdout.splitlines()[-1])


def _worktree(folder: Path, commit: str) -> Path:
    if not folder.exists():
        subprocess.run(["git", "-C", str(ROOT), "worktree", "prune"], check=True)
        subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "--detach", str(folder), commit], check=True)
    return folder


def _methods(older: Path) -> list[str]:
    """Those that the older commit knows too."""
    from metgan_dist.methods import METHODS

    known = subprocess.run(
        [sys.executable, "-c", "from metgan_dist.methods import METHODS; print(*METHODS)"],
        env={**os.environ, "PYTHONPATH": str(older)},
        cwd=older,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in METHODS if name in known.stdout.split()]


def _table(rows: list[dict[str, object]], args: argparse.Namespace) -> str:
    from metgan_dist.evaluation.tables import aligned_records

    body = aligned_records(rows)
    return (
        f"# A step, against commit {args.older}\n\n{EDGE} pixels, batch 1, width 1, one thread, precision "
        f"{args.precision}; {platform.machine()}, {args.rounds} rounds in turns, {args.steps} steps each.\n\n{body}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="/tmp/steps", help="where the older commit is checked out")
    parser.add_argument("--older", default="a8f494f", help="commit to compare with")
    parser.add_argument("--methods", nargs="+", help="default: all")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each process, after one that is not")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # a method, measured in this process
    parser.add_argument("--table", help="Markdown file to write the table to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
