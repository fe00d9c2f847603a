"""Synthetic stroke volumes (Platscher et al., figure 1): masks in healthy brains, by a trained translator.

The folder `volumes` of the run is a data set: NIfTI images with two labels each, tissue and lesion, on the grid that
the translator's tiles were cut from, and a dataset.yaml, written last, that says in `synthesis` of each volume whose
brain and which masks are in it, and what the masks' generator has seen. Volume n follows from translator, tiles, masks,
`synthesis.seed` and n. A task of Ray's makes one; one that is there is not made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import ray
import yaml

from metgan_dist.errors import UserError
from metgan_dist.figures import image_grid
from metgan_dist.lineage.records import SEEN
from metgan_dist.lineage.untouched import HELD_OUT
from metgan_dist.methods import method_class
from metgan_dist.recipe import Data, Recipe, Tiles, VolumeEntry, channel_names, class_names
from metgan_dist.recipe.labels import LESION, by_file, label_names
from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun
from metgan_dist.storage import join, write_whole
from metgan_dist.synthesis.crew import Crew
from metgan_dist.synthesis.model import Model
from metgan_dist.synthesis.painting import Brain, Painting, painter, volume_file
from metgan_dist.synthesis.passes import Pass, begin_pass
from metgan_dist.synthesis.plan import check_anatomies
from metgan_dist.synthesis.target_range import joint_type
from metgan_dist.synthesis.translation_plan import check_given, located_volumes
from metgan_dist.synthesis.volume_files import set_digest
from metgan_dist.tasks.label_to_image import LabelToImage
from metgan_dist.tiles.grid import WholeGrid, grid_of
from metgan_dist.tiles.intensity import normalise
from metgan_dist.tiles.tile_set import TileSet, chosen_rows
from metgan_dist.volumes.dataset import DESCRIPTION, as_described, resolve_data, volume_refs
from metgan_dist.volumes.labelled import VolumeRef
from metgan_dist.volumes.volume import whole

FOLDER, MARKERS = "volumes", "painted"
# Fields that decide the volumes, and those that may be given beside them.
SETTINGS = ("count", "seed", "batch_size", "threads", "lesions", "mirror", "least_lesion", "tries")
ALLOWED = {*SETTINGS, "model", "tiles", "masks", "anatomies", "replicas", "pictures"}


@dataclass(frozen=True)
class BrainSynthesis:
    """A set of stroke volumes that can be made.

    tiles: slices of healthy brains, among others; brains: the healthy ones, without number and name; masks: what is on
    record of the masks; job: what all volumes share, but for the folder and the device.
    """

    recipe: Recipe
    model: Model
    tiles: TileSet
    brains: tuple[Brain, ...]
    masks: Mapping[str, Any]
    job: Painting

    @staticmethod
    def planned(command: Command, model: Model, tiles: TileSet) -> BrainSynthesis:
        """Everything that can be checked before a cluster is touched; UserError in one line for what does not fit."""
        recipe, settings, data = command.recipe, command.recipe.synthesis, model.recipe.data
        check_fits(command, model, tiles)
        grid, lesion, files = grid_of_slices(tiles), lesion_class(data), label_files(data)
        brains = healthy_brains(recipe, model, tiles, grid, files[1])
        refs, masks = lesion_masks(recipe, tiles)
        job = Painting(
            model=model.uri,
            tiles=tiles.uri,
            masks=refs,
            grid=grid,
            parenchyma=tuple(data.tissue),
            lesion=lesion,
            files=files,
            dtype=joint_type(tiles),
            lesions=settings.lesions,
            mirror=settings.mirror,
            least=settings.least_lesion,
            tries=settings.tries,
            folder="",
            seed=settings.seed,
            batch_size=settings.batch_size,
            precision=recipe.training.precision,
            threads=settings.threads,
            device="cpu",
            options=recipe.storage.options,
        )
        return BrainSynthesis(recipe, model, tiles, brains, masks, job)

    @property
    def tags(self) -> dict[str, str]:
        """For the MLflow run: the translator, and the run that trained it."""
        return self.model.tags

    @property
    def plan(self) -> list[Brain]:
        """All volumes: the healthy brains in an order drawn by the seed, over and over."""
        order = np.random.default_rng(self.recipe.synthesis.seed)
        count, brains = self.recipe.synthesis.count, self.brains
        passes = [order.permutation(len(brains)) for _ in range(-(-count // len(brains)))]
        chosen = np.concatenate(passes)[:count]
        return [
            replace(brains[index], number=number, name=f"stroke-{number:06d}") for number, index in enumerate(chosen)
        ]

    @property
    def facts(self) -> dict[str, Any]:
        """What the voxels follow from: the data set's section `synthesis` without the volumes."""
        settings = self.recipe.synthesis.model_dump(mode="json", include=set(SETTINGS))
        return {
            "model": self.model.facts,
            "tiles": {"uri": self.tiles.uri, "digest": self.tiles.digest},
            "masks": dict(self.masks),
            "settings": settings | {"precision": self.job.precision},
        }

    def carry_out(self, opened: OpenRun) -> None:
        """The work of the job; what an earlier start of the run finished is not made again.

        The result gets the artefacts `dataset` and `preview`, and as scores how many masks were drawn for a lesion and
        the voxels of one.
        """
        result, plan = opened.result, self.plan
        crew = Crew.of(opened.recipe.synthesis, opened.plan, ray.available_resources())
        job = replace(self.job, folder=join(opened.run.folder, FOLDER), device=crew.device)
        with opened.log() as log:
            log.dataset(f"tiles-{self.tiles.digest[:8]}", self.tiles.uri, self.tiles.digest, "source", len(self.brains))
        say(
            f"stroke volumes: {len(plan)} of {len(self.brains)} healthy brain(s) and {len(job.masks)} mask(s) by "
            f"{self.model.recipe.method.name} in {self.model.uri}; {crew}"
        )
        with result.phase("drawing"):
            made = self._painted(job, join(opened.run.folder, MARKERS), crew, plan)
        digest = self.describe(job, made, plan)
        with result.phase("preview"):
            opened.keep({"preview.png": self.preview(job, made)}, {"preview.png": "preview"})
        with opened.log() as log:
            log.dataset(f"volumes-{digest[:8]}", job.folder, digest, "generated", len(made))
        laid = [one for volume in made for one in volume["laid"]]
        draws, voxels = [one["draws"] for one in laid], [one["voxels"] for one in laid]
        result.scores["injection"] = {"draws": float(np.mean(draws)), "voxels": float(np.mean(voxels))}
        result.artefacts |= {"dataset": job.folder, "voxels_sha256": digest}
        result.resources["peak_rss_bytes"] = max(one["peak_rss_bytes"] for one in made)
        say(
            f"lesions: {len(laid)}, {np.mean(voxels):.0f} voxels on average; {np.mean(draws):.1f} masks drawn for one, "
            f"at most {max(draws)}"
        )
        say(f"stroke volumes: {len(made)}; {job.folder}")
        say(f"digest: {digest}")

    def _painted(self, job: Painting, markers: str, crew: Crew, plan: Sequence[Brain]) -> list[dict[str, Any]]:
        """What is known of all volumes, in their order."""
        afresh = "stroke volumes: what they follow from has changed since this run began; it is started afresh"
        begin_pass(markers, self.facts, job.options, say, afresh)
        work = Pass("stroke volumes", markers, job.options, say, unit="volumes")
        made = work.crewed(partial(painter, job), {brain.name: brain for brain in plan}, crew)
        return sorted(made, key=lambda one: one["number"])

    def describe(self, job: Painting, made: Sequence[dict[str, Any]], plan: Sequence[Brain]) -> str:
        """Write the dataset.yaml, which makes the folder a data set; the SHA-256 of all voxels."""
        digest = set_digest((one["id"], one["voxels_sha256"]) for one in made)
        data, (tissue, lesion) = self.model.recipe.data, job.files
        assert data.labels is not None
        names = class_names(data.labels)
        listed = [
            {"volume": own.ref.id, "patient": own.ref.patient, "lesions": one["laid"]}
            | {key: one[key] for key in ("id", "voxels_sha256")}
            for one, own in zip(made, plan, strict=True)
        ]
        written: dict[str, Any] = {
            "anatomy": "",
            "tumour": self._channel,
            "labels": {
                tissue: {number: name for number, name in enumerate(names) if number not in (0, job.lesion)},
                lesion: {1: LESION},
            },
            **({"parenchyma": data.parenchyma} if data.parenchyma else {}),
            **({"orientation": data.orientation} if data.orientation else {}),
            "synthesis": {**self.facts, "volumes": listed, "voxels_sha256": digest},
            "volumes": [self._entry(one["id"], own, job) for one, own in zip(made, plan, strict=True)],
        }
        text = yaml.safe_dump(written, sort_keys=False, allow_unicode=True)
        write_whole(join(job.folder, DESCRIPTION), text.encode(), job.options)
        return digest

    def _entry(self, name: str, brain: Brain, job: Painting) -> dict[str, Any]:
        """A volume as the data set lists it."""
        patient = {"patient": brain.ref.patient} if brain.ref.patient else {}
        labels = {kind: volume_file(name, kind) for kind in job.files}
        path = {self._channel: volume_file(name, "")}
        return {"id": name, "path": path, "label": labels, **patient, "split": "train"}

    @property
    def _channel(self) -> str:
        """The image's name: as the translator's tiles call it, whose crops are trained on beside those of real ones."""
        return channel_names(self.model.recipe.data.tumour)[0]

    def preview(self, job: Painting, made: Sequence[dict[str, Any]]) -> bytes:
        """PNG of some volumes in three cuts: tissue with lesion, the image drawn, and the image that the brain has.

        What is drawn is read as the data set that was written.
        """
        described = resolve_data(Data(path=job.folder), job.options)
        written = {ref.id: ref.open() for ref in volume_refs(described, job.options)}
        columns: dict[str, list[np.ndarray]] = {"label": [], "drawn": [], "the brain's own": []}
        plan = {brain.name: brain for brain in self.plan}
        chosen = [made[k] for k in chosen_rows(np.arange(len(made)), self.recipe.synthesis.pictures)]
        kept = tuple(slice(margin, size - margin) for margin, size in zip(job.grid.margin, job.grid.size, strict=True))
        for one in chosen:
            volume, brain = written[one["id"]], plan[one["id"]]
            columns["label"].append(volume.read("label", whole(volume))[kept])
            columns["drawn"].append(normalise(volume.read("tumour", whole(volume))[kept], *brain.ends, clip=True))
            columns["the brain's own"].append(np.stack([self.tiles.load(row)["tumour"][0] for row in brain.rows]))
        return image_grid(columns, rows=[plan[one["id"]].ref.id for one in chosen])


def check_fits(command: Command, model: Model, tiles: TileSet) -> None:
    """UserError for fields of other syntheses, for a model that draws no images of labels, and for other tiles."""
    check_given(command, ALLOWED, "lesions are taken from synthesis.masks as they are")
    name = model.recipe.method.name
    if method_class(name).task != LabelToImage.name:
        raise UserError(
            f"synthesis.model: {model.uri} is of {name}, which draws no images from label maps alone; use one that "
            "does, such as pix2pix_stroke or spade_stroke"
        )
    manifest = tiles.manifest
    if "synthesis" in manifest or "parts" in manifest:
        raise UserError(f"synthesis.tiles: {tiles.uri}: synthetic or mixed tiles; give tiles cut from volumes")
    model.check_cut_alike(tiles)


def brains_of(data: Data) -> tuple[list[VolumeEntry], list[VolumeEntry]]:
    """Of the volumes that may be trained on the healthy ones, and those with a lesion; nothing has to be cut.

    UserError where there is none of either: nothing to lay lesions into, or to learn them from.
    """
    described = as_described(data)
    lesion_class(described)
    lesion = label_files(described)[1]
    free = [entry for entry in described.volumes if entry.split not in HELD_OUT]
    ill = [entry for entry in free if isinstance(entry.label, dict) and entry.label.get(lesion)]
    healthy = [entry for entry in free if entry not in ill]
    if not healthy or not ill:
        what = f"brain without a `{lesion}` to lay lesions into" if not healthy else f"volume with a `{lesion}`"
        raise UserError(
            f"data.path: {described.path or 'the phantom'}: no {what} among {len(free)} volume(s) that may be trained "
            f"on; the data set needs both, and says `healthy: true` of a volume that has no {lesion}"
        )
    return healthy, ill


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


def lesion_class(data: Data) -> int:
    """The number of the class `lesion`; UserError where there is none."""
    names = [] if data.labels is None else class_names(data.labels)
    if LESION not in names:
        there = ", ".join(names[1:]) or "none is named"
        raise UserError(
            f"synthesis.model: no class of its label maps is called {LESION!r} ({there}); name it in data.labels"
        )
    return names.index(LESION)


def label_files(data: Data) -> tuple[str, str]:
    """Names of the two labels that are written: those of the translator's data set where it has two, tissue first."""
    assert data.labels is not None
    names = label_names(data.label)
    lesion = next((name for name, own in by_file(data.labels).items() if name and LESION in own.values()), LESION)
    return next((name for name in names if name != lesion), "tissue"), lesion


def healthy_brains(recipe: Recipe, model: Model, tiles: TileSet, grid: WholeGrid, lesion: str) -> tuple[Brain, ...]:
    """Brains without a lesion all of whose slices are trained on, or those of them that `synthesis.anatomies` names."""
    settings, index = recipe.synthesis, tiles.index
    check_anatomies(tiles, settings, (index["split"] == "train").to_numpy())
    refs, found = located_volumes(recipe, model, tiles), []
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


def lesion_masks(recipe: Recipe, tiles: TileSet) -> tuple[tuple[VolumeRef, ...], dict[str, Any]]:
    """The masks that may be laid, and what is put on record of them: where they are, whose lesions.

    UserError where none is left, or where one is of a patient whose tiles are held out, or was drawn by a generator
    that has learned from such a patient's.
    """
    place, options = str(recipe.synthesis.masks), recipe.storage.options
    data = resolve_data(Data(path=place, anatomy="", tumour=""), options)
    refs = tuple(ref for ref in volume_refs(data, options) if ref.labelled and ref.split not in HELD_OUT)
    if not refs:
        raise UserError(f"synthesis.masks: {place}: no masks, or none that is not held out")
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
