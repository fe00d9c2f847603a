"""CPU seconds of a 3D training step with weights as networks/layout.py lays them on a CPU, against torch's own order.

    python benchmarks/layout.py --table docs/layout.md

A step is that of all players of a method, narrow as the small presets are, on two crops (paper 5's `cycle_shape` also
at full width and on one), on one thread in float32. Both orders are timed in turns, step by step in one process, in CPU
seconds, so that other work on the machine counts little; shown are the medians, and the median of the ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metgan_dist.methods import build_method, build_segmentor_network, needs_segmentor
from metgan_dist.recipe import Recipe
from metgan_dist.training.step import Stepper

CLASSES = 3


@dataclass(frozen=True)
class Case:
    """A row: what is trained, on how many crops of which size."""

    label: str
    method: Mapping[str, Any]
    size: tuple[int, int, int] = (32, 48, 48)
    crops: int = 2

    def recipe(self) -> Recipe:
        """What the networks are built from."""
        tiles = {"kind": "crop", "size": list(self.size)}
        return Recipe.model_validate({"data": {"classes": CLASSES}, "tiles": tiles, "method": dict(self.method)})


def _segmentor(network: str) -> dict[str, Any]:
    return {"name": "segmentor", "segmentor_network": network, "segmentor_width": 0.25}


CASES = (
    Case("cycle_shape", {"name": "cycle_shape", "width": 0.25}),
    Case("cycle_shape, width 1, one crop", {"name": "cycle_shape"}, crops=1),
    Case("metgan", {"name": "metgan", "width": 0.25, "segmentor_width": 0.25}),
    Case("pix2pix", {"name": "pix2pix", "width": 0.25}, (32, 64, 64)),
    Case("cyclegan", {"name": "cyclegan", "width": 0.25}, (32, 32, 32)),
    Case("segmentor unet", _segmentor("unet")),
    Case("segmentor dynunet", _segmentor("dynunet")),
    Case("segmentor unet-stroke", _segmentor("unet-stroke")),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="steps of either order")
    parser.add_argument("--cases", nargs="*", help="labels of some rows only")
    parser.add_argument("--table", help="file to write the table to")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        if not args.cases or case.label in args.cases:
            own, laid, ratio = _in_turns(case, args.rounds)
            rows.append(f"| {case.label} | {own:.2f} | {laid:.2f} | {ratio:.2f} |")
            print(rows[-1], flush=True)
    head = ["| Step of | torch's order | channels last | ratio |", "|---|---:|---:|---:|"]
    table = "\n".join([f"CPU seconds, one thread, {os.cpu_count()} cores.\n", *head, *rows, ""])
    if args.table:
        Path(args.table).write_text(table)


def _in_turns(case: Case, rounds: int) -> tuple[float, float, float]:
    """Median CPU seconds of a step in torch's order and laid out, and the median ratio."""
    own, laid = _stepper(case), _stepper(case)
    for module in own.method.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.data.contiguous()
    batch = _batch(case)
    seconds = []
    for _ in range(rounds + 1):
        seconds.append([_timed(stepper, batch) for stepper in (own, laid)])
    seconds = seconds[1:]  # the first makes moments and chooses kernels
    before, after = ([pair[side] for pair in seconds] for side in (0, 1))
    ratios = [last / first for first, last in seconds]
    return statistics.median(before), statistics.median(after), statistics.median(ratios)


def _stepper(case: Case) -> Stepper:
    torch.manual_seed(0)
    recipe = case.recipe()
    segmentor = build_segmentor_network(recipe) if needs_segmentor(recipe) else None
    return Stepper(build_method(recipe, segmentor), torch.device("cpu"))


def _timed(stepper: Stepper, batch: dict[str, torch.Tensor]) -> float:
    began = time.process_time()
    stepper.step([batch])
    return time.process_time() - began


def _batch(case: Case) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    images = {name: torch.rand(case.crops, 1, *case.size, generator=random) * 2 - 1 for name in ("anatomy", "tumour")}
    labels = {
        name: torch.randint(CLASSES, (case.crops, *case.size), generator=random) for name in ("label", "anatomy_label")
    }
    return {**images, **labels}


if __name__ == "__main__":
    main()
