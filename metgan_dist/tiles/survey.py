"""What is known of the volumes before any voxel is read: shapes, chunks, and whether the files have changed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pandas as pd

from metgan_dist.errors import DamagedFile, UserError
from metgan_dist.recipe import STORED, Data, Recipe, Tiles, identifying
from metgan_dist.storage import Options, filesystem, is_folder, join, storage_errors
from metgan_dist.tiles.blocks import Block, plan_blocks
from metgan_dist.tiles.geometry import TilePlan, plan_tiles
from metgan_dist.tiles.splits import fixed_sides
from metgan_dist.tiles.tiling import BlockJob, in_plane_pixels, preprocessed_shape, resized
from metgan_dist.volumes.dataset import volume_refs
from metgan_dist.volumes.label_map import counts_text
from metgan_dist.volumes.labelled import LabelledVolume, Role, VolumeRef, open_looked_at
from metgan_dist.volumes.ome_zarr import METADATA_FILES
from metgan_dist.volumes.phantoms import phantom_volume

LOOKED_AT_ONCE = 2  # a label each, of up to `cheap_bytes`
ROLES: tuple[Role, ...] = ("anatomy", "tumour", "label")


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

    Raises UserError for a label value that is no class (as far as the look goes), when volumes differ in the channels
    they have or a patient is fixed to two sides, DamagedFile when one does not open and `data.damaged` does not say
    skip.
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
    for survey in surveys[1:]:
        for role in ROLES:
            if survey.volume.has(role) != surveys[0].volume.has(role):
                lacks, has = sorted((surveys[0], survey), key=lambda one: one.volume.has(role))
                raise UserError(
                    f"data.volumes: {lacks.ref.id!r} has no {role}, {has.ref.id!r} has one; all must have the same"
                )
    # Told before anything is cut.
    rows = [row for survey in surveys for row in patients_of(survey.ref, survey.volume.table)]
    fixed_sides(pd.DataFrame(rows))
    for line in (*_ignored(surveys), *_turned(surveys)):
        report(line)
    return surveys, skipped


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
    lie: dict[str, list[str]] = {}
    for survey in surveys:
        if survey.ref.orientation in (None, STORED) and survey.volume.lies is not None:
            lie.setdefault(survey.volume.lies, []).append(survey.ref.id)
    if len(lie) > 1:
        each = ", ".join(f"{len(ids)} as {sides} (first {ids[0]!r})" for sides, ids in lie.items())
        yield f"volumes lie in {len(lie)} orientations: {each}; `orientation: RAS` in the data set brings them to one"


def roles_of(surveys: Sequence[Survey], tiles: Tiles) -> tuple[Role, ...]:
    """The roles that all volumes have; UserError when the modality's rules need a label that is not there."""
    roles = tuple(role for role in ROLES if surveys[0].volume.has(role))
    if tiles.modality.startswith("cardiac") and "label" not in roles:
        raise UserError(
            f"data.label: volume {surveys[0].ref.id!r} has no label, and {tiles.modality} tiles are cut around the "
            "labelled heart; name the label"
        )
    return roles


def plan_jobs(survey: Survey, recipe: Recipe, folder: str, memory: int) -> list[BlockJob]:
    """All tasks of one volume, in the order of their blocks.

    Raises UserError naming the field of `tiles` or `scaling` that does not suit the volume.
    """
    tiles, volume = recipe.tiles, survey.volume
    plans = _plans(tiles, survey.ref.id, volume.shape, survey.spacing)
    if preprocessed_shape(tiles) is not None:
        whole = (0, volume.shape[0]), (0, volume.shape[1]), (0, volume.shape[2])
        blocks = [Block(survey.ref.id, 0, whole, tuple(plans))]
    else:
        voxel = sum(dtype.itemsize for dtype in volume.dtypes.values())
        # Resizing makes float32 of an image; a label keeps its type.
        pixel = sum(4 if resized(tiles) and layer != "label" else d.itemsize for layer, d in volume.dtypes.items())
        cut = max(in_plane_pixels(plan) for plan in plans)
        # Cut and finished pixels are there at once, while the one becomes the other.
        tile = cut * voxel + math.prod(plans[0].shape) * pixel
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
    if tiles.modality == "brain-dwi" and tiles.spacing is not None:
        raise UserError("tiles.spacing: brain-dwi is resampled to 128 x 128 x 40 voxels; leave it out")
    # The spacing is the modality's own affair; tiles are laid out on the grid that it makes.
    update: dict[str, Any] = {"spacing": None}
    if tiles.kind == "crop" and len(tiles.size) == 1:
        update |= {"size": prepared, "stride": None}
    return plan_tiles(tiles.model_copy(update=update), volume, prepared)


def check_volumes(recipe: Recipe, needed: Sequence[Role] = ()) -> None:
    """Everything that would keep the tiles from being cut, as far as it shows before a voxel is read.

    A phantom, which is not drawn yet, is judged by its shape. UserError naming the field or file, also where the
    volumes have no channel for one of the roles in `needed`.
    """
    data, options = recipe.data, recipe.storage.options
    if data.path is None:
        phantom = phantom_volume(data.phantom, 0)
        _plans(recipe.tiles, "phantom-0", phantom.shape, phantom.spacing)
        lacking: list[Role] = [role for role in needed if role == "tumour" and not data.tumour]
        whose = f"the {data.phantom.modality} phantom"
    else:
        surveys, _ = survey_volumes(volume_refs(data, options), data, lambda _line: None)
        roles = roles_of(surveys, recipe.tiles)
        for survey in surveys:
            plan_jobs(survey, recipe, "", recipe.scaling.tile_memory * 2**20)
        lacking = [role for role in needed if role not in roles]
        whose = f"volume {surveys[0].ref.id!r}"
    if lacking:
        raise UserError(f"data.{lacking[0]}: {whose} has no {lacking[0]} to train on; name one")


def fingerprint(data: Data, tiles: Tiles, refs: Sequence[VolumeRef]) -> str:
    """SHA-256 of what decides the tiles: both sections of the recipe and the state of the files they name.

    `data.path` is left out, so that a data set may be moved; files count by name, size and time or version,
    Zarr volumes by their metadata files only.
    """
    described = identifying(data.model_dump(mode="json", exclude={"path", "phantom", "one_channel"}))
    for entry in described["volumes"]:
        if entry["label_axes"] is None:
            del entry["label_axes"]  # so that sets from before the field are known again
    content = {
        "data": described,
        "tiles": tiles.model_dump(mode="json"),
        "files": {ref.id: _files(ref) for ref in refs},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _files(ref: VolumeRef) -> list[list[str]]:
    paths = [*ref.paths]
    label = ref.label_path()
    # A label group within the image is among the image's files already.
    if label and not any(label.startswith(path) for path in paths):
        paths.append(label)
    if ref.entry.table:
        paths.append(join(ref.base, ref.entry.table))
    return [entry for path in paths for entry in _file_states(path, ref.options)]


def _file_states(uri: str, options: Options | None) -> list[list[str]]:
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
