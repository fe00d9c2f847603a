"""Tiling timed against a plain Zarr loop, and the peak memory of every process while it runs.

    python benchmarks/tiling.py --gib 1 --folder /tmp/tiling
    python benchmarks/tiling.py --gib 8 --folder /tmp/tiling --no-plain

A phantom OME-Zarr of about so many GiB (two 16-bit channels and a label) is drawn into the folder once and used again.
Timed: `make_tiles` on a cluster whose workers are up; and the same reads and writes (the same blocks, cut with NumPy,
written as the same Zarr arrays) in as many processes as cores, without statistics, index or splits.
Memory is the largest resident size of each kind of process, sampled every 50 ms; it counts shared pages too.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
import ray.data
import zarr

from metgan_dist.cluster.progress import quiet
from metgan_dist.recipe import Recipe
from metgan_dist.tiles.geometry import AXES
from metgan_dist.tiles.pipeline import make_tiles
from metgan_dist.tiles.survey import plan_jobs, survey_volumes
from metgan_dist.tiles.tiling import BlockJob
from metgan_dist.volumes.dataset import resolve_data, volume_refs
from metgan_dist.volumes.phantoms import write_phantom

BYTES_PER_VOXEL = 5


def main() -> None:
    args = _arguments()
    edge = round((args.gib * 2**30 / BYTES_PER_VOXEL / 4) ** (1 / 3) / 32) * 32 or 32
    shape = (edge, 2 * edge, 2 * edge)
    data = {"phantom": {"volumes": 1, "shape": shape}}
    source = Path(args.folder) / f"phantom-{args.gib:g}"
    started = time.perf_counter()
    # In a process of its own, whose memory is not counted.
    drawing = multiprocessing.get_context("spawn").Process(target=_draw, args=(data, str(source)))
    drawing.start()
    drawing.join()
    print(f"phantom of {shape} voxels: {time.perf_counter() - started:.0f} s", flush=True)
    depth = {"depth": min(args.size, edge)} if args.kind == "projection" else {}
    tiles = {"kind": args.kind, "size": args.size, "views": args.views, **depth, "gap": 0}
    recipe = Recipe.model_validate({"data": {"path": str(source)}, "tiles": tiles})
    gib = shape[0] * shape[1] * shape[2] * BYTES_PER_VOXEL / 2**30

    ray.init(address="local", num_cpus=args.processes, include_dashboard=False, logging_level=logging.ERROR)
    _start_workers(args.processes)
    out = Path(args.folder) / "tiles"
    shutil.rmtree(out, ignore_errors=True)
    with PeakMemory() as memory:
        started = time.perf_counter()
        made = make_tiles(recipe, str(out))
        ours = time.perf_counter() - started
    ray.shutdown()
    plain = None if args.no_plain else plain_loop(recipe, str(Path(args.folder) / "plain"), args.processes)

    print("\n| GiB | tiles | make_tiles, s | plain loop, s | ratio | chunks read per chunk needed |")
    print("|---|---|---|---|---|---|")
    other = "- | -" if plain is None else f"{plain:.1f} | {plain / ours:.2f}"
    reads = made.manifest["chunks_read_per_chunk_needed"]
    print(f"| {gib:.2f} | {made.manifest['counts']['planned']} | {ours:.1f} | {other} | {reads:g} |")
    print("\n| process | peak, MiB |\n|---|---|")
    for name, peak in sorted(memory.peaks.items(), key=lambda item: -item[1]):
        print(f"| {name} | {peak / 2**20:.0f} |")


def _draw(data: dict[str, Any], folder: str) -> None:
    write_phantom(Recipe.model_validate({"data": data}).data.phantom, folder, chunks=(64, 128, 128))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=0.25, help="size of the phantom in memory, GiB")
    parser.add_argument("--folder", required=True, help="where phantom and tiles are written")
    parser.add_argument("--kind", choices=["projection", "slice"], default="slice")
    parser.add_argument("--size", type=int, default=256, help="edge of a tile, voxels")
    parser.add_argument("--views", default="z", help="axes to look along, e.g. z,y,x")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="of the cluster and of the plain loop"
    )
    parser.add_argument("--no-plain", action="store_true", help="leave the plain loop out")
    return parser.parse_args()


def plain_loop(recipe: Recipe, folder: str, processes: int) -> float:
    """Seconds of a process pool that reads the same boxes and writes the same arrays."""
    shutil.rmtree(folder, ignore_errors=True)
    data = resolve_data(recipe.data)
    surveys, _ = survey_volumes(volume_refs(data), data, print)
    memory = recipe.scaling.tile_memory * 2**20
    jobs = [job for survey in surveys for job in plan_jobs(survey, recipe, folder, memory)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(_import_time, range(processes), chunksize=1)
        started = time.perf_counter()
        for _ in pool.imap_unordered(_plain_block, jobs):
            pass
        return time.perf_counter() - started


def _plain_block(job: BlockJob) -> None:
    image = zarr.open_array(f"{job.ref.paths[0]}/s0", mode="r")
    group = zarr.create_group(f"{job.folder}/{job.shard}.zarr")
    z, y, x = (slice(*span) for span in job.block.box)
    for role in job.layers:
        if role == "label":
            voxels = np.asarray(zarr.open_array(f"{job.ref.label_paths[0]}/s0", mode="r")[z, y, x])
        else:
            # The phantom has two channels; which is which makes no difference here.
            voxels = np.asarray(image[int(role == "tumour"), z, y, x])
        pixels = np.stack([_tile(voxels, job, number) for number in range(len(job.block.plans))])
        group.create_array(role, data=pixels, chunks=(1, *pixels.shape[1:]), shards=pixels.shape)


def _tile(voxels: np.ndarray, job: BlockJob, number: int) -> np.ndarray:
    plan = job.block.plans[number]
    part = tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(plan.region, job.block.box, strict=True))
    return np.asarray(voxels[part].max(axis=AXES.index(plan.view)))


def _import_time(number: int) -> int:
    time.sleep(0.5)  # so that every process of the pool takes one
    return number


def _start_workers(processes: int) -> None:
    """Bring the worker processes up, one more than processors as in tiling, and let them import what tiling imports."""
    count = processes + 1
    share = round(processes / count - 0.001, 3)
    dataset = ray.data.range(count, override_num_blocks=count).map(
        _import_time_row, num_cpus=share, compute=ray.data.TaskPoolStrategy(size=count)
    )
    quiet(dataset)
    dataset.materialize()


def _import_time_row(row: dict[str, int]) -> dict[str, int]:
    import metgan_dist.tiles.pipeline  # noqa: F401

    return {"id": _import_time(row["id"])}


class PeakMemory:
    """Largest resident size of this process and of its descendants, by kind, while a `with` block runs."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        driver = psutil.Process()
        while not self._stop.wait(0.05):
            for process in [driver, *driver.children(recursive=True)]:
                try:
                    command = process.cmdline()[:1] or [process.name()]
                    name = "driver" if process == driver else command[0].partition(" ")[0].rpartition("/")[2]
                    self.peaks[name] = max(self.peaks.get(name, 0), process.memory_info().rss)
                except psutil.Error:
                    continue  # it has ended


if __name__ == "__main__":
    main()
