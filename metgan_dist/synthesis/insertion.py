"""Tumours put into volumes (Sallé et al. 2021, section III): a data set of volumes with the tumours of others.

The folder `volumes` of the run is a data set: its dataset.yaml, written last, lists the volumes, all to be trained on,
and says in `synthesis` by which SinGAN, which has seen which slice, and of each volume whose image and whose tumour is
in it. A task of Ray's makes one volume; one that is there is not made again.
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
from metgan_dist.evaluation.reading import ANSWERS, READER
from metgan_dist.figures import by_channel, image_grid
from metgan_dist.lineage.records import INSERTED_INTO, MASKS, SEEN
from metgan_dist.lineage.volumes import file_digests
from metgan_dist.recipe import Data, Recipe
from metgan_dist.recipe.insertion import NAIVE
from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun, run_recipe
from metgan_dist.scores.insertion import intensity_distance
from metgan_dist.storage import join, write_whole
from metgan_dist.synthesis.crew import Crew, quiet_pools
from metgan_dist.synthesis.inserting import Case, Inserting, Source, composed, inserter, measured, opened_scene
from metgan_dist.synthesis.insertion_plan import check_grids, check_image
from metgan_dist.synthesis.insertion_scores import summary, told
from metgan_dist.synthesis.insertion_sources import (
    Sources,
    cases_of,
    donors_of,
    form_of,
    label_classes,
    real_tumours,
    targets_of,
)
from metgan_dist.synthesis.learned_image import Learned, learned_by
from metgan_dist.synthesis.model import tags_of
from metgan_dist.synthesis.passes import Pass, begin_pass
from metgan_dist.synthesis.reader_sheet import reader_slices, sheet_files
from metgan_dist.synthesis.volume_files import record_set, set_digest
from metgan_dist.tiles.tile_set import chosen_rows
from metgan_dist.volumes.dataset import DESCRIPTION, resolve_data, volume_refs
from metgan_dist.volumes.labelled import VolumeRef
from metgan_dist.volumes.layers import layers_of
from metgan_dist.volumes.volume import whole

FOLDER, MARKERS, SCORES = "volumes", "inserted", "scores.csv"
# Settings that do not change the voxels, and those that are on record under another name.
NOT_CONTENT = {"model", "masks", "replicas", "pictures", "readers"}


def insert_tumours(command: Command) -> str:
    """The job."""
    quiet_pools(command)
    command = replace(command, recipe=command.recipe.model_copy(update={"data": command.own_data}))
    planned = VolumeInsertion.planned(command.recipe)
    return run_recipe(command, "insert_tumours", planned.carry_out, planned.tags)


@dataclass(frozen=True)
class VolumeInsertion:
    """Volumes that can be made.

    learned: the SinGAN, None for naive pastes; targets, donors: volumes that get and give tumours; cases: what is to be
    made; real: real volumes of their kind that have such tumours themselves; lines: what is to be said of all that;
    job: what all volumes share, but for folder and device.
    """

    recipe: Recipe
    learned: Learned | None
    targets: Sources
    donors: Sources
    cases: tuple[Case, ...]
    real: tuple[Source, ...]
    lines: tuple[str, ...]
    job: Inserting

    @staticmethod
    def planned(recipe: Recipe) -> VolumeInsertion:
        """Everything that can be checked before a cluster is touched; UserError in one line for what does not fit."""
        settings = recipe.insertion
        learned = learned_by(recipe)
        rules = recipe.tiles if learned is None else learned.model.recipe.tiles
        targets, lines = targets_of(recipe, rules)
        donors = donors_of(recipe, targets, rules)
        if settings.readers and targets.synthetic:
            raise UserError(
                "insertion.readers: the volumes are synthetic, so none of their slices is real; leave it out"
            )
        if learned is not None:
            check_image(learned, {"data.path": targets, "insertion.masks": donors})
        tumour = label_classes(donors.all[0].ref)[donors.all[0].tumour]
        targets, classes, kept = _classes(targets, tumour)
        if not kept:
            lines.append("only some volumes have labels, so that of these the tumours alone are written")
        cases = cases_of(settings, targets.all, donors.all)
        lines += check_grids(settings, cases, learned)
        job = Inserting(
            model=None if learned is None else learned.model.uri,
            settings=settings,
            axis=0 if learned is None else learned.axis,
            learned=None if learned is None else learned.shape,
            classes=classes,
            tumour=classes.index(tumour),
            kept=kept,
            form=form_of(settings, targets.all),
            folder="",
            precision=recipe.training.precision,
            device="cpu",
            options=recipe.storage.options,
        )
        real = real_tumours(targets, donors)
        return VolumeInsertion(recipe, learned, targets, donors, tuple(cases), real, tuple(lines), job)

    @property
    def model_facts(self) -> dict[str, Any]:
        """What is on record of the SinGAN, with the slice that it has seen; or that there is none."""
        if self.learned is None:
            return {"uri": None, "sha256": None, "method": NAIVE, "run": None}
        return {**self.learned.model.facts, "image": self.learned.image}

    @property
    def tags(self) -> dict[str, str]:
        """For the MLflow run: the SinGAN, and the run that trained it; or that there is none."""
        return tags_of(self.model_facts)

    @property
    def facts(self) -> dict[str, Any]:
        """What the voxels follow from: the data set's section `synthesis` without the volumes."""
        used = {case.donor.ref.id: case.donor.ref for case in self.cases}.values()
        learned, job = self.learned, self.job
        seen = {
            "volumes": sorted(ref.id for ref in used),
            "patients": sorted({str(r.patient) for r in used if r.patient}),
        }
        return {
            "model": self.model_facts,
            "tiles": None if learned is None else {"uri": learned.tiles.uri, "digest": learned.tiles.digest},
            INSERTED_INTO: self.targets.facts,
            MASKS: {**self.donors.facts, SEEN: seen},
            "settings": {
                **self.recipe.insertion.model_dump(mode="json", exclude=NOT_CONTENT),
                "format": job.form,
                "precision": job.precision,
                "rules": self.targets.all[0].rules.model_dump(
                    mode="json", include={"modality", "normalise", "percentiles", "normalise_over"}
                ),
            },
        }

    def carry_out(self, opened: OpenRun) -> None:
        """The work of the job; what an earlier start of the run finished is not made again.

        The result gets the artefacts `dataset`, `preview` and `scores`, and as scores their means over the volumes.
        """
        result, settings = opened.result, self.recipe.insertion
        for line in self.lines:
            say(f"insertion: {line}")
        room = opened.plan if self.learned is not None else replace(opened.plan, gpus_per_worker=0.0)
        crew = Crew.of(settings, room, ray.available_resources())
        job = replace(self.job, folder=join(opened.run.folder, FOLDER), device=crew.device)
        if self.learned is not None:
            tiles = self.learned.tiles
            with opened.log() as log:
                log.dataset(f"tiles-{tiles.digest[:8]}", tiles.uri, tiles.digest, "source", 1)
        how = "as they are" if self.learned is None else f"harmonised from scale {settings.start_scale} on"
        say(f"insertion: {len(self.cases)} volume(s), tumours of {len(self.donors.all)}, {how}; {crew}")
        with result.phase("insertion"):
            made = self._inserted(job, join(opened.run.folder, MARKERS), crew)
        digest = self.describe(job, made)
        with result.phase("scores"):
            self._score(opened, made)
        with result.phase("preview"):
            opened.keep({"preview.png": self.preview(job, made)}, {"preview.png": "preview"})
        if settings.readers:
            with result.phase("readers"):
                self._for_readers(opened, job, made)
        record_set(opened, job.folder, digest, made)
        say(f"volumes: {len(made)}; {job.folder}")
        say(f"digest: {digest}")

    def _inserted(self, job: Inserting, markers: str, crew: Crew) -> list[dict[str, Any]]:
        """What is known of all volumes, in their order."""
        afresh = "insertion: what the volumes follow from has changed since this run began; it is started afresh"
        files = [[case.name, file_digests(case.target.ref), file_digests(case.donor.ref)] for case in self.cases]
        begin_pass(markers, {**self.facts, "files": files}, job.options, say, afresh)
        work = Pass("insertion", markers, job.options, say, unit="volumes")
        made = work.crewed(partial(inserter, job), {case.name: case for case in self.cases}, crew)
        return sorted(made, key=lambda one: one["number"])

    def describe(self, job: Inserting, made: Sequence[Mapping[str, Any]]) -> str:
        """Write the dataset.yaml, which makes the folder a data set; the SHA-256 of all voxels."""
        digest = set_digest((one["id"], one["voxels_sha256"]) for one in made)
        listed = [
            {
                "id": one["id"],
                "volume": case.target.origin,
                "patient": case.target.ref.patient,
                "mask": case.donor.ref.id,
                "mask_patient": case.donor.ref.patient,
                **{key: one[key] for key in ("corner", "voxels", "slices", "voxels_sha256")},
                **{key: value for key, value in one.items() if key.endswith("_sha256")},
                "files": file_digests(case.target.ref),
                "mask_files": file_digests(case.donor.ref),
            }
            for case, one in zip(self.cases, made, strict=True)
        ]
        written = {
            **self._head(job),
            "synthesis": {**self.facts, "volumes": listed, "voxels_sha256": digest},
            "volumes": [self._entry(case.target.ref, one) for case, one in zip(self.cases, made, strict=True)],
        }
        text = yaml.safe_dump(written, sort_keys=False, allow_unicode=True)
        write_whole(join(job.folder, DESCRIPTION), text.encode(), job.options)
        return digest

    def _head(self, job: Inserting) -> dict[str, Any]:
        """Channels or domain, classes and orientation of the data set."""
        data, domain = self.targets.data, self.cases[0].target.ref.domain
        labels = {"labels": {number: name for number, name in enumerate(job.classes) if number}}
        turned = {"orientation": data.orientation} if job.form == "nifti" and data.orientation else {}
        if not domain:
            return {"anatomy": "", "tumour": data.tumour, **labels, **turned}
        own = data.domains[domain].model_dump(mode="json", exclude_none=True, exclude={"labels", "unmapped"})
        return {"domains": {domain: own}, "target": domain, **labels, **turned}

    def _entry(self, ref: VolumeRef, made: Mapping[str, Any]) -> dict[str, Any]:
        """A volume as the data set lists it."""
        facts = {"domain": ref.domain, "organ": ref.organ, "patient": ref.patient}
        told = {key: value for key, value in facts.items() if value}
        return {"id": made["id"], **made["entry"], **told, "split": "train"}

    def _score(self, opened: OpenRun, made: Sequence[Mapping[str, Any]]) -> None:
        """A table of the scores of each volume, and their means in the result."""
        real = self._real_tumours(opened)
        levels = np.concatenate([np.zeros(0), *(np.array(own["levels"]) for own in real)])
        rows = [
            {
                "volume": case.target.ref.id,
                "patient": case.target.ref.patient,
                "mask": case.donor.ref.id,
                "voxels": one["voxels"],
                **one["scores"],
                **({"intensity_distance": intensity_distance(np.array(one["levels"]), levels)} if real else {}),
            }
            for case, one in zip(self.cases, made, strict=True)
        ]
        table = pd.DataFrame(rows)
        opened.keep({SCORES: table.to_csv(index=False).encode()}, {SCORES: "scores"})
        scores = summary(table, real)
        opened.result.scores["insertion"] = scores
        for line in told(scores):
            say(f"tumours: {line}")
        if scores["background_difference"]:
            raise RuntimeError(f"voxels beyond what is blended differ by up to {scores['background_difference']:g}")

    def _real_tumours(self, opened: OpenRun) -> list[dict[str, Any]]:
        """Levels and contrasts of real tumours in the volumes' kind of image; none without labels."""
        work = Pass("real tumours", None, opened.recipe.storage.options, say, unit="volumes")
        found = work.tasks(partial(measured, self.job.axis), {source.ref.id: source for source in self.real})
        return [own for own in found if own is not None]

    def _for_readers(self, opened: OpenRun, job: Inserting, made: Sequence[Mapping[str, Any]]) -> None:
        """Slices for blinded readers, in the run's folder alone: MLflow shows answers to everybody."""
        shown = reader_slices(self.cases, made, self.real, _written(job), job)
        for path, content in sheet_files(shown).items():
            write_whole(join(opened.run.folder, path), content, job.options)
        folder = join(opened.run.folder, READER)
        opened.result.artefacts |= {"reader": folder, "reader_answers": join(opened.run.folder, ANSWERS)}
        real = "with tumours of their own" if self.real else "without a tumour, for no volume has a labelled one"
        fewer = "" if len(shown) >= job.settings.readers - 1 else f", of {job.settings.readers} that were asked for"
        say(f"readers: {len(shown)} slices{fewer}, half of them real ones {real}; {folder}")

    def preview(self, job: Inserting, made: Sequence[Mapping[str, Any]]) -> bytes:
        """PNG of the fullest slice of some volumes: before, pasted, made, with the tumour as it was laid.

        What was made is read as the data set that was written.
        """
        written = _written(job)
        columns: dict[str, list[np.ndarray]] = {"before": [], "pasted": [], "inserted": []}
        masks, rows = [], []
        for k in chosen_rows(np.arange(len(made)), self.recipe.insertion.pictures):
            case, plane = self.cases[k], int(made[k]["largest"])
            scene = opened_scene(case, job)
            volume = written[case.name].open()
            layers = layers_of("tumour", len(case.target.channels))
            image = np.stack([volume.read(layer, whole(volume)) for layer in layers])
            pasted, _ = composed(scene, case, job, None)
            for column, own in zip(
                columns.values(), (scene.image, pasted, np.moveaxis(image, 1 + job.axis, 1)), strict=True
            ):
                column.append(2 * scene.range.levels(own)[:, plane] - 1)
            masks.append(scene.mask[plane].astype(np.uint8))
            rows.append(case.target.ref.id)
        shown: dict[str, list[np.ndarray]] = {}
        for name, images in columns.items():
            shown |= by_channel(name, images, self.cases[0].target.channels)
        return image_grid({**shown, "tumour": masks}, rows=rows)


def _written(job: Inserting) -> dict[str, VolumeRef]:
    """The volumes of the data set that was written, by id."""
    described = resolve_data(Data(path=job.folder), job.options)
    return {ref.id: ref for ref in volume_refs(described, job.options)}


def _classes(targets: Sources, tumour: str) -> tuple[Sources, tuple[str, ...], bool]:
    """(targets with the class that is the tumour, classes that are written, whether all of their labels are).

    Where only some volumes have labels, what else these show would be background in the others.
    """
    labelled = [source for source in targets.all if source.ref.labelled]
    kept = len(labelled) in (0, len(targets.all))
    names = label_classes(labelled[0].ref) if labelled and kept else ("background",)
    classes = names if tumour in names else (*names, tumour)

    def known(source: Source) -> Source:
        own = label_classes(source.ref) if source.ref.labelled else ()
        return replace(source, tumour=own.index(tumour) if tumour in own else 0)

    return targets._replace(all=tuple(known(source) for source in targets.all)), classes, kept
