"""Does every method learn? Its own criterion before and after a small budget on the phantom, against a stated margin.

    python benchmarks/learning.py --folder /tmp/learning --table docs/learning.md

Each method trains for `--steps` steps of `--batch` tiles of 64 pixels at `--width` on one process, from the same tiles,
segmentor and judge, none of its terms left out but the perceptual loss (its weights cannot be made up). Scored on
held-out tiles are, as for every checkpoint: methods trained on pairs by MAE, those that draw from labels by label
fidelity, unpaired ones by the error of the cycle. The untrained method is the one at step 0. Each is trained in every
precision of `--precisions` and with every seed of `--seeds`, from the same segmentor and before the same judge, which
are trained in float32: what differs between precisions is to be no more than what differs between seeds. The margin,
for all of them: an error
falls to `ERROR_FALLS_TO` of the untrained one or below, label fidelity rises by `FIDELITY_RISES_BY` or more. A method
that misses it is marked, and the script ends with exit code 1.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
import time
from pathlib import Path

import numpy as np
import ray
import torch
from torch import nn

from metgan_dist.methods import METHODS, build_method, method_class
from metgan_dist.methods.segmentor import judge_recipe, segmentor_recipe
from metgan_dist.recipe import Recipe, recipe_tree
from metgan_dist.recipe.methods import owners
from metgan_dist.tasks import task_of
from metgan_dist.tiles.brightness import mean_intensities
from metgan_dist.tiles.pipeline import make_tiles
from metgan_dist.tiles.stream import planned_rows, tile_batches
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.training.precision import autocast_dtype
from metgan_dist.training.schedule import rate_factor
from metgan_dist.training.step import Stepper
from metgan_dist.training.validation import Validator
from metgan_dist.volumes.phantoms import write_phantom

ERROR_FALLS_TO, FIDELITY_RISES_BY = 0.8, 0.2
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    args = _arguments()
    recipe = _recipe(args, "metgan")
    tiles = _tiles(recipe, args.folder)
    segmentor = _segmentor(segmentor_recipe(recipe), tiles)
    networks = {"unet": segmentor.method.networks["segmentor"]}
    judge = _segmentor(judge_recipe(recipe), tiles)
    rows, missed = [], False
    for name in args.methods:
        mine = _recipe(args, name)
        kind = mine.method.segmentor_network
        if "segmentor" in method_class(name).needs(mine) and kind not in networks:
            networks[kind] = _segmentor(segmentor_recipe(mine), tiles).method.networks["segmentor"]
        row, learned = _learns(mine, tiles, networks.get(kind), judge, args)
        rows.append(row)
        missed = missed or not learned
        print(row, flush=True)
    table = "\n".join(
        [
            "# What each method learns\n",
            "How a run goes on, at what rate, and which checkpoint it keeps: [training.md](training.md).\n",
            f"{args.steps} steps of {args.batch} tiles of 64 pixels of the phantom, width {args.width}, {DEVICE.type}; "
            f"{len(tiles.positions('test'))} held-out tiles.\n",
            f"| method | criterion | untrained | {' | '.join(_columns(args))} | margin | learned | seconds |",
            "|---|---|---|" + "---|" * len(_columns(args)) + "---|---|---|",
            *rows,
        ]
    )
    if args.table:
        Path(args.table).write_text(table + "\n")
    sys.exit(1 if missed else 0)


def _recipe(args: argparse.Namespace, name: str) -> Recipe:
    tree = recipe_tree("quickstart")
    tree["tiles"] |= {"size": 64, "stride": 64}
    without_vgg = {"perceptual": 0} if name in owners("perceptual") else {}
    small = {"width": args.width, "segmentor_width": 0.25, "segmentor_learning_rate": 0.01}
    tree["method"] = {"name": name, **small, **without_vgg}
    tree["training"] = {"batch_size": args.batch, "learning_rate": args.rate, "max_steps": args.steps}
    return Recipe.model_validate(tree)


def _tiles(recipe: Recipe, folder: str) -> TileSet:
    source = write_phantom(recipe.data.phantom, str(Path(folder) / "phantom"))
    placed = recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": source})})
    ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR)
    tiles = make_tiles(placed, str(Path(folder) / "tiles"))
    ray.shutdown()
    return tiles


def _columns(args: argparse.Namespace) -> list[str]:
    return [
        f"{precision}, seed {seed}" if len(args.seeds) > 1 else precision
        for precision, seed in itertools.product(args.precisions, args.seeds)
    ]


def _train(stepper: Stepper, tiles: TileSet, steps: int, batch: int, seed: int) -> None:
    order = planned_rows(tiles.positions("train"), np.arange(steps * batch), seed)
    for number, tile_batch in enumerate(tile_batches(tiles, order, batch)):
        stepper.set_rate(rate_factor(number, steps, 0.5))
        stepper.step([{name: value.to(DEVICE) for name, value in tile_batch.items()}])


def _segmentor(plan: Recipe, tiles: TileSet) -> Stepper:
    stepper = Stepper(build_method(plan), DEVICE)
    _train(stepper, tiles, 300, 4, plan.training.seed)
    stepper.method.eval().requires_grad_(False)
    return stepper


def _learns(
    recipe: Recipe, tiles: TileSet, segmentor: nn.Module | None, judge: Stepper, args: argparse.Namespace
) -> tuple[str, bool]:
    name, began = recipe.method.name, time.monotonic()
    validator = Validator(task_of(method_class(name), tiles, {"judge": judge.method}), DEVICE, split="test")
    criterion, order = method_class(name).criterion(recipe)
    runs = [
        [scores[criterion] for scores in _trained(recipe, seed, precision, tiles, segmentor, validator)]
        for precision, seed in itertools.product(args.precisions, args.seeds)
    ]
    before, afters = runs[0][0], [after for _, after in runs]
    if order == "min":
        learned, margin = max(afters) <= ERROR_FALLS_TO * before, f"x {ERROR_FALLS_TO}"
    else:
        learned, margin = min(afters) >= before + FIDELITY_RISES_BY, f"+ {FIDELITY_RISES_BY}"
    trained = " | ".join(f"{after:.3f}" for after in afters)
    seconds = time.monotonic() - began
    verdict = "yes" if learned else "**no**"
    return f"| {name} | {criterion} | {before:.3f} | {trained} | {margin} | {verdict} | {seconds:.0f} |", learned


def _trained(
    recipe: Recipe, seed: int, precision: str, tiles: TileSet, segmentor: nn.Module | None, validator: Validator
) -> tuple[dict[str, float], dict[str, float]]:
    """Scores of one training before and after it."""
    torch.manual_seed(seed)
    seeded = recipe.model_copy(update={"training": recipe.training.model_copy(update={"seed": seed})})
    needs = "segmentor" in method_class(recipe.method.name).needs(recipe)
    method = build_method(seeded, segmentor if needs else None)
    method.begin_at(mean_intensities(tiles))
    stepper = Stepper(method, DEVICE, autocast=autocast_dtype(precision, DEVICE))
    before = validator(stepper)[0]
    _train(stepper, tiles, recipe.training.max_steps or 1, recipe.training.batch_size, seed)
    return before, validator(stepper)[0]


def _of_one_stage() -> list[str]:
    """The methods that learn from the phantom's tiles, pairs in one plane, and in one stage."""
    recipes = {name: Recipe.model_validate({"method": {"name": name}}) for name in METHODS if name != "segmentor"}
    return [
        name
        for name, recipe in recipes.items()
        if 2 in METHODS[name].dimensions and len(METHODS[name].stages(recipe)) == 1
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="where phantom and tiles are written")
    parser.add_argument("--methods", nargs="+", default=_of_one_stage())
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--rate", type=float, default=2e-3, help="base learning rate; narrow networks need more")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=("auto", "fp32", "bf16"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--table", help="Markdown file to write the table to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
