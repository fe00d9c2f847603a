"""The generation of synthetic tiles timed against the bare generator on the same device; the digest of what it made.

    python benchmarks/synthesis.py --folder /tmp/synthesis --count 512
    python benchmarks/synthesis.py --folder /tmp/synthesis --model RUN --replicas 2 --count 2000

Without `--model` an untrained MetGAN of `--width` is written into the folder, without `--tiles` those of its run, or
tiles of a phantom. Bare: as many processes as replicas, each calling `translate` on one batch of the same size again
and again, in the same precision and with as many threads. The job: composing labels, generating, writing shards;
counted after its first quarter, as the steady state of a long job, and as a whole, with its start.
Both in turns, because shared machines are not equally fast from one minute to the next.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
import ray
import torch

from metgan_dist.cluster.joining import cluster
from metgan_dist.cluster.resources import plan_resources
from metgan_dist.methods import build_method
from metgan_dist.recipe import Recipe, Scaling
from metgan_dist.synthesis.crew import Crew
from metgan_dist.synthesis.dataset import finish_set
from metgan_dist.synthesis.generate import Work, generate
from metgan_dist.synthesis.replica import Replica
from metgan_dist.synthesis.synthesis import TileSynthesis
from metgan_dist.tiles.pipeline import make_tiles
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.training.checkpoint import save_rank, save_state
from metgan_dist.training.step import Stepper
from metgan_dist.volumes.phantoms import write_phantom

WARM_UP = 2


def main() -> None:
    args = _arguments()
    with cluster(Scaling(cluster="local")):
        compare(args, Path(args.folder).absolute())


def compare(args: argparse.Namespace, folder: Path) -> None:
    """Print a line a round: the bare loop, the generation, their ratio."""
    settings = {
        "count": args.count,
        "batch_size": args.batch,
        "shard": args.shard,
        "threads": args.threads,
        "replicas": args.replicas,
        "model": args.model or _untrained(folder, args.size, args.width),
    }
    if args.tiles or not args.model:
        settings["tiles"] = args.tiles or _phantom_tiles(folder, args.size)
    recipe = Recipe.model_validate({"synthesis": settings})
    synthesis = TileSynthesis.planned(recipe)
    have = ray.cluster_resources()
    plan = plan_resources(recipe.scaling, have.get("CPU", 0), have.get("GPU", 0))
    crew = Crew.of(synthesis.settings, plan, ray.available_resources())
    work = synthesis.work(str(folder / "made"), recipe.training.precision, {})
    shape = synthesis.tiles.shape
    print(f"{crew}; tiles of {shape}, batches of {args.batch}", flush=True)

    loop = ray.remote(num_cpus=crew.cpus, num_gpus=crew.gpus)(bare_rate)
    rounds = []
    for _ in range(args.rounds):
        bare = sum(ray.get([loop.remote(work, crew.device, shape, args.seconds) for _ in range(crew.replicas)]))
        shutil.rmtree(folder / "made", ignore_errors=True)
        began = time.time()
        markers = generate(work, synthesis.plan(), synthesis.drawings, crew, print)
        seconds = time.time() - began
        tumour, gate = synthesis.model.recipe.data.tumour, synthesis.settings.gate
        made = finish_set(
            work.folder, synthesis.tiles, markers, synthesis.facts, tumour, gate, synthesis.fingerprint, {}
        )
        steady = _steady_rate(folder / "made", made)
        rounds.append((bare, steady, steady / bare, len(made.index) / seconds))

    print("\n| round | replicas | tiles | bare, tiles/s | generation, tiles/s | ratio | with its start, tiles/s |")
    print("|---|---|---|---|---|---|---|")
    for number, rates in enumerate([*rounds, np.median(rounds, axis=0)]):
        name = number + 1 if number < len(rounds) else "median"
        print(f"| {name} | {crew.replicas} | {len(made.index)} | " + " | ".join(f"{rate:.2f}" for rate in rates) + " |")
    print(f"\ndigest: {made.digest}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="where phantom, model and synthetic tiles are written")
    parser.add_argument("--model", help="checkpoint or run of a generator")
    parser.add_argument("--tiles", help="tiles that give anatomy and labels")
    parser.add_argument("--count", type=int, default=256, help="tiles to make")
    parser.add_argument("--size", type=int, default=128, help="edge of the phantom's tiles, pixels")
    parser.add_argument("--width", type=float, default=0.25, help="of the untrained generator")
    parser.add_argument("--batch", type=int, default=16, help="tiles in a forward pass")
    parser.add_argument("--shard", type=int, default=64, help="tiles in a shard")
    parser.add_argument("--replicas", type=lambda text: text if text == "auto" else int(text), default="auto")
    parser.add_argument("--threads", type=int, default=1, help="of a replica on a CPU")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the bare loop in each round")
    parser.add_argument("--rounds", type=int, default=3, help="bare loop and generation in turns; the median counts")
    return parser.parse_args()


def bare_rate(work: Work, device: str, shape: tuple[int, ...], seconds: float) -> float:
    """Tiles a second of the generator's forward pass alone, on random input that stays on the device."""
    threads = work.settings.threads
    replica = Replica(work.model, None, device=device, precision=work.precision, threads=threads)
    torch.set_num_threads(threads)
    size = work.settings.batch_size
    random = torch.Generator().manual_seed(0)
    batch = {
        "anatomy": (torch.rand((size, 1, *shape), generator=random) * 2 - 1).to(device),
        "label": (torch.rand((size, *shape), generator=random) > 0.95).long().to(device),
    }
    bf16 = replica.precision == "bf16"
    with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=bf16):
        for _ in range(WARM_UP):
            replica.method.translate(batch)
        _wait(device)
        began, calls = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            replica.method.translate(batch)
            _wait(device)
            calls += 1
        return calls * size / (time.perf_counter() - began)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _steady_rate(folder: Path, made: TileSet) -> float:
    """Tiles a second between the markers of the shard that ends the first quarter and of the last one.

    In the first quarter the processes that compose and write are still being started.
    """
    written = {path.stem: path.stat().st_mtime for path in (folder / "shards").glob("*.json")}
    order = sorted(written, key=lambda name: written[name])
    sizes = made.index["shard"].value_counts()
    first = len(order) // 4
    seconds = written[order[-1]] - written[order[first]]
    return float(np.sum([sizes[name] for name in order[first + 1 :]]) / seconds) if seconds else float("nan")


def _untrained(folder: Path, size: int, width: float) -> str:
    recipe = Recipe.model_validate(
        {"method": {"width": width}, "tiles": {"size": size}, "data": {"label": "metastases"}}
    )
    path = folder / f"metgan-{size}-{width:g}"
    path.mkdir(parents=True, exist_ok=True)
    stepper = Stepper(build_method(recipe), torch.device("cpu"))
    save_state(path, stepper, recipe, {"images": 0})
    save_rank(path, stepper, 0)
    return str(path)


def _phantom_tiles(folder: Path, size: int) -> str:
    data = {"label": "metastases", "phantom": {"volumes": 4, "shape": [16, 4 * size, 4 * size]}}
    recipe = Recipe.model_validate({"data": data, "tiles": {"size": size, "depth": 8, "step": 8, "gap": 0}})
    path = write_phantom(recipe.data.phantom, str(folder / f"phantom-{size}"))
    placed = recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": path})})
    return make_tiles(placed, str(folder / f"tiles-{size}")).uri


if __name__ == "__main__":
    main()
