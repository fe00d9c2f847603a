"""What a training rank needs before its first batch, by the number of tiles, and what 10^8 of them would take.

    python benchmarks/scale.py --folder /tmp/scale --sizes 10000 100000 1000000 10000000
    python benchmarks/scale.py --folder /tmp/scale --requests

For each size an index without pixels is written, and opened in a process of its own in two ways: *before*, as a frame,
with numpy's permutation of all training rows; and *now*, as columns that are mapped from a file (by default small sets
go on as before), with an order that is found place by place: on a machine that must write the file first, and again.
The law of each quantity is the line through its two largest sizes, where it does not fall; it gives the last column.

With --requests, tiles are read from a server that speaks S3 on this machine, and what is got from it is counted: tile
by tile as before, by a full shuffle, and by windows on several workers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

GOAL = 10**8
CHUNK = 10**6  # rows of the index that are made at a time
OF_SHARD, OF_VOLUME = 700, 50_000  # tiles, about as many as the phantoms' blocks and volumes have
BATCH = 128
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="for indices and the cache; about 200 bytes a tile")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**4, 10**5, 10**6, 10**7], help="tiles")
    parser.add_argument("--frames-to", type=int, default=10**6, help="largest size that is opened as a frame, too")
    parser.add_argument("--requests", action="store_true", help="count requests instead")
    parser.add_argument("--measure", choices=tuple(WAYS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(_measured(WAYS[args.measure], Path(args.folder))))
    elif args.requests:
        _requests(args.folder)
    else:
        _growth(Path(args.folder), args.sizes, args.frames_to)


def _growth(folder: Path, sizes: Sequence[int], frames_to: int) -> None:
    found: dict[str, dict[int, float]] = {}
    for count in sizes:
        of_size = folder / str(count)
        write_index(of_size, count)
        for way in WAYS:
            if way == "before" and count > frames_to:
                continue
            command = [sys.executable, __file__, "--folder", str(of_size), "--measure", way]
            environment = {**os.environ, "METGAN_CACHE": str(of_size / "cache")}
            answer = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
            for name, value in json.loads(answer.splitlines()[-1]).items():
                found.setdefault(f"{way}: {name}", {})[count] = value
            print(f"{count} tiles, {way}: {answer.splitlines()[-1]}", flush=True)
        for name, value in _orders(count).items():
            found.setdefault(name, {})[count] = value
    heads = ["a rank", *(f"{count:,}" for count in sizes), "law", f"{GOAL:,}"]
    print("\n| " + " | ".join(heads) + " |\n|---|" + "---:|" * (len(heads) - 1))
    for name, values in found.items():
        constant, slope = law(values)
        shown = [_short(values[count]) if count in values else "" for count in sizes]
        print(
            f"| {name} | {' | '.join(shown)} | {_short(constant)} + {slope:.1e} N | {_short(constant + slope * GOAL)} |"
        )


def law(values: dict[int, float]) -> tuple[float, float]:
    """(a, b) of a + b N, the line through the two largest N; b is 0 where the larger has no larger value."""
    (less, lower), (more, upper) = sorted(values.items())[-2:]
    slope = max(0.0, (upper - lower) / (more - less))
    return upper - slope * more, slope


def write_index(folder: Path, count: int) -> None:
    """An index of so many tiles, and its manifest, as `make_tiles` writes them: the columns of a set of projections."""
    from metgan_dist.tiles.tile_set import INDEX, MANIFEST

    if (folder / MANIFEST).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    writer = None
    for first in range(0, count, CHUNK):
        table = _index(np.arange(first, min(first + CHUNK, count)))
        writer = writer or pq.ParquetWriter(folder / INDEX, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()
    with (folder / INDEX).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    manifest = {
        **{"format": 1, "roles": ["anatomy", "tumour", "label"], "tile_shape": [256, 256], "organs": []},
        **{"normalisation": {"clip": True}, "data": {"anatomy": "a", "tumour": "b"}, "index_sha256": digest},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _index(rows: np.ndarray) -> pa.Table:
    """Rows of an index: shards of 700 tiles, volumes of 50,000, each of one range; every sixth volume is held out."""
    volume, random = rows // OF_VOLUME, np.random.default_rng(int(rows[0]))
    y, x, z = (rows % 2500) // 50 * 256, rows % 50 * 256, rows % 20 * 256
    held_out, none = volume % 6 == 5, np.zeros_like(rows)
    return pa.table(
        {
            **{"shard": _words(rows // OF_SHARD, "0-{}"), "position": rows % OF_SHARD},
            **{"foreground": random.integers(0, 999, len(rows)), "view": _words(none, "z")},
            **{"plane": z, "z0": z, "z1": z + 256, "y0": y, "y1": y + 256, "x0": x, "x1": x + 256},
            **{f"pad_{axis}{end}": none for axis in "zyx" for end in (0, 1)},
            **{f"spacing_{axis}": none + 1.0 for axis in "zyx"},
            "volume": _words(volume, "mouse-{}"),
            **dict.fromkeys(("domain", "organ", "patient", "name", "slab_axis"), _words(none, "")),
            **{f"{role}_low": volume * 1.5 for role in ("anatomy", "tumour")},
            **{f"{role}_high": volume + 999.5 for role in ("anatomy", "tumour")},
            **{f"{role}_clipped": volume / 1e6 for role in ("anatomy", "tumour")},
            "split": pa.array(["train", "test"]).take(pa.array(held_out.astype(np.int64))),
            **{"gap": none, "fold": np.where(held_out, -1, volume % 5), "label_row": rows},
        }
    )


def _words(numbers: np.ndarray, form: str) -> pa.Array:
    """Strings made of numbers (N,) of which many are alike."""
    different, which = np.unique(numbers, return_inverse=True)
    return pa.array([form.format(number) for number in different]).take(pa.array(which))


def _before(folder: Path) -> dict[str, Callable[[], Any]]:
    """The index as a frame in memory, and a permutation of all training rows."""
    from metgan_dist.tiles import permutation, tile_set

    tile_set.HELD_BYTES = permutation.DRAWN_WHOLE = sys.maxsize
    return _steps(folder)


def _now(folder: Path) -> dict[str, Callable[[], Any]]:
    """The columns mapped, and the places of a batch alone."""
    from metgan_dist.tiles import tile_set

    tile_set.HELD_BYTES = 0
    return _steps(folder)


def _steps(folder: Path) -> dict[str, Callable[[], Any]]:
    from metgan_dist.tiles.permutation import permuted
    from metgan_dist.tiles.tile_set import TileSet

    held: dict[str, Any] = {}

    def opened() -> None:
        held["tiles"] = TileSet.open(str(folder))

    def planned() -> None:
        rows = held["tiles"].positions("train")
        held["plan"] = held["tiles"].addresses(rows[permuted(np.arange(BATCH), len(rows), (0, 0))])

    return {"index opened": opened, "first batch planned": planned}


WAYS = {"before": _before, "now, first on its machine": _now, "now": _now}


def _measured(way: Callable[[Path], dict[str, Callable[[], Any]]], folder: Path) -> dict[str, float]:
    """Seconds of each step, and the memory of its own that the process has more than before, at most and in the end."""
    steps, answer, peak, over = way(folder), dict[str, float](), [0], threading.Event()
    began = _own_memory()

    def watch() -> None:
        while not over.wait(0.005):
            peak.append(_own_memory())

    watching = threading.Thread(target=watch)
    watching.start()
    for name, step in steps.items():
        started = time.perf_counter()
        step()
        answer[f"{name}, s"] = time.perf_counter() - started
    over.set()
    watching.join()
    answer["memory held, MiB"] = max(0.1, (_own_memory() - began) / MIB)
    answer["memory at most, MiB"] = max(0.1, (max(peak) - began) / MIB)
    return answer


def _own_memory() -> int:
    """Resident bytes that are no pages of a file, which the system shares and may take back."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - memory.shared)


def _orders(count: int) -> dict[str, float]:
    """Seconds in which 4096 places of an epoch are found."""
    from metgan_dist.tiles.permutation import permuted
    from metgan_dist.tiles.windows import windowed

    places = np.arange(min(count, 4096))
    return {
        "before: order, s": _timed(lambda: np.random.default_rng(0).permutation(count)[places]),
        "now: order, s": _timed(lambda: permuted(places, count, (0, 0))),
        "now: order in windows, s": _timed(lambda: windowed(places, count, 4096, (0, 0))),
    }


def _timed(do: Callable[[], Any], rounds: int = 3) -> float:
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        do()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


# Requests

SHARDS, EACH, EDGE = 32, 32, 16


def _requests(folder: str) -> None:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line a request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        keys = {"AWS_ACCESS_KEY_ID": "own", "AWS_SECRET_ACCESS_KEY": "own", "AWS_DEFAULT_REGION": "us-east-1"}
        os.environ.update({**keys, "AWS_ENDPOINT_URL": f"http://{host}:{port}"})
        _count_requests()
    finally:
        server.stop()


def _count_requests() -> None:
    import zarr
    from s3fs import S3FileSystem

    from metgan_dist.recipe import Recipe
    from metgan_dist.tiles import shard_parts, shards
    from metgan_dist.tiles.stream import planned_rows, tile_stream

    S3FileSystem().mkdir("lab")
    tiles = _small_set("s3://lab/set")
    # These tiles are small. What lies between two is to cost what it would among large ones: it is never fetched along.
    shard_parts.GAP = 0
    got, call = [0, 0], S3FileSystem._call_s3

    async def counted(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        got[0] += method in ("get_object", "head_object")
        answer = await call(self, method, *arguments, **options)
        got[1] += answer["ContentLength"] if method == "get_object" else 0
        return answer

    S3FileSystem._call_s3 = counted
    rows, stored = tiles.positions("train"), {}

    def show(way: str, workers: str, count: int, reading: Callable[[], Any]) -> None:
        shards._opened.cache_clear()
        got[:] = 0, 0
        reading()
        own = EDGE * EDGE * 2
        print(f"| {way} | {workers} | {count} | {got[0] / count:.2f} | {got[1] / count / own:.2f} |", flush=True)

    def one_by_one() -> None:
        for tile in tiles.addresses(planned_rows(rows, np.arange(len(rows)), 0)):
            if tile["shard"] not in stored:
                stored[tile["shard"]] = zarr.open_array(
                    shards._store(f"s3://lab/set/shards/{tile['shard']}.zarr", None, read_only=True),
                    path="tumour",
                    mode="r",
                )
            stored[tile["shard"]][tile["position"]]

    print("| order | workers x batch | tiles read | requests a tile | bytes fetched, of a tile's |")
    print("|---|---|---:|---:|---:|")
    show("full shuffle, a tile at a time (before)", "1 x 4", len(rows), one_by_one)

    def streamed(window: int | None, world: int, batch: int) -> None:
        """What the first of so many workers reads of an epoch."""
        recipe = Recipe.model_validate({"training": {"shuffle_window": window, "augment": False}})
        for _ in tile_stream(tiles, recipe, world=world, batch_size=batch, stop=len(rows), here=True):
            pass

    for window, world, batch in ((None, 1, 4), (256, 1, 4), (512, 1, 4), (512, 4, 4), (512, 3, 2)):
        name = "full shuffle" if window is None else f"windows of {window}"
        own = len(range(0, len(rows), world * batch)) * batch
        show(name, f"{world} x {batch}", own, partial(streamed, window, world, batch))


def _small_set(folder: str) -> Any:
    """32 shards of 32 training tiles, images of noise alone."""
    from metgan_dist.recipe import Data, Tiles
    from metgan_dist.tiles.shards import write_shard
    from metgan_dist.tiles.tile_set import TileSet

    random, rows = np.random.default_rng(0), np.arange(SHARDS * EACH)
    for shard in range(SHARDS):
        pixels = random.integers(0, 2**16, (EACH, EDGE, EDGE)).astype(np.uint16)
        write_shard(folder, f"0-{shard}", {"tumour": pixels}, {}, {}, None)
    index = _index(rows).to_pandas().assign(shard=[f"0-{row // EACH}" for row in rows], position=rows % EACH)
    manifest = {
        **{"roles": ["tumour"], "tile_shape": [EDGE, EDGE], "organs": [], "normalisation": {"clip": True}},
        "data": Data(tumour="tumour").model_dump(mode="json", exclude={"path"}),
        "tiles": Tiles(size=(EDGE,)).model_dump(mode="json"),
    }
    return TileSet.write(folder, index, manifest)


if __name__ == "__main__":
    main()
