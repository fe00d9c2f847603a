"""What stroke volumes take of tiles, masks and data set; what does not fit is told before any work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from metgan_dist.errors import UserError
from metgan_dist.lineage.records import SEEN
from metgan_dist.lineage.untouched import HELD_OUT
from metgan_dist.methods import method_class
from metgan_dist.recipe import LESION, Data, Recipe, Tiles, VolumeEntry, by_file, class_names, label_names
from metgan_dist.recipe.synthesis import COPY_PASTE
from metgan_dist.runs.command_line import Command
from metgan_dist.synthesis.copy_paste import Case
from metgan_dist.synthesis.model import Model
from metgan_dist.synthesis.painting import Brain
from metgan_dist.synthesis.plan import check_anatomies
from metgan_dist.synthesis.translation_plan import check_given
from metgan_dist.tasks.label_to_image import LabelToImage
from metgan_dist.tiles.grid import WholeGrid, grid_of
from metgan_dist.tiles.tile_set import TileSet, check_pairs
from metgan_dist.volumes.dataset import as_described, resolve_data, volume_refs
from metgan_dist.volumes.labelled import VolumeRef, check_one_space

# Fields that decide the volumes, besides those of what makes the images, and those that may be given beside them.
SETTINGS = ("count", "seed", "lesions", "mirror", "least_lesion", "tries")
ALLOWED = {*SETTINGS, "model", "tiles", "masks", "anatomies", "replicas", "threads", "pictures"}


def check_pasted(command: Command, tiles: TileSet) -> None:
    """UserError for fields of other syntheses, and for tiles whose images cannot be raised: copy-paste."""
    check_given(command, ALLOWED | {"gain", "border"}, f"{COPY_PASTE} raises lesions in images that there are")
    _check_cut(tiles)
    check_pairs(tiles.domains, f"synthesis.tiles: {tiles.uri}")
    if not tiles.has("tumour", "label"):
        raise UserError(f"synthesis.tiles: {tiles.uri}: {COPY_PASTE} takes images and labels of one place from them")


def check_translator(command: Command, model: Model, tiles: TileSet) -> None:
    """UserError for fields of other syntheses, for a model that draws no images of labels, and for other tiles."""
    check_given(command, ALLOWED | {"batch_size"}, "lesions are taken from synthesis.masks as they are")
    name = model.recipe.method.name
    if method_class(name).task != LabelToImage.name:
        raise UserError(
            f"synthesis.model: {model.uri} is of {name}, which draws no images from label maps alone; use one that "
            "does, such as pix2pix_stroke or spade_stroke"
        )
    _check_cut(tiles)
    model.check_cut_alike(tiles)


def _check_cut(tiles: TileSet) -> None:
    """UserError unless these tiles were cut from volumes, and have one image."""
    if "synthesis" in tiles.manifest or "parts" in tiles.manifest:
        raise UserError(f"synthesis.tiles: {tiles.uri}: synthetic or mixed tiles; give tiles cut from volumes")
    if len(names := tiles.channels("tumour")) > 1:
        raise UserError(
            f"synthesis.tiles: {tiles.uri}: images of {len(names)} channels ({', '.join(names)}), and a stroke volume "
            "has one; cut tiles with one in data.tumour"
        )


def grid_of_slices(tiles: TileSet) -> WholeGrid:
    """The grid of which each tile is a whole plane; UserError where tiles are something else."""
    rules = Tiles.model_validate(tiles.manifest["tiles"])
    grid = grid_of(rules)
    if grid is None or rules.kind != "slice" or tuple(tiles.shape) != grid.shape[1:]:
        raise UserError(
            f"synthesis.tiles: {tiles.uri}: a brain is drawn plane by plane, and these tiles are no whole planes of a "
            "grid that all brains have; cut slices with tiles.grid, and tiles.size as its planes are"
        )
    return grid


def lesion_class(data: Data, whose: str) -> int:
    """The number of the class `lesion`; UserError that begins with `whose` label maps they are where there is none."""
    names = [] if data.labels is None else class_names(data.labels)
    if LESION not in names:
        there = ", ".join(names[1:]) or "none is named"
        raise UserError(f"{whose}: no class of the label maps is called {LESION!r} ({there}); name it in data.labels")
    return names.index(LESION)


def label_files(data: Data) -> tuple[str, str]:
    """Names of the two labels that are written: those of the translator's data set where it has two, tissue first."""
    assert data.labels is not None
    names = label_names(data.label)
    lesion = next((name for name, own in by_file(data.labels).items() if name and LESION in own.values()), LESION)
    return next((name for name in names if name != lesion), "tissue"), lesion


def brains_of(data: Data) -> tuple[list[VolumeEntry], list[VolumeEntry]]:
    """Of the volumes that may be trained on the healthy ones, and those with a lesion; nothing has to be cut.

    UserError where there is none of either: nothing to lay lesions into, or to learn them from.
    """
    described = as_described(data)
    whose = f"data.path: {described.path or 'the phantom'}"
    lesion_class(described, whose)
    lesion = label_files(described)[1]
    free = [entry for entry in described.volumes if entry.split not in HELD_OUT]
    ill = [entry for entry in free if isinstance(entry.label, dict) and entry.label.get(lesion)]
    healthy = [entry for entry in free if entry not in ill]
    if not healthy or not ill:
        what = f"brain without a `{lesion}` to lay lesions into" if not healthy else f"volume with a `{lesion}`"
        raise UserError(
            f"{whose}: no {what} among {len(free)} volume(s) that may be trained on; the data set needs both, and says "
            f"`healthy: true` of a volume that has no {lesion}"
        )
    return healthy, ill


def healthy_brains(
    recipe: Recipe, tiles: TileSet, refs: Mapping[str, VolumeRef], grid: WholeGrid, lesion: str
) -> tuple[Brain, ...]:
    """Brains without a lesion all of whose slices are trained on, or those of them that `synthesis.anatomies` names.

    refs: the volumes of the tiles by id; lesion: the label of which healthy ones have no file.
    """
    settings, index = recipe.synthesis, tiles.index
    check_anatomies(tiles, settings, (index["split"] == "train").to_numpy())
    found = []
    for name, rows in index.groupby("volume", sort=False):
        asked = name in settings.anatomies
        if (settings.anatomies and not asked) or set(rows["split"]) != {"train"}:
            continue
        ref = refs[str(name)]
        if lesion in ref.label_places():
            if asked:
                raise UserError(f"synthesis.anatomies: volume {name!r} has a lesion of its own; name healthy ones")
            continue
        if len(rows) != grid.shape[0]:
            raise UserError(
                f"synthesis.tiles: {tiles.uri} has {len(rows)} of the {grid.shape[0]} planes of {name!r}, and a brain "
                "is drawn as a whole; cut it with tiles.step 1 and tiles.min_foreground 0"
            )
        found.append(_brain(ref, rows.sort_values("z0")))
    if not found:
        raise UserError(
            f"synthesis.tiles: {tiles.uri}: no healthy brain that is trained on as a whole; in the data set "
            f"`healthy: true`, or `{lesion}: []`, says that a volume has none; tiles.split_by volume keeps it whole"
        )
    return tuple(found)


def _brain(ref: VolumeRef, rows: pd.DataFrame) -> Brain:
    ends = (float(rows["tumour_low"].median()), float(rows["tumour_high"].median()))
    return Brain(0, "", ref, tuple(int(row) for row in rows.index), ends)


def stroke_cases(tiles: TileSet, refs: Mapping[str, VolumeRef], lesion: str) -> tuple[Case, ...]:
    """Volumes with a lesion whose slices are all trained on; UserError where there is none."""
    cases = [
        Case(str(name), str(rows["patient"].iloc[0] or ""), tuple(int(row) for row in rows.sort_values("z0").index))
        for name, rows in tiles.index.groupby("volume", sort=False)
        if set(rows["split"]) == {"train"} and lesion in refs[str(name)].label_places()
    ]
    if not cases:
        raise UserError(
            f"synthesis.gain: {tiles.uri} has no stroke case that is trained on, whose lesions would say how bright "
            "they are; say it, such as 1.3,2"
        )
    return tuple(cases)


def lesion_masks(recipe: Recipe, tiles: TileSet) -> tuple[tuple[VolumeRef, ...], dict[str, Any]]:
    """The masks that may be laid, and what is put on record of them: where they are, whose lesions.

    UserError where none is left, where those without images lie on several grids, or where one is of a patient whose
    tiles are held out, or was drawn by a generator that has learned from such a patient's.
    """
    place, options = str(recipe.synthesis.masks), recipe.storage.options
    data = resolve_data(Data(path=place, anatomy="", tumour=""), options)
    refs = tuple(ref for ref in volume_refs(data, options) if ref.labelled and ref.split not in HELD_OUT)
    if not refs:
        raise UserError(f"synthesis.masks: {place}: no masks, or none that is not held out")
    check_one_space([ref.open() for ref in refs if ref.entry.path is None], "synthesis.masks")
    drawn = data.synthesis or {}
    seen = drawn.get(SEEN) or {
        "volumes": sorted(ref.id for ref in refs),
        "patients": sorted({ref.patient for ref in refs if ref.patient}),
    }
    held = tiles.index[tiles.index["split"].isin(HELD_OUT)]
    for what, column in (("patients", "patient"), ("volumes", "volume")):
        if both := sorted(set(seen[what]) & set(held[column].fillna(""))):
            raise UserError(
                f"synthesis.masks: {place}: lesions are of {column} {both[0]!r}, held out in {tiles.uri}; take "
                "masks of others, or of a generator that has not seen it"
            )
    return refs, {"uri": data.path, "voxels_sha256": drawn.get("voxels_sha256"), SEEN: seen}
