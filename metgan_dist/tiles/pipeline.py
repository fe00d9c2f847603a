"""Make tiles on Ray Data: one task a block, each writing its own shard; the driver sees index rows, never pixels.

A job that was interrupted and is started again does only the blocks that have no marker yet, and ends with the same
set.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import ray
import ray.data

from metgan_dist.cluster.progress import Progress, quiet
from metgan_dist.errors import DamagedFile, UserError
from metgan_dist.recipe import Recipe
from metgan_dist.storage import Options, absolute
from metgan_dist.tiles.blocks import chunk_reads
from metgan_dist.tiles.floor import removed_lines
from metgan_dist.tiles.manifest import finish_set
from metgan_dist.tiles.shards import finished_markers, read_marker
from metgan_dist.tiles.splits import parted_patients
from metgan_dist.tiles.survey import ROLES, Survey, fingerprint, held_roles, plan_set, survey_volumes
from metgan_dist.tiles.tile_set import SPLITS, TileSet, begin_set, finished_fingerprint
from metgan_dist.tiles.tiling import BlockJob, images_of, preprocessed_shape, tile_block
from metgan_dist.volumes.dataset import resolve_data, volume_refs
from metgan_dist.volumes.domains import unused_domains

# Interpreter, libraries and decoding, besides the voxels that a task holds.
TASK_BASE_BYTES = 300 * 2**20


def make_tiles(recipe: Recipe, folder_uri: str, report: Callable[[str], None] = print) -> TileSet:
    """Cut, measure and split the tiles of a recipe's data set into a folder. Ray must be initialised.

    Args:
        recipe: sections data, tiles, scaling (tile_memory, tile_tasks) and storage (options).
        folder_uri: where the set goes; a folder that holds the same set is opened and returned.
        report: gets one line of progress at a time.

    Raises UserError (one line) for what the user can mend: data, fields of `tiles`, a folder that holds other tiles.
    """
    folder, options = absolute(folder_uri), recipe.storage.options
    data = resolve_data(recipe.data, options)
    recipe = recipe.model_copy(update={"data": data})
    refs = volume_refs(data, options)
    identity = fingerprint(data, recipe.tiles, refs)
    if _finished(folder, identity, options):
        report(f"tiles: {folder} already holds this set; it is used as it is")
        return TileSet.open(folder, options)
    for name in unused_domains(data):
        report(f"tiles: volumes of the domain {name!r} are left out: it is neither data.source nor data.target")
    surveys, skipped = survey_volumes(refs, data, report)
    held = held_roles(surveys, recipe)
    # The memory of a task decides the blocks, so a continued job keeps that of its beginning.
    plan = {"fingerprint": identity, "tile_memory": recipe.scaling.tile_memory}
    afresh = f"tiles: {folder} holds an unfinished set with other settings; it is started afresh"
    memory = int(begin_set(folder, plan, options, lambda: report(afresh))["tile_memory"]) * 2**20
    jobs = plan_set(surveys, recipe, folder, memory)
    planned = sum(len(job.block.plans) for listed in jobs.values() for job in listed)
    over_read = _over_read(surveys, jobs)
    count = sum(len(listed) for listed in jobs.values())
    report(
        f"tiles: {planned} planned in {count} blocks of {len(surveys)} volume(s); a chunk is read {over_read:g} times"
    )
    rows, damaged = _run_blocks([job for listed in jobs.values() for job in listed], recipe, planned, report)
    skipped += damaged
    facts = {
        "fingerprint": identity,
        "roles": [role for role in ROLES if any(role in roles for roles in held.values())],
        "tile_shape": list(next(job.block.plans[0].shape for listed in jobs.values() for job in listed)),
        "planned": planned,
        "chunks_read_per_chunk_needed": over_read,
        "skipped": skipped,
    }
    tiles = finish_set(recipe, folder, surveys, rows, facts)
    report(f"tiles: {_summary(tiles.manifest['counts'])}; {folder}")
    if patients := parted_patients(tiles.index):
        report(
            f"tiles: {len(patients)} patient(s) with several volumes are trained on and held out ({patients[0]!r}, "
            "...): there are too few to have one for each side, or tiles.split_by says slab"
        )
    for line in removed_lines(tiles.manifest["volumes"]):
        report(f"tiles: {line}")
    for name, domain in tiles.domains.items():
        report(f"tiles: {name}: " + ", ".join(f"{domain['tiles'][split]} {split}" for split in SPLITS))
    return tiles


def _over_read(surveys: Sequence[Survey], jobs: Mapping[str, Sequence[BlockJob]]) -> float:
    """Chunks read per chunk needed, as planned; rules that take a volume as a whole read each chunk once."""
    reads = [
        chunk_reads([job.block for job in jobs[survey.ref.id]], survey.volume.chunks)
        for survey in surveys
        if preprocessed_shape(jobs[survey.ref.id][0].tiles) is None
    ]
    return round(sum(read for read, _ in reads) / sum(needed for _, needed in reads), 3) if reads else 1.0


def _finished(folder: str, identity: str, options: Options | None) -> bool:
    """Whether the folder holds this very set; UserError when it holds another one that is finished."""
    there = finished_fingerprint(folder, options)
    if there not in (None, identity):
        raise UserError(
            f"{folder}: holds tiles of other files, or made with other data and tiles settings; choose another folder, "
            "or remove this one"
        )
    return there is not None


def _run_blocks(
    jobs: Sequence[BlockJob], recipe: Recipe, planned: int, report: Callable[[str], None]
) -> tuple[dict[str, list[pd.DataFrame]], list[str]]:
    """Do the blocks that are not done: (rows by volume, one frame a block; why blocks were skipped).

    Frames, because a million tiles as dictionaries would fill gigabytes of the driver's memory.
    """
    finished = finished_markers(jobs[0].folder, recipe.storage.options) if jobs else set()
    rows: dict[str, list[pd.DataFrame]] = {}
    for job in jobs:
        if job.shard in finished:
            known = read_marker(job.folder, job.shard, job.options)["rows"]
            rows.setdefault(job.ref.id, []).append(pd.DataFrame(known))
    todo = [job for job in jobs if job.shard not in finished]
    if len(todo) < len(jobs):
        report(f"tiles: {len(jobs) - len(todo)} of {len(jobs)} blocks are there already")
    done = sum(len(frame) for frames in rows.values() for frame in frames)
    progress = Progress(report, "tiles", planned, done=done, unit="tiles")
    skipped = []
    for answer in _answers(todo, recipe) if todo else ():
        if "mistake" in answer:
            raise UserError(answer["mistake"])
        if "damaged" in answer:
            if recipe.data.damaged != "skip":
                raise DamagedFile(answer["damaged"])
            report(f"skipped {answer['tiles']} tiles: {answer['damaged']}")
            skipped.append(answer["damaged"])
        else:
            rows.setdefault(answer["volume"], []).append(pd.DataFrame(answer["rows"]))
        done += answer["tiles"]
        progress.step(done)
    return rows, sorted(set(skipped))


def _answers(jobs: Sequence[BlockJob], recipe: Recipe) -> Any:
    """Run the jobs on Ray Data and yield what each found, in no particular order."""
    need = _task_bytes(jobs)
    largest = max((node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]), default=0)
    if need > largest:
        raise UserError(
            f"scaling.tile_memory: a tiling task needs {need / 2**20:.0f} MiB, the largest node of the cluster offers "
            f"{largest / 2**20:.0f} MiB; lower it, or use a larger node"
        )
    free = max(1, int(ray.cluster_resources().get("CPU", 1)))
    # One task more than processors: while a finished one is being replaced, none of them idles.
    at_once = min(len(jobs), recipe.scaling.tile_tasks or free + 1)
    dataset = ray.data.from_items([{"job": pickle.dumps(job)} for job in jobs], override_num_blocks=len(jobs))
    dataset = dataset.map(
        _run_job,
        num_cpus=min(1.0, round(free / at_once - 0.001, 3)),
        memory=need,
        compute=ray.data.TaskPoolStrategy(size=at_once),
    )
    quiet(dataset)
    for row in dataset.iter_rows():
        yield json.loads(row["answer"])


def _run_job(row: dict[str, Any]) -> dict[str, Any]:
    """One task: a user's mistake comes back as a line of text, anything else is a failure of the task."""
    job: BlockJob = pickle.loads(row["job"])
    answer: dict[str, Any] = {"volume": job.ref.id, "tiles": len(job.block.plans)}
    try:
        answer |= tile_block(job)
    except DamagedFile as error:
        answer["damaged"] = str(error)
    except UserError as error:
        answer["mistake"] = str(error)
    return {"answer": json.dumps(answer)}


def _task_bytes(jobs: Sequence[BlockJob]) -> int:
    """Memory to reserve for a task; whole-volume rules hold an image in its own type and as float32, twice."""
    return TASK_BASE_BYTES + max(map(_held_bytes, jobs))


def _held_bytes(job: BlockJob) -> int:
    if preprocessed_shape(job.tiles) is None:
        return job.memory
    voxels = math.prod(high - low for low, high in job.block.box)
    return max(12, 6 * len(images_of(job.layers))) * voxels


def _summary(counts: dict[str, Any]) -> str:
    kept = ", ".join(f"{counts[split]} {split}" for split in SPLITS if counts[split])
    dropped = ", ".join(f"{count} {why}" for why, count in counts["dropped"].items() if count)
    return kept + (f"; left out: {dropped}" if dropped else "")
