"""Synthetic stroke volumes (Platscher et al., figure 1): masks in healthy brains, drawn by a translator or raised.

The folder `volumes` of the run is a data set: NIfTI images with two labels each, tissue and lesion, on the grid that
the tiles were cut from, and a dataset.yaml, written last, that says in `synthesis` of each volume whose brain and which
masks are in it, and what the masks' generator has seen. Volume n follows from tiles, masks, `synthesis.seed`, n and
what makes the images: a trained translator, or copy-paste, which has none. A task of Ray's makes one; one that is there
is not made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import ray
import yaml

from metgan_dist.figures import image_grid
from metgan_dist.recipe import LESION, Data, Recipe, channel_names, class_names
from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun
from metgan_dist.storage import join, write_whole
from metgan_dist.synthesis.brain_plan import (
    SETTINGS,
    check_pasted,
    check_translator,
    grid_of_slices,
    healthy_brains,
    label_files,
    lesion_class,
    lesion_masks,
    stroke_cases,
)
from metgan_dist.synthesis.copy_paste import ByCopyPaste
from metgan_dist.synthesis.crew import Crew
from metgan_dist.synthesis.model import Model, tags_of
from metgan_dist.synthesis.painting import Brain, ImageSource, Painting, painter, volume_file
from metgan_dist.synthesis.passes import Pass, begin_pass
from metgan_dist.synthesis.target_range import joint_type
from metgan_dist.synthesis.translated_brains import ByTranslator
from metgan_dist.synthesis.translation_plan import located_volumes
from metgan_dist.synthesis.volume_files import record_set, set_digest
from metgan_dist.tiles.intensity import normalise
from metgan_dist.tiles.tile_set import TISSUE_MAP, TileSet, chosen_rows
from metgan_dist.volumes.dataset import DESCRIPTION, resolve_data, volume_refs
from metgan_dist.volumes.volume import whole

FOLDER, MARKERS = "volumes", "painted"


class Way(Protocol):
    """How the images of a set come about; all else of it is the same."""

    @property
    def on_gpus(self) -> bool:
        """Whether they are made on GPUs, where there are some."""

    @property
    def settings(self) -> tuple[str, ...]:
        """Fields of `synthesis` that decide them."""

    @property
    def facts(self) -> dict[str, Any]:
        """What is on record of it: `model`, at least."""

    @property
    def more_settings(self) -> dict[str, Any]:
        """What the voxels follow from and no field of `synthesis` says."""

    @property
    def images(self) -> ImageSource:
        """As far as it is known before the work."""

    def ready(self, opened: OpenRun, job: Painting, crew: Crew) -> ImageSource:
        """Ready to travel to the crew."""


@dataclass(frozen=True)
class BrainSynthesis:
    """A set of stroke volumes that can be made.

    way: how their images come about; tiles: slices of healthy brains, among others; data: the section that they were
    cut by; brains: the healthy ones, without number and name; masks: what is on record of the masks; job: what all
    volumes share, but for the folder and what `way` has yet to make ready.
    """

    recipe: Recipe
    way: Way
    tiles: TileSet
    data: Data
    brains: tuple[Brain, ...]
    masks: Mapping[str, Any]
    job: Painting

    @staticmethod
    def planned(command: Command, model: Model | None, tiles: TileSet) -> BrainSynthesis:
        """Everything that can be checked before a cluster is touched; UserError in one line for what does not fit.

        Without a model the brains' own images are raised.
        """
        recipe, settings = command.recipe, command.recipe.synthesis
        if model is None:
            check_pasted(command, tiles)
            data = Data.model_validate(tiles.manifest["data"])
        else:
            check_translator(command, model, tiles)
            data = model.recipe.data
        grid, lesion = grid_of_slices(tiles), lesion_class(data, f"synthesis.tiles: {tiles.uri}")
        files = label_files(data)
        parenchyma = tuple(data.tissue)
        found = located_volumes(recipe, model, tiles)
        brains = healthy_brains(recipe, tiles, found, grid, files[1])
        refs, masks = lesion_masks(recipe, tiles)
        way: Way
        if model is None:
            way = ByCopyPaste(recipe, tiles, () if settings.gain else stroke_cases(tiles, found, files[1]))
        else:
            way = ByTranslator(recipe, model)
        job = Painting(
            images=way.images,
            tiles=tiles.uri,
            masks=refs,
            grid=grid,
            parenchyma=parenchyma,
            lesion=lesion,
            files=files,
            dtype=joint_type(tiles),
            lesions=settings.lesions,
            mirror=settings.mirror,
            least=settings.least_lesion,
            tries=settings.tries,
            folder="",
            seed=settings.seed,
            options=recipe.storage.options,
        )
        return BrainSynthesis(recipe, way, tiles, data, brains, masks, job)

    @property
    def tags(self) -> dict[str, str]:
        """For the MLflow run: the translator, and the run that trained it; or that there is none."""
        return tags_of(self.way.facts["model"])

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
        settings = self.recipe.synthesis.model_dump(mode="json", include={*SETTINGS, *self.way.settings})
        made = {self.tiles.made_tissue[brain.ref.id] for brain in self.brains if brain.ref.id in self.tiles.made_tissue}
        return {
            **self.way.facts,
            **({TISSUE_MAP: ", ".join(sorted(made))} if made else {}),
            "tiles": {"uri": self.tiles.uri, "digest": self.tiles.digest},
            "masks": dict(self.masks),
            "settings": settings | self.way.more_settings,
        }

    def carry_out(self, opened: OpenRun) -> None:
        """The work of the job; what an earlier start of the run finished is not made again.

        The result gets the artefacts `dataset` and `preview`, and as scores how many masks were drawn for a lesion and
        the voxels of one.
        """
        result, plan = opened.result, self.plan
        room = opened.plan if self.way.on_gpus else replace(opened.plan, gpus_per_worker=0.0)
        crew = Crew.of(opened.recipe.synthesis, room, ray.available_resources())
        job = replace(self.job, folder=join(opened.run.folder, FOLDER))
        with opened.log() as log:
            log.dataset(f"tiles-{self.tiles.digest[:8]}", self.tiles.uri, self.tiles.digest, "source", len(self.brains))
        say(
            f"stroke volumes: {len(plan)} of {len(self.brains)} healthy brain(s) and {len(job.masks)} mask(s) by "
            f"{self.way}; {crew}"
        )
        job = replace(job, images=self.way.ready(opened, job, crew))
        with result.phase("drawing"):
            made = self._painted(job, join(opened.run.folder, MARKERS), crew, plan)
        digest = self.describe(job, made, plan)
        with result.phase("preview"):
            opened.keep({"preview.png": self.preview(job, made)}, {"preview.png": "preview"})
        record_set(opened, job.folder, digest, made)
        laid = [one for volume in made for one in volume["laid"]]
        draws, voxels = [one["draws"] for one in laid], [one["voxels"] for one in laid]
        result.scores["injection"] = {"draws": float(np.mean(draws)), "voxels": float(np.mean(voxels))}
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
        data, (tissue, lesion) = self.data, job.files
        assert data.labels is not None
        names = class_names(data.labels)
        listed = [
            {"volume": own.ref.id, "patient": own.ref.patient, "lesions": one["laid"]}
            | one["image"]
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
        """The image's name: as in the tiles of the brains, whose crops are trained on beside those of real ones."""
        return channel_names(self.data.tumour)[0]

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
