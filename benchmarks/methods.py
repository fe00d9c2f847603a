"""Every method through the main job on real tiles: killed midway, continued, validated, tracked; its speed and memory.

    python benchmarks/methods.py --data PATH/autofluorescence-cells --folder /tmp/methods --table docs/methods.md

Each method of the papers trains for `--steps` steps with two CPU workers at small width on tiles of the recipe `cells`.
When its first checkpoint is written the whole job is killed (SIGKILL, every process), and started again under the same
name. Counted: images per second of the training after the restart, as logged to MLflow (median), and the largest
resident size that a training worker reached (sampled; it counts the libraries, about 0.6 GiB). The table also shows
the last validation score of the method's own criterion. A loss that is not finite ends a job with exit code 1, which
ends this script.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import mlflow
import psutil

from metgan_dist.evaluation.tables import aligned_records
from metgan_dist.methods import METHODS
from metgan_dist.recipe.methods import owners

JOBS = Path(__file__).resolve().parents[1] / "jobs"


def main() -> None:
    args = _arguments()
    common = ["--recipe", "cells", "--data.path", args.data, "--storage.path", args.folder, *_settings(args)]
    shared = _shared(args, common)
    rows = []
    for name in args.methods:
        row = _trained_twice(name, args, common + shared)
        rows.append(row)
        print(json.dumps(row), flush=True)
    table = _table(rows, args)
    print(table)
    if args.table:
        Path(args.table).write_text(table)


def _settings(args: argparse.Namespace) -> list[str]:
    """Small sizes."""
    fields = {
        "tiles.size": args.size,
        "tiles.stride": args.size,
        "method.width": args.width,
        "method.segmentor_width": args.width,
        "method.segmentor_max_steps": 30,
        "training.batch_size": 1,
        "training.epochs": 10_000,
        "training.max_steps": args.steps,
        "training.validate_every": args.steps,
        "training.validate_tiles": 16,
        "training.checkpoint_every": args.steps // 2,
        "scaling.workers": 2,
    }
    return [part for field, value in fields.items() for part in (f"--{field}", str(value))]


def _shared(args: argparse.Namespace, common: list[str]) -> list[str]:
    """Tiles and segmentors are made once, by the first run of the list of settings."""
    done = _run("train_segmentor", [*common, "--tracking.run", "shared-segmentor"])
    artefacts = json.loads(done.read_text())["artefacts"]
    judge = artefacts["best_checkpoint"]
    common[common.index("--data.path") + 1] = artefacts["tiles"]
    return ["--method.judge", judge]


def _trained_twice(name: str, args: argparse.Namespace, flags: list[str]) -> dict[str, object]:
    # Nothing of the methods is left out but the perceptual loss, whose weights cannot be made up.
    without_vgg = ["--method.perceptual", "0"] if name in owners("perceptual") else []
    flags = [*flags, "--method.name", name, *without_vgg, "--tracking.run", f"bench-{name}"]
    folder = Path(args.folder) / f"bench-{name}" / "train" / name
    killed = _kill_at_first_checkpoint(flags, folder)
    began = time.monotonic()
    result_file, peak = _run_watched(flags)
    result = json.loads(result_file.read_text())
    client = mlflow.MlflowClient(result["tracking_uri"])
    history = client.get_metric_history(result["mlflow_run_id"], "images_per_second")
    speeds = [metric.value for metric in history if metric.step > killed]
    (criterion, score), *_ = result["scores"]["validation"].items()
    return {
        "method": name,
        "images": result["artefacts"]["images"],
        "killed_at": killed,
        "images_per_second": round(statistics.median(speeds), 2),
        "peak_mib": round(peak / 2**20),
        "criterion": criterion,
        "score": round(score, 4),
        "seconds": round(time.monotonic() - began),
    }


def _command(job: str, flags: list[str]) -> list[str]:
    return [sys.executable, str(JOBS / f"{job}.py"), *flags]


def _run(job: str, flags: list[str]) -> Path:
    done = subprocess.run(_command(job, flags), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{job} {' '.join(flags)}\n{done.stdout}{done.stderr}")
    return Path(done.stdout.strip().splitlines()[-1].removeprefix("result: "))


def _kill_at_first_checkpoint(flags: list[str], folder: Path) -> int:
    """Start the job and kill all of it once it has a checkpoint; returns the images that it had trained on by then."""
    process = subprocess.Popen(
        _command("train_metgan", flags), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    while not (kept := list(folder.glob("*/images-*/state.pt")) + list(folder.glob("images-*/state.pt"))):
        if process.poll() is not None:
            assert process.stdout is not None
            sys.exit(f"{folder.name} ended before its first checkpoint:\n{process.stdout.read().decode()}")
        time.sleep(0.2)
    time.sleep(3)  # the checkpoint is registered, and the steps after it are lost
    for member in _family(process.pid):
        with suppress(psutil.NoSuchProcess):
            member.send_signal(signal.SIGKILL)
    process.wait()
    return int(kept[0].parent.name.removeprefix("images-"))


def _run_watched(flags: list[str]) -> tuple[Path, int]:
    """Run the job to its end; its result and the largest resident size of a training worker, in bytes."""
    peak = 0
    with tempfile.TemporaryFile("w+") as printed:  # a pipe that nobody reads while we watch would fill up
        process = subprocess.Popen(_command("train_metgan", flags), stdout=printed, stderr=subprocess.STDOUT)
        while process.poll() is None:
            for member in _family(process.pid):
                with suppress(psutil.NoSuchProcess):
                    if "RayTrainWorker" in " ".join(member.cmdline()):
                        peak = max(peak, member.memory_info().rss)
            time.sleep(0.5)
        printed.seek(0)
        out = printed.read()
    if process.returncode:
        sys.exit(f"{' '.join(flags)}\n{out}")
    return Path(out.strip().splitlines()[-1].removeprefix("result: ")), peak


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _table(rows: list[dict[str, object]], args: argparse.Namespace) -> str:
    body = aligned_records(rows)
    return (
        "# Every method on real tiles\n\n"
        f"{args.steps} steps on tiles of the recipe `cells`, two CPU workers, batch 1 each, {args.size} pixels, width "
        f"{args.width}; {os.cpu_count()} cores, load {os.getloadavg()[2]:.0f} (15 minutes' mean at the end; above "
        f"about twice the cores the speeds are too low).\n\n{body}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the real volumes of the recipe `cells`")
    parser.add_argument("--folder", required=True, help="where everything is written")
    parser.add_argument("--methods", nargs="+", default=[name for name in METHODS if METHODS[name].judged])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--size", type=int, default=64, help="edge of a tile, pixels")
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--table", help="Markdown file to write the table to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
