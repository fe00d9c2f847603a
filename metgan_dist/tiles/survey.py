"""What is known of the volumes before any voxel is read: shapes, chunks, and whether the files have changed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from metgan_dist.errors import DamagedFile, UserError
from metgan_dist.recipe import STORED, Data, Recipe, Tiles
from metgan_dist.storage import Options, filesystem, is_folder, join, storage_errors
from metgan_dist.tiles.blocks import Block, plan_blocks
from metgan_dist.tiles.floor import floor_of
from metgan_dist.tiles.geometry import TilePlan, plan_tiles
from metgan_dist.tiles.grid import grid_of
from metgan_dist.tiles.splits import fixed_sides, of_domain
from metgan_dist.tiles.tile_set import lacking_role
from metgan_dist.tiles.tiling import BlockJob, in_plane_pixels, preprocessed_shape, resized
from metgan_dist.volumes.dataset import as_described, resolve_data, volume_refs
from metgan_dist.volumes.label_map import counts_text
from metgan_dist.volumes.labelled import LabelledVolume, Role, VolumeRef, check_one_space, open_looked_at
from metgan_dist.volumes.ome_zarr import METADATA_FILES
from metgan_dist.volumes.orientation import several_ways
from metgan_dist.volumes.phantoms import phantom_grid

LOOKED_AT_ONCE = 2  # a label each, of up to `cheap_bytes`
ROLES: tuple[Role, ...] = ("anatomy", "tumour", "label")
PHANTOM_DTYPES: dict[str, np.dtype] = {
    "anatomy": np.dtype("uint16"),
    "tumour": np.dtype("uint16"),
    "label": np.dtype("uint8"),
}


@dataclass(frozen=True)
class Survey:
    """A volume of the set, looked at but not read, and the chunks that one read of it costs."""

    number: int
    ref: VolumeRef
    volume: LabelledVolume

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """Voxel size (z, y, x), or None."""
        at = self.volume.spacing
        return (at.z, at.y, at.x) if at else None


def survey_volumes(
    refs: Sequence[VolumeRef], data: Data, report: Callable[[str], None]
) -> tuple[list[Survey], list[str]]:
    """Open every volume for its metadata, and look at its label: (those that open, why the others were skipped).

    Raises UserError for a label value that is no class (as far as the look goes), when volumes of one domain differ in
    the channels they have or a patient is fixed to two sides, DamagedFile when one does not open and `data.damaged`
    does not say skip.
    """
    surveys, skipped = [], []
    pool = ThreadPoolExecutor(LOOKED_AT_ONCE)
    opened = [pool.submit(open_looked_at, ref) for ref in refs]
    try:
        for number, (ref, volume) in enumerate(zip(refs, opened, strict=True)):
            try:
                surveys.append(Survey(number, ref, volume.result()))
            except DamagedFile as error:
                if data.damaged != "skip":
                    raise
                skipped.append(str(error))
                report(f"skipped: {error}")
    finally:
        pool.shutdown(cancel_futures=True)  # what is left, once one is refused
    if not surveys:
        raise UserError("data.volumes: none of the volumes can be opened; see the lines above")
    _check_alike(surveys)
    check_one_space([one.volume for one in surveys if one.ref.entry.path is None], "data.volumes")
    lost = {ref.domain for ref in refs} - {survey.ref.domain for survey in surveys}
    if lost:
        raise UserError(f"data.volumes: none of the volumes{of_domain(min(lost))} can be opened; see the lines above")
    # Told before anything is cut.
    rows = [row for survey in surveys for row in patients_of(survey.ref, survey.volume.table)]
    fixed_sides(pd.DataFrame(rows))
    for line in (*_ignored(surveys), *_turned(surveys), *_made(surveys)):
        report(line)
    return surveys, skipped


def _check_alike(surveys: Sequence[Survey]) -> None:
    """UserError where volumes of one domain differ in their roles."""
    first: dict[str, Survey] = {}
    for survey in surveys:
        other = first.setdefault(survey.ref.domain, survey)
        for role in ROLES:
            if survey.volume.has(role) != other.volume.has(role):
                lacks, has = sorted((other, survey), key=lambda one: one.volume.has(role))
                raise UserError(
                    f"data.volumes: {lacks.ref.id!r} has no {role}, {has.ref.id!r} has one; all"
                    f"{of_domain(survey.ref.domain)} must have the same"
                )


def patients_of(ref: VolumeRef, table: pd.DataFrame | None) -> list[dict[str, str]]:
    """Volume, patient and fixed split: one row, or one for each patient whom the table of separate images names."""
    named = set() if table is None else set(table["patient"].fillna(""))
    own = ref.patient or ""
    patients = {name or own for name in named} or {own}
    return [{"volume": ref.id, "patient": name, "fixed": ref.split} for name in sorted(patients)]


def _ignored(surveys: Sequence[Survey]) -> Iterator[str]:
    """A line for each volume whose label has values that `unmapped` makes background."""
    for survey in surveys:
        if survey.volume.ignores and survey.volume.ignored is None:
            yield (
                f"{survey.ref.id}: label values that `labels` does not name become background; so large a label is not "
                "counted here, describe_data.py does it"
            )
        elif survey.volume.ignored:
            yield f"{survey.ref.id}: label values that become background: {counts_text(survey.volume.ignored)}"


def _turned(surveys: Sequence[Survey]) -> Iterator[str]:
    """A line where the volumes are read as their files lie, which is not one way."""
    stored = [survey for survey in surveys if survey.ref.orientation in (None, STORED)]
    if each := several_ways((survey.ref.id, survey.volume.lies) for survey in stored):
        yield f"{each}; `orientation: RAS` in the data set brings them to one"


def _made(surveys: Sequence[Survey]) -> Iterator[str]:
    """A line where maps of tissues are made of images."""
    made = [survey.ref.id for survey in surveys if survey.ref.makes_tissue]
    if made:
        yield (
            f"data.tissue_map: of {len(made)} of {len(surveys)} volume(s) ({made[0]!r}, ...) the tissue is told apart "
            "by k-means of the image; nobody has drawn it"
        )


def held_roles(surveys: Sequence[Survey], recipe: Recipe) -> dict[str, tuple[Role, ...]]:
    """The roles that all volumes of a domain have, by domain ("" where the set has none).

    UserError when the modality's rules need a label that is not there.
    """
    held: dict[str, tuple[Role, ...]] = {}
    for survey in surveys:
        if survey.ref.domain in held:
            continue
        roles = held[survey.ref.domain] = tuple(role for role in ROLES if survey.volume.has(role))
        modality = recipe.data.rules(recipe.tiles, survey.ref.domain).modality
        if modality.startswith("cardiac") and "label" not in roles:
            raise UserError(
                f"data.label: volume {survey.ref.id!r} has no label, and {modality} tiles are cut around the labelled "
                "heart; name the label"
            )
    return held


def plan_set(surveys: Sequence[Survey], recipe: Recipe, folder: str, memory: int) -> dict[str, list[BlockJob]]:
    """All tasks of a set, by volume; UserError as for `plan_jobs`, and where domains make tiles of different sizes."""
    jobs = {survey.ref.id: plan_jobs(survey, recipe, folder, memory) for survey in surveys}
    shapes = {survey.ref.domain: jobs[survey.ref.id][0].block.plans[0].shape for survey in surveys}
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{' x '.join(map(str, shape))} in {name}" for name, shape in shapes.items())
        raise UserError(f"tiles.size: tiles of different sizes ({found}); give all three numbers, or other rules")
    return jobs


def plan_jobs(survey: Survey, recipe: Recipe, folder: str, memory: int) -> list[BlockJob]:
    """All tasks of one volume, in the order of their blocks.

    Raises UserError naming the field of `tiles` or `scaling` that does not suit the volume.
    """
    tiles, volume = recipe.data.rules(recipe.tiles, survey.ref.domain), survey.volume
    if survey.ref.makes_tissue and grid_of(tiles) is None:
        raise UserError("data.tissue_map: tells tissue apart in volumes as a whole; set tiles.grid, or leave it out")
    plans = _plans(tiles, survey.ref.id, volume.shape, survey.spacing)
    if preprocessed_shape(tiles) is not None:
        whole = (0, volume.shape[0]), (0, volume.shape[1]), (0, volume.shape[2])
        blocks = [Block(survey.ref.id, 0, whole, tuple(plans))]
    else:
        voxel = sum(dtype.itemsize for dtype in volume.dtypes.values())
        cut = max(in_plane_pixels(plan) for plan in plans)
        # Cut and finished pixels are there at once, while the one becomes the other.
        tile = cut * voxel + _tile_size(tiles, plans[0], volume.dtypes)
        blocks = plan_blocks(plans, volume.shape, volume.chunks, voxel, tile, memory)
    return [
        BlockJob(
            survey.ref,
            block,
            tuple(volume.dtypes),
            tiles,
            memory,
            folder,
            f"{survey.number:04d}-{block.number:05d}",
            recipe.storage.options,
            floor_of(recipe.data, tiles),
        )
        for block in blocks
    ]


def _plans(
    tiles: Tiles, volume: str, shape: tuple[int, int, int], spacing: tuple[float, float, float] | None
) -> list[TilePlan]:
    """All tiles of a volume of this shape, on the grid that its modality's rules make of it."""
    prepared = preprocessed_shape(tiles)
    if prepared is None:
        return plan_tiles(tiles, volume, shape, spacing)
    # The spacing is the modality's own affair; tiles are laid out on the grid that it makes.
    update: dict[str, Any] = {"spacing": None, "grid": None, "margin": None}
    if tiles.kind == "crop" and len(tiles.size) == 1:
        update |= {"size": prepared, "stride": None}
    return plan_tiles(tiles.model_copy(update=update), volume, prepared)


@dataclass(frozen=True)
class Planned:
    """What a set will be: of so many volumes at most so many tiles, of `size` bytes before compression.

    At most, because those with too little foreground are left out, which nobody knows before they are cut.
    """

    volumes: int
    tiles: int
    size: int


def check_volumes(recipe: Recipe, needed: Sequence[Sequence[Role]] = ()) -> Planned:
    """What the tiles will be, and all that would keep them from being cut, as far as it shows before a voxel is read.

    A phantom, which is not drawn yet, is judged by its shape. UserError naming the field or file, also where no volume
    has the roles together that a member of `needed` names.
    """
    data, options = recipe.data, recipe.storage.options
    if data.path is None:
        (shape, spacing), described = phantom_grid(data.phantom), as_described(data, options)
        rules = described.rules(recipe.tiles, described.volumes[0].domain or "")
        plans = _plans(rules, "phantom-0", shape, spacing)
        floor_of(described, rules)
        images = ["anatomy"] if data.anatomy or not data.tumour else []
        held: dict[str, Sequence[str]] = {"": [*images, *(["tumour"] if data.tumour else []), "label"]}
        if described.domains:
            plays = ((described.source, "anatomy"), (described.target, "tumour"))
            held = {str(domain): (role, "label") for domain, role in plays}
        whose = f"the {data.phantom.modality} phantom"
        count = data.phantom.volumes
        tile = _tile_size(rules, plans[0], {role: PHANTOM_DTYPES[role] for role in held[next(iter(held))]})
        planned = Planned(count, count * len(plans), count * len(plans) * tile)
    else:
        data = resolve_data(data, options)
        recipe = recipe.model_copy(update={"data": data})
        surveys, _ = survey_volumes(volume_refs(data, options), data, lambda _line: None)
        held = {**held_roles(surveys, recipe)}
        jobs = [
            job for own in plan_set(surveys, recipe, "", recipe.scaling.tile_memory * 2**20).values() for job in own
        ]
        dtypes = {survey.ref.id: survey.volume.dtypes for survey in surveys}
        sizes = [len(job.block.plans) * _tile_size(job.tiles, job.block.plans[0], dtypes[job.ref.id]) for job in jobs]
        planned = Planned(len(surveys), sum(len(job.block.plans) for job in jobs), sum(sizes))
        whose = f"volume {surveys[0].ref.id!r}"
    for roles in needed:
        if (lacking := lacking_role(held, roles)) is not None:
            domain, role = lacking
            raise UserError(
                f"data.{role}: {f'the domain {domain!r}' if domain else whose} has no {role} to train on; name one"
            )
    return planned


def _tile_size(tiles: Tiles, plan: TilePlan, dtypes: Mapping[str, np.dtype]) -> int:
    """Bytes of a finished tile with all its layers; resizing makes float32 of an image, a label keeps its type."""
    pixel = sum(4 if resized(tiles) and layer != "label" else dtype.itemsize for layer, dtype in dtypes.items())
    return math.prod(plan.shape) * pixel


def fingerprint(data: Data, tiles: Tiles, refs: Sequence[VolumeRef]) -> str:
    """SHA-256 of what decides the tiles: both sections of the recipe and the state of the files they name.

    `data.path` is left out, so that a data set may be moved; files count by name, size and time or version,
    Zarr volumes by their metadata files only.
    """
    told = data.told()
    described = {name: told[name] for name in told if name not in ("path", "phantom", "one_channel")}
    for entry in described["volumes"]:
        if entry["label_axes"] is None:
            del entry["label_axes"]  # so that sets from before the field are known again
    content = {
        "data": described,
        "tiles": tiles.told(),
        "files": {ref.id: _files(ref) for ref in refs},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _files(ref: VolumeRef) -> list[list[str]]:
    paths = [*ref.paths]
    # A label group within the image is among the image's files already.
    paths += [label for label in ref.label_paths if not any(label.startswith(path) for path in ref.paths)]
    if ref.entry.table:
        paths.append(join(ref.base, ref.entry.table))
    return [entry for path in paths for entry in file_states(path, ref.options)]


def file_states(uri: str, options: Options | None) -> list[list[str]]:
    """[name, size, time or version] of a file, or of the files of a folder three levels deep."""
    fs, path = filesystem(uri, options)
    with storage_errors(uri):
        if not is_folder(uri, options):
            return [_state(path, path, fs.info(path))]
        found = fs.find(path, maxdepth=3, detail=True)
    metadata = {name: info for name, info in found.items() if name.rpartition("/")[2] in METADATA_FILES}
    # Sorted: a listing has whatever order the storage likes.
    return [_state(name, path, info) for name, info in sorted((metadata or found).items())]


def _state(name: str, base: str, info: dict[str, Any]) -> list[str]:
    version = next((info[key] for key in ("ETag", "mtime", "LastModified") if info.get(key)), "")
    return [name.removeprefix(base), str(info.get("size")), str(version)]
