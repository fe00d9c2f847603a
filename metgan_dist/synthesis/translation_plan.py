"""What translation of whole volumes takes of recipe, tiles and data set; what does not fit is told before any work."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from metgan_dist.errors import UserError
from metgan_dist.lineage.records import Records
from metgan_dist.lineage.volumes import located
from metgan_dist.recipe import Domain, Recipe, Synthesis, Tiles, class_names, class_numbers
from metgan_dist.runs.command_line import Command
from metgan_dist.synthesis.model import Model
from metgan_dist.synthesis.originals import Original
from metgan_dist.synthesis.target_range import joint_type, median_ranges
from metgan_dist.synthesis.translating import Translation
from metgan_dist.synthesis.voxel_grid import voxel_factors
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.tracking import tracking_uri
from metgan_dist.trained import run_of
from metgan_dist.volumes.dataset import resolve_data
from metgan_dist.volumes.labelled import LabelledVolume, VolumeRef

MOST = {"nifti": 2**31 - 1, "ome-zarr": 255, "images": 65535}  # the largest value of a label, by format
# Fields that say something of translated volumes; others are no matter of theirs.
SETTINGS = ("direction", "region", "overlap", "format", "seed", "batch_size", "threads")
ALLOWED = {*SETTINGS, "model", "tiles", "anatomies", "replicas", "pictures"}


def check_given(command: Command, allowed: Collection[str], why: str) -> None:
    """UserError for a field of another kind of synthesis, rather than ignoring it."""
    said = next((name for name in command.given.get("synthesis", {}) if name not in allowed), None)
    if said is not None:
        raise UserError(f"synthesis.{said}: {why}; leave it out")


def rules_of(tiles: TileSet, domain: str, settings: Synthesis) -> Tiles:
    """The section with which the tiles of a domain were cut; UserError for tiles that are no part of whole volumes."""
    own = Domain.model_validate(tiles.manifest["data"]["domains"][domain])
    rules = own.rules(Tiles.model_validate(tiles.manifest["tiles"]))
    check_parts(rules, "synthesis.model")
    if settings.region == "heart" and not rules.modality.startswith("cardiac"):
        raise UserError(
            f"synthesis.region: heart, but the tiles of {domain!r} were cut as {rules.modality}, from the whole "
            "volume; leave it out"
        )
    return rules


def check_parts(rules: Tiles, field: str) -> None:
    """UserError, beginning with `field`, where tiles cut by these rules are no parts of whole volumes as they lie."""
    what = None
    if rules.grid is not None:
        what = "tiles of volumes that were all resampled to one grid (tiles.grid)"
    elif rules.modality == "brain-dwi":
        what = "brain-dwi tiles, whose volumes are preprocessed as a whole"
    elif rules.kind == "projection":
        what = "projections, each of which shows many planes; train it on slices or crops"
    elif rules.kind == "slice" and "z" not in rules.views:
        what = f"views along {', '.join(rules.views)}; a volume is taken plane by plane along z"
    if what is not None:
        raise UserError(f"{field}: trained on {what}")


def located_volumes(recipe: Recipe, model: Model | None, tiles: TileSet) -> dict[str, VolumeRef]:
    """The volumes of the tiles by id: in the data set at `data.path`, or where the runs that used the tiles say."""
    options = recipe.storage.options
    records = Records([tracking_uri(recipe.tracking, recipe.storage)], options)
    if model is not None and (run := run_of(model.uri, options)) is not None:
        records.read_run(run["folder"])  # it names the MLflow store that knows the tiles
    place = None if recipe.data.path is None else resolve_data(recipe.data, options).path
    try:
        return located(tiles, records, "synthesis.tiles", place)
    except UserError as error:
        raise UserError(f"{error}; name the data set that they were cut from in data.path") from error


def form_of(found: Sequence[Original], settings: Synthesis, rules: Tiles) -> str:
    """As what the volumes are written; UserError where that cannot be, or a volume does not say its voxel size."""
    volumes = [original.ref.open() for original in found]
    for volume in volumes:
        voxel_factors(rules, volume)
    return written_form(volumes, settings.format, "synthesis", "synthesis.anatomies")


def written_form(volumes: Sequence[LabelledVolume], wanted: str | None, section: str, named_in: str) -> str:
    """As what is written that belongs to these volumes: "nifti", "ome-zarr" or "images".

    wanted: the field `format` of `section`; named_in: the field in which volumes are named. UserError where not all can
    be written so.
    """
    separate = [volume.names is not None for volume in volumes]
    if any(separate):
        if wanted is not None or not all(separate):
            raise UserError(
                f"{section}.format: {volumes[separate.index(True)].id!r} is a folder of separate images, which are "
                f"written as images, and volumes are not; leave the format out, and name one kind in {named_in}"
            )
        return "images"
    nowhere = next((volume for volume in volumes if volume.affine is None), None)
    if wanted == "nifti" and nowhere is not None:
        raise UserError(
            f"{section}.format: nifti, but volume {nowhere.id!r} says nothing of where its voxels lie; only what is "
            "made from a NIfTI volume can be written as one"
        )
    return wanted or ("ome-zarr" if nowhere is not None else "nifti")


def shared_job(recipe: Recipe, model: Model, source: TileSet, target: TileSet, rules: Tiles, form: str) -> Translation:
    """What all volumes share, but for the folder and the device."""
    settings = recipe.synthesis
    values, classes = written_labels(source, form)
    return Translation(
        model=model.uri,
        tiles=rules,
        back=settings.direction == "back",
        around_heart=settings.region == "heart",
        channels=target.channels("tumour") or ("",),
        ranges=tuple(median_ranges(target)),
        dtype=joint_type(target),
        label_values=values,
        classes=classes,
        form=form,
        folder="",
        overlap=settings.overlap,
        batch_size=settings.batch_size,
        seed=settings.seed,
        precision=recipe.training.precision,
        threads=settings.threads,
        device="cpu",
        options=recipe.storage.options,
    )


def written_labels(source: TileSet, form: str) -> tuple[tuple[int, ...], dict[int, str]]:
    """What is written of each class, background first, and the names of the others: the values of the label files.

    The first one of several of a class; numbers of classes where the format has no room for such values.
    """
    data = source.manifest["data"]
    return label_values(data["labels"] or {}, data["classes"], form)


def label_values(labels: Mapping[Any, str], classes: int, form: str) -> tuple[tuple[int, ...], dict[int, str]]:
    """As `written_labels`, of a data set's `labels` (none: classes have no names) and number of classes."""
    named = {int(value): name for value, name in labels.items()}
    first: dict[int, int] = {0: 0}
    for value, number in class_numbers(named).items():
        first.setdefault(number, value)
    values = tuple(first.get(k, k) for k in range(classes))
    if not 0 <= min(values) <= max(values) <= MOST[form]:
        values = tuple(range(classes))
    names = class_names(named) if named else tuple(f"class {k}" for k in range(classes))
    return values, {value: names[k] for k, value in enumerate(values) if k}
