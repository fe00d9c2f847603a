"""What becomes of damaged files: of each format, so many copies with one byte changed or their end cut off, all read.

    python benchmarks/mutations.py --count 500 --table docs/bad-input.md

Each damage follows from the seed, the format and its number. Half of them change a byte of a file, half cut one short.
Every copy is read to its end as a job reads it, in a process that may take 2 GiB more than it has at its start and ten
seconds a file, and one of these becomes of it:

- *refused*: one line that names the file, as the user sees it;
- *the same*: what is read is what was written; the damage lies where nothing is read from;
- *other values*: what is read is not what was written. A format without checksums cannot know;
- *an exception* of a library, *memory*, *a crash* of the process, or *a hang*: all of them are mistakes of ours.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SECONDS, MEMORY = 10, 2 * 2**30
OUTCOMES = ("refused", "the same", "other values", "an exception", "memory", "a crash", "a hang")
VOXELS = np.random.default_rng(0).integers(1, 4000, (6, 24, 32)).astype("uint16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="damages of each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--table", help="Markdown file, of which the part between the two marks is written anew")
    parser.add_argument("--read", nargs=3, metavar=("FORMAT", "FIRST", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        _read_damaged(args.read[0], int(args.read[1]), args.count, args.seed, Path(args.read[2]))
        return
    rows = {name: outcomes(name, args.count, args.seed) for name in args.formats}
    table = _table(rows, args.count, args.seed)
    print(table)
    if args.table:
        _replace(Path(args.table), table)
    if any(found[outcome] for found in rows.values() for outcome in OUTCOMES[3:]):
        sys.exit("some damages are no line")


def outcomes(name: str, count: int, seed: int) -> Counter[str]:
    """How often each of OUTCOMES came of `count` damages of a format; what is no line is told on standard error."""
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        done = 0
        while done < count:
            for line in _child(name, done, count, seed, folder):
                done = line["number"] + 1
                found[line["outcome"]] += 1
                if line["outcome"] in OUTCOMES[3:]:
                    print(f"{name} {line['number']}: {line['outcome']}: {line['what']}", file=sys.stderr)
    return found


def _child(name: str, first: int, count: int, seed: int, folder: str) -> Iterator[dict[str, Any]]:
    """What a process says of the damages from `first` on; that it died, where it did."""
    own = [name, str(first), folder]
    command = [sys.executable, __file__, "--count", str(count), "--seed", str(seed), "--read", *own]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        last = first - 1
        for line in process.stdout:
            if line.startswith("{"):
                told = json.loads(line)
                last = told["number"]
                yield told
    if process.returncode:
        outcome = "a hang" if process.returncode == -signal.SIGALRM else "a crash"
        yield {"number": last + 1, "outcome": outcome, "what": f"ended with {process.returncode}"}


def _read_damaged(name: str, first: int, count: int, seed: int, folder: Path) -> None:
    write, read = FORMATS[name]
    whole = folder / "whole"
    if not whole.exists():
        whole.mkdir()
        write(whole)
    sound = _digest(read(whole))
    limit = _address_space() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in range(first, count):
        damaged = folder / "damaged"
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(whole, damaged)
        what = _damage(damaged, np.random.default_rng([seed, list(FORMATS).index(name), number]))
        signal.alarm(SECONDS)
        outcome, error = _outcome(read, damaged, sound)
        signal.alarm(0)
        print(json.dumps({"number": number, "outcome": outcome, "what": f"{what}: {error}"}), flush=True)


def _damage(folder: Path, drawn: np.random.Generator) -> str:
    """Change or cut one of the files of a folder, the larger the likelier; in words."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    sizes = np.sqrt([path.stat().st_size for path in files])
    path = files[drawn.choice(len(files), p=sizes / sizes.sum())]
    content = bytearray(path.read_bytes())
    at = int(drawn.integers(len(content)))
    if drawn.random() < 0.5:
        path.write_bytes(bytes(content[:at]))
        return f"{path.relative_to(folder)} cut to {at} of {len(content)} bytes"
    content[at] ^= int(drawn.integers(1, 256))
    path.write_bytes(bytes(content))
    return f"{path.relative_to(folder)}, byte {at} changed"


def _outcome(read: Callable[[Path], Any], folder: Path, sound: str) -> tuple[str, str]:
    from metgan_dist.errors import UserError

    try:
        return ("the same" if _digest(read(folder)) == sound else "other values"), ""
    except UserError as error:
        line = str(error)
        return ("refused" if "\n" not in line and str(folder) in line else "an exception"), line
    except MemoryError:
        return "memory", ""
    except Exception as error:
        return "an exception", f"{type(error).__name__}: {error}"


def _digest(content: Any) -> str:
    """Of arrays by name, with their types and shapes; of anything else its text."""
    if not isinstance(content, dict):
        return hashlib.sha256(str(content).encode()).hexdigest()
    parts = [(name, str(one.dtype), one.shape, one.tobytes()) for name, one in sorted(content.items())]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _volume(name: str) -> Callable[[Path], dict[str, np.ndarray]]:
    def read(folder: Path) -> dict[str, np.ndarray]:
        from metgan_dist.volumes.open import open_volume

        volume = open_volume(str(folder / name if name else folder))
        region = tuple((0, edge) for edge in volume.shape)
        return {channel: volume.read(channel, region) for channel in volume.channels}  # type: ignore[arg-type]

    return read


def _write_nifti(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        import nibabel

        nibabel.save(nibabel.Nifti1Image(VOXELS.transpose(2, 1, 0), np.eye(4)), folder / name)

    return write


def _write_tiff(folder: Path) -> None:
    import tifffile

    tifffile.imwrite(folder / "a.tif", VOXELS, photometric="minisblack", metadata={"axes": "ZYX"})


def _write_png(folder: Path) -> None:
    from PIL import Image

    for number, plane in enumerate(VOXELS):
        Image.fromarray(plane).save(folder / f"{number}.png")


def _write_zarr(zarr_format: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        import zarr

        group = zarr.open_group(folder / "a.ome.zarr", mode="w", zarr_format=zarr_format)
        array = group.create_array("0", shape=VOXELS.shape, chunks=(3, 12, 16), dtype=VOXELS.dtype)
        array[:] = VOXELS
        axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
        scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
        scales: Any = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}]
        group.attrs.update({"multiscales": scales} if zarr_format == 2 else {"ome": {"multiscales": scales}})

    return write


def _write_description(folder: Path) -> None:
    _write_nifti("image.nii.gz")(folder.parent)  # beside the folder that is damaged, which is beside this one
    (folder / "dataset.yaml").write_text(
        "anatomy: c0\ntumour: c0\nlabels: {1: tumour}\nvolumes:\n"
        "  - {id: mouse-1, path: ../image.nii.gz, patient: one, organ: lung}\n"
    )


def _read_description(folder: Path) -> Any:
    from metgan_dist.recipe import Data
    from metgan_dist.volumes.dataset import resolve_data, volume_refs

    data = resolve_data(Data(path=str(folder), one_channel=True))
    volume_refs(data)
    return data.model_dump_json().replace(str(folder), "")


def _write_checkpoint(folder: Path) -> None:
    import torch

    from metgan_dist.methods import build_method
    from metgan_dist.recipe import Recipe
    from metgan_dist.training.checkpoint import save_state
    from metgan_dist.training.step import Stepper

    tree = {"method": {"name": "pix2pix", "width": 0.03}, "tiles": {"size": [32]}}
    recipe = Recipe.model_validate(tree)
    stepper = Stepper(build_method(recipe), torch.device("cpu"))
    save_state(folder, stepper, recipe, {"images": 0})


def _read_checkpoint(folder: Path) -> dict[str, np.ndarray]:
    from metgan_dist.trained import load_method

    method = load_method(str(folder))[0]
    return {name: value.numpy() for name, value in method.networks["generator"].state_dict().items()}


FORMATS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "NIfTI (.nii)": (_write_nifti("a.nii"), _volume("a.nii")),
    "NIfTI (.nii.gz)": (_write_nifti("a.nii.gz"), _volume("a.nii.gz")),
    "OME-Zarr 0.4": (_write_zarr(2), _volume("a.ome.zarr")),
    "OME-Zarr 0.5": (_write_zarr(3), _volume("a.ome.zarr")),
    "TIFF": (_write_tiff, _volume("a.tif")),
    "PNG": (_write_png, _volume("")),
    "dataset.yaml": (_write_description, _read_description),
    "checkpoint": (_write_checkpoint, _read_checkpoint),
}


def _table(rows: dict[str, Counter[str]], count: int, seed: int) -> str:
    from metgan_dist.evaluation.tables import aligned_records

    records = [{"format": name} | {outcome: found[outcome] for outcome in OUTCOMES} for name, found in rows.items()]
    return f"{count} damages of each format, seed {seed}.\n\n{aligned_records(records)}"


def _replace(page: Path, table: str) -> None:
    """Between the marks of a page, or at its end."""
    begin, end = "<!-- mutations -->", "<!-- end -->"
    text = page.read_text() if page.exists() else ""
    before, _, after = text.partition(begin)
    page.write_text(f"{before}{begin}\n{table}\n{end}{after.partition(end)[2] or chr(10)}")


if __name__ == "__main__":
    main()
