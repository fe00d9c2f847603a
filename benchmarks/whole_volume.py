"""A whole volume filled by a generator: peak memory of every process, the seams, the time, whether its label fits.

    python benchmarks/whole_volume.py --gib 1 --folder /tmp/whole-volume
    python benchmarks/whole_volume.py --gib 0.06 --folder /tmp/whole-volume --model runs/NAME

A phantom OME-Zarr whose anatomy channel holds so many GiB of 16-bit voxels is drawn into the folder block by block,
once, and used again. Without `--model` a small generator is trained for `--steps` steps first. Then
`jobs/synthesize.py` runs as a user runs it, and all its processes are watched: the table shows the largest resident
size of each kind, sampled every 50 ms; it counts shared pages too. The volume is read back by the ome-zarr package,
where that is installed. At last the block with most lesion is filled anew for generators of slices and of projections,
and of resized tiles, by one that paints the label that it is given: what its image shows is what was imposed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tiling import PeakMemory

from metgan_dist.recipe import Recipe
from metgan_dist.synthesis.blending import AxisTiles
from metgan_dist.synthesis.filling import Filler, Filling
from metgan_dist.synthesis.replica import LEVELS
from metgan_dist.synthesis.slabs import Layout
from metgan_dist.synthesis.source_volume import SourceVolume
from metgan_dist.volumes.ome_zarr_writer import Level, chunks_and_shards, create_image, open_level, regions, where
from metgan_dist.volumes.open import open_volume
from metgan_dist.volumes.phantoms import write_phantom
from metgan_dist.volumes.volume import Region

JOBS = Path(__file__).resolve().parents[1] / "jobs"
BYTES_PER_VOXEL = 2
LABEL = "metastases"


def main() -> None:
    args = _arguments()
    folder = Path(args.folder).absolute()
    volume = _phantom(args.gib, folder)
    model = args.model or _small_model(folder / "runs", args.steps)
    name = f"filled-{time.strftime('%Y%m%d-%H%M%S')}"
    flags = {
        "synthesis.model": model,
        "synthesis.volume": volume,
        "synthesis.volume_label": LABEL,
        "synthesis.overlap": args.overlap,
        "tracking.run": name,
        "storage.path": folder / "runs",
    }
    began = time.perf_counter()
    with PeakMemory() as memory:
        _job("synthesize", flags)
    seconds = time.perf_counter() - began
    result = json.loads((folder / "runs" / name / "result.json").read_text())
    written = open_volume(result["artefacts"]["volume"])
    gib = BYTES_PER_VOXEL * written.shape[0] * written.shape[1] * written.shape[2] / 2**30

    print("\n| GiB | voxels | job, s | survey, s | synthesis, s | pyramid, s | seams, s | seam ratio |")
    print("|---|---|---|---|---|---|---|---|")
    phases = " | ".join(f"{result['timings'][phase]:.1f}" for phase in ("survey", "synthesis", "pyramid", "seams"))
    ratio = result["scores"]["seams"]["ratio"]
    print(f"| {gib:.2f} | {' x '.join(map(str, written.shape))} | {seconds:.0f} | {phases} | {ratio:.3f} |")
    print("\n| process | peak, MiB |\n|---|---|")
    memory.peaks.pop("driver", None)  # this script
    for process, peak in sorted(memory.peaks.items(), key=lambda item: -item[1]):
        print(f"| {process} | {peak / 2**20:.0f} |")
    print(f"\n{_seen_by_others(result['artefacts']['volume'])}")
    settings = {field.removeprefix("synthesis."): str(value) for field, value in flags.items() if "synthesis" in field}
    _label_fits(SourceVolume.of(Recipe.model_validate({"synthesis": settings})), folder / "painted.zarr")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=0.06, help="size of the anatomy channel, GiB")
    parser.add_argument("--folder", required=True, help="where phantom, model and runs are written")
    parser.add_argument(
        "--model", help="run or checkpoint of a generator of light-sheet phantoms; default: a small one"
    )
    parser.add_argument("--steps", type=int, default=100, help="training steps of the small generator")
    parser.add_argument("--overlap", type=float, default=0.5, help="of neighbouring tiles, of their edge")
    return parser.parse_args()


def _phantom(gib: float, folder: Path) -> str:
    edge = max(32, round((gib * 2**30 / BYTES_PER_VOXEL / 4) ** (1 / 3) / 32) * 32)
    shape, source = (edge, 2 * edge, 2 * edge), folder / f"phantom-{gib:g}"
    began = time.perf_counter()
    # In a process of its own, whose memory is not counted.
    drawing = multiprocessing.get_context("spawn").Process(target=_draw, args=(shape, str(source)))
    drawing.start()
    drawing.join()
    print(f"phantom of {shape} voxels: {time.perf_counter() - began:.0f} s", flush=True)
    return str(source / "phantom-0.ome.zarr")


def _draw(shape: tuple[int, int, int], folder: str) -> None:
    phantom = Recipe.model_validate({"data": {"phantom": {"volumes": 1, "shape": shape, "seed": 100}}}).data.phantom
    write_phantom(phantom, folder, chunks=(64, 128, 128))


def _small_model(runs: Path, steps: int) -> str:
    """The run of a quickstart generator, trained once."""
    name = f"generator-{steps}"
    if not (runs / name / "result.json").exists():
        few = {"segmentor_max_steps": 20, "segmentor_width": 0.05}
        flags = {f"method.{field}": value for field, value in few.items()}
        _job(
            "train_metgan",
            flags | {"training.max_steps": steps, "tracking.run": name, "storage.path": runs, "scaling.workers": 1},
        )
    return str(runs / name)


def _job(name: str, flags: dict[str, Any]) -> None:
    words = [word for field, value in flags.items() for word in (f"--{field}", str(value))]
    subprocess.run([sys.executable, str(JOBS / f"{name}.py"), "--recipe", "quickstart", *words], check=True)


def _label_fits(source: SourceVolume, target: Path) -> None:
    """Print how imposed and written label, and written label and the user's, agree in the block with most lesion."""
    shape = source.volume.shape
    blocks = regions(shape, chunks_and_shards(shape)[1])
    block = max(blocks, key=lambda region: np.count_nonzero(source.volume.read("label", region)))
    given = source.volume.read("label", block) > 0
    print("\n| depth | tile, voxels | pixels | Dice, imposed and written | Dice, written and given |")
    print("|---|---|---|---|---|")
    pixels = source.layout.shape
    for depth, factor in ((1, 1.0), (5, 1.0), (16, 1.0), (16, 1.17)):
        rows, columns = (
            AxisTiles.over(length, round(factor * edge), 0.5) for length, edge in zip(shape[1:], pixels, strict=True)
        )
        laid = replace(source, layout=Layout(depth, rows, columns, pixels))
        image, written = painted(laid, str(target), block)
        ((low, high),) = source.tumour_ranges
        scores = dice(image > (low + high) / 2, written > 0), dice(written > 0, given)
        print(f"| {depth} | {rows.edge} | {pixels[0]} | {scores[0]:.4f} | {scores[1]:.4f} |", flush=True)


class Painter:
    """In a generator's place: -1 in the background, 1 in lesions of any class."""

    def generate(
        self, anatomy: np.ndarray, label: np.ndarray, seed: int, *, organs: Sequence[str | None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Replica.generate`."""
        return (label > 0).astype(np.uint16)[:, None] * LEVELS, np.full(len(label), np.nan)


def painted(source: SourceVolume, target: str, block: Region) -> tuple[np.ndarray, np.ndarray]:
    """Image and label (z, y, x) of a block of the source, written by a painter into an OME-Zarr at `target`."""
    plan = {"ranges": [[(0.0, 1.0)] * source.volume.shape[0]], "tumour": source.tumour_ranges, "dtype": "uint16"}
    create_image(target, [Level("s0", source.volume.shape, (1, 1, 1))], np.uint16, source.label_name, {})
    Filler(Filling.of(source, plan, target), Painter()).fill(block)
    image, label = (
        np.asarray(open_level(target, path, {})[where(block)]) for path in ("s0", f"labels/{source.label_name}/s0")
    )
    return image[0], label


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Of two masks; 1 where both are empty."""
    total = np.count_nonzero(one) + np.count_nonzero(other)
    return 2 * np.count_nonzero(one & other) / total if total else 1.0


def _seen_by_others(uri: str) -> str:
    """What the ome-zarr package finds in the volume."""
    if importlib.util.find_spec("ome_zarr") is None:
        return "the ome-zarr package is not installed: not read back by another reader"
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    nodes = list(Reader(parse_url(uri))())
    found = [
        f"{node.zarr.path.rstrip('/').rpartition('/')[2]}: {[level.shape for level in node.data]}" for node in nodes
    ]
    return "ome-zarr reads " + "; ".join(found)


if __name__ == "__main__":
    main()
