"""Lesion masks drawn by a trained mask GAN: a data set of masks without images, any number of them, by seed.

The folder `masks` of the run is a data set: NIfTI files that lie where the masks lie which the GAN learned from, and a
dataset.yaml, written last, that says in `synthesis` of each mask its seed and the training mask that is nearest, and of
all what the GAN has seen: volumes and patients of its training and validation tiles. Mask n of a set follows from the
model, `synthesis.seed` and n, so that a larger set begins with the masks of a smaller one. A task of Ray's draws a
batch; one that is there is not drawn again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import ray
import yaml

from metgan_dist.figures import histograms, image_grid
from metgan_dist.recipe import Data, Recipe
from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun
from metgan_dist.scores.masks import AXES
from metgan_dist.scores.scored import Scored
from metgan_dist.storage import join, write_whole
from metgan_dist.synthesis.crew import Crew
from metgan_dist.synthesis.drawing import Batch, Drawing, drawer, mask_file, mask_name, place_of
from metgan_dist.synthesis.model import Model
from metgan_dist.synthesis.passes import Pass, begin_pass
from metgan_dist.synthesis.translation_plan import check_given, located_volumes, written_labels
from metgan_dist.synthesis.volume_files import set_digest
from metgan_dist.tasks import GENERATED, REAL
from metgan_dist.tasks.mask_generation import MaskGeneration, projections
from metgan_dist.tiles.stream import tile_batches
from metgan_dist.tiles.tile_set import TileSet, chosen_rows
from metgan_dist.volumes.dataset import DESCRIPTION, resolve_data, volume_refs
from metgan_dist.volumes.volume import whole

FOLDER, MARKERS = "masks", "drawn"
# Fields that decide the masks, and those that may be given beside them.
SETTINGS = ("count", "seed", "batch_size", "threads")
ALLOWED = {*SETTINGS, "model", "tiles", "replicas", "pictures"}
SEEN = ("train", "val")
SHOWN = ("voxels", "components", "sphericity", *AXES, "nearest")


@dataclass(frozen=True)
class MaskSynthesis:
    """A set of masks that can be drawn.

    tiles: that the model learned from; job: what all batches share, but for the folder and the device.
    """

    recipe: Recipe
    model: Model
    tiles: TileSet
    job: Drawing

    @staticmethod
    def planned(command: Command, model: Model, tiles: TileSet) -> MaskSynthesis:
        """Everything that can be checked before a cluster is touched; UserError in one line for what does not fit."""
        recipe, settings = command.recipe, command.recipe.synthesis
        check_given(command, ALLOWED, "the generator draws masks from nothing but their seeds")
        model.check_masks(tiles)
        job = Drawing(
            model=model.uri,
            tiles=tiles.uri,
            place=place_of(tiles, located_volumes(recipe, model, tiles)),
            label_values=written_labels(tiles, "nifti")[0],
            folder="",
            seed=settings.seed,
            batch_size=settings.batch_size,
            precision=recipe.training.precision,
            threads=settings.threads,
            device="cpu",
            options=recipe.storage.options,
        )
        return MaskSynthesis(recipe, model, tiles, job)

    @property
    def tags(self) -> dict[str, str]:
        """For the MLflow run: the generator, and the run that trained it."""
        return self.model.tags

    @property
    def batches(self) -> dict[str, Batch]:
        """All batches, by the name of their first mask."""
        count, size = self.recipe.synthesis.count, self.job.batch_size
        return {mask_name(first): Batch(first, min(size, count - first)) for first in range(0, count, size)}

    @property
    def facts(self) -> dict[str, Any]:
        """What the masks follow from, and what that has seen: the data set's section `synthesis` without the masks."""
        settings = self.recipe.synthesis.model_dump(mode="json", include=set(SETTINGS))
        seen = self.tiles.index[self.tiles.index["split"].isin(SEEN)]
        return {
            "model": self.model.facts,
            "tiles": {"uri": self.tiles.uri, "digest": self.tiles.digest},
            "settings": settings | {"precision": self.job.precision},
            "seen": {
                "volumes": sorted(set(seen["volume"])),
                "patients": sorted(set(seen["patient"].fillna("")) - {""}),
            },
        }

    def carry_out(self, opened: OpenRun) -> None:
        """The work of the job; what an earlier start of the run finished is not drawn again.

        The result gets the artefacts `dataset`, `preview` and `plot`, and as scores how the masks compare with held-out
        ones, and how near they lie to those that the model learned from.
        """
        result, count = opened.result, self.recipe.synthesis.count
        crew = Crew.of(opened.recipe.synthesis, opened.plan, ray.available_resources())
        job = replace(self.job, folder=join(opened.run.folder, FOLDER), device=crew.device)
        with opened.log() as log:
            seen = int(self.tiles.index["split"].isin(SEEN).sum())
            log.dataset(f"tiles-{self.tiles.digest[:8]}", self.tiles.uri, self.tiles.digest, "source", seen)
        say(f"masks: {count} by {self.model.recipe.method.name} in {self.model.uri}; {crew}")
        with result.phase("drawing"):
            made = self._drawn(job, join(opened.run.folder, MARKERS), crew)
        digest = self.describe(job, made)
        with result.phase("scores"):
            result.scores["masks"] = self._score(opened, job, made)
        with opened.log() as log:
            log.dataset(f"masks-{digest[:8]}", job.folder, digest, "generated", len(made))
        result.artefacts |= {"dataset": job.folder, "voxels_sha256": digest}
        say(f"masks: {len(made)} drawn; {job.folder}")
        say(f"digest: {digest}")

    def _drawn(self, job: Drawing, markers: str, crew: Crew) -> list[dict[str, Any]]:
        """What is known of all masks, in their order."""
        afresh = "masks: generator, tiles or settings have changed since this run began; it is started afresh"
        begin_pass(markers, self.facts, job.options, say, afresh)
        work = Pass("masks", markers, job.options, say, unit="batches")
        drawn = work.crewed(partial(drawer, job), self.batches, crew)
        return sorted((mask for batch in drawn for mask in batch["masks"]), key=lambda mask: mask["seed"])

    def describe(self, job: Drawing, made: Sequence[dict[str, Any]]) -> str:
        """Write the dataset.yaml, which makes the folder a data set; the SHA-256 of all voxels."""
        digest = set_digest((one["id"], one["voxels_sha256"]) for one in made)
        data, volumes = self.tiles.manifest["data"], self.tiles.index["volume"]
        listed = [
            {
                **{key: one[key] for key in ("id", "seed", "voxels_sha256")},
                "nearest": None if one["nearest"] is None else str(volumes.iloc[one["nearest"]]),
                "nearest_dice": round(one["measures"]["nearest"], 6),
            }
            for one in made
        ]
        named = {"labels": written_labels(self.tiles, "nifti")[1]} if data["labels"] else {"classes": data["classes"]}
        turned = {"orientation": data["orientation"]} if data["orientation"] else {}
        written = {
            **named,
            **turned,
            "synthesis": {**self.facts, "volumes": listed, "voxels_sha256": digest},
            "volumes": [{"id": one["id"], "label": mask_file(one["id"]), "split": "train"} for one in made],
        }
        text = yaml.safe_dump(written, sort_keys=False, allow_unicode=True)
        write_whole(join(job.folder, DESCRIPTION), text.encode(), job.options)
        return digest

    def _score(self, opened: OpenRun, job: Drawing, made: Sequence[dict[str, Any]]) -> dict[str, float]:
        """The masks against held-out ones (test, else validation tiles), a line on that, and pictures."""
        task, drawn = MaskGeneration(self.tiles), pd.DataFrame([one["measures"] for one in made]).astype(float)
        opened.keep({"preview.png": self.preview(job, made)}, {"preview.png": "preview"})
        rows = next((rows for split in ("test", "val") if len(rows := task.rows(split))), None)
        if rows is None:
            say("masks: none is held out to compare them with")
            return {"nearest": float(drawn["nearest"].mean())}
        scorer = task.scorer(REAL)
        for batch in tile_batches(self.tiles, rows, job.batch_size):
            task.score(REAL, scorer, batch, None)
        real = scorer.scored()
        scores = task.compared_with({GENERATED: Scored(drawn), REAL: real}, rows)
        panels = {name: {"drawn": drawn[name], "held out": real.per_tile[name]} for name in SHOWN}
        opened.keep({"distributions.png": histograms(panels, logarithmic=("voxels",))}, {"distributions.png": "plot"})
        say(task.line("masks", {"tiles": len(made), **scores}))
        return scores[GENERATED]

    def preview(self, job: Drawing, made: Sequence[dict[str, Any]]) -> bytes:
        """PNG of some masks along the three axes, each beside the training mask that is nearest to it."""
        written = {ref.id: ref for ref in volume_refs(resolve_data(Data(path=job.folder), job.options), job.options)}
        shown: dict[str, list[np.ndarray]] = {}
        chosen = [made[k] for k in chosen_rows(np.arange(len(made)), self.recipe.synthesis.pictures)]
        for one in chosen:
            volume = written[one["id"]].open()
            empty = np.zeros(volume.shape, np.uint8)
            near = empty if one["nearest"] is None else self.tiles.load(one["nearest"])["label"]
            for title, mask in (("drawn", volume.read("label", whole(volume))), ("nearest", near)):
                for name, picture in projections(mask).items():
                    shown.setdefault(f"{title}{name}", []).append(picture)
        order = sorted(shown, key=lambda title: title.startswith("nearest"))
        rows = [f"{one['id']}: {one['measures']['nearest']:.2f}" for one in chosen]
        return image_grid({title: shown[title] for title in order}, rows=rows)
