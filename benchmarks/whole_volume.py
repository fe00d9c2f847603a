"""A whole volume filled by a generator: peak memory of every process, the seams, the time.

    python benchmarks/whole_volume.py --gib 1 --folder /tmp/whole-volume
    python benchmarks/whole_volume.py --gib 0.06 --folder /tmp/whole-volume --model runs/NAME

A phantom OME-Zarr whose anatomy channel holds so many GiB of 16-bit voxels is drawn into the folder block by block,
once, and used again. Without `--model` a small generator is trained for `--steps` steps first. Then
`jobs/synthesize.py` runs as a user runs it, and all its processes are watched: the table shows the largest resident
size of each kind, sampled every 50 ms; it counts shared pages too. The volume is read back by the ome-zarr package,
where that is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tiling import PeakMemory

from metgan_dist.recipe import Recipe
from metgan_dist.volumes.open import open_volume
from metgan_dist.volumes.phantoms import write_phantom

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
