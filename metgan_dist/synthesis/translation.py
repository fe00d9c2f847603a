"""Whole volumes of one domain translated into the other: a data set of synthetic volumes with their originals' labels.

The folder `volumes` of the run is a data set: its dataset.yaml, written last, lists volumes of the domain that they
imitate, of their originals' patients, all to be trained on, and says in `synthesis` how they were made. A task of Ray's
translates one volume; one that is there is not made again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import ray
import yaml

from metgan_dist.figures import by_channel, image_grid
from metgan_dist.recipe import Data, Recipe
from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun
from metgan_dist.storage import join, write_whole
from metgan_dist.synthesis.crew import Crew
from metgan_dist.synthesis.model import Model
from metgan_dist.synthesis.originals import Original, chosen_originals, originals
from metgan_dist.synthesis.passes import Pass, begin_pass
from metgan_dist.synthesis.translating import Translation, as_seen, translator
from metgan_dist.synthesis.translation_plan import (
    ALLOWED,
    SETTINGS,
    check_given,
    form_of,
    located_volumes,
    rules_of,
    shared_job,
)
from metgan_dist.synthesis.volume_files import record_set, set_digest
from metgan_dist.tiles.intensity import normalise
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.volumes.dataset import DESCRIPTION, resolve_data, volume_refs

FOLDER, MARKERS = "volumes", "translated"


@dataclass(frozen=True)
class VolumeTranslation:
    """Volumes that can be translated: what they are, by which generator, and what the result is to look like.

    tiles: that the volumes were cut into; source, target: those of the domain that is translated, and of the one that
    is imitated; left_out: lines on volumes that are not translated; job: what all volumes share, but for the folder.
    """

    recipe: Recipe
    model: Model
    tiles: TileSet
    source: TileSet
    target: TileSet
    originals: tuple[Original, ...]
    left_out: tuple[str, ...]
    job: Translation

    @staticmethod
    def planned(command: Command, model: Model, tiles: TileSet) -> VolumeTranslation:
        """Everything that can be checked before a cluster is touched; UserError in one line for what does not fit."""
        recipe = command.recipe
        settings, options = recipe.synthesis, recipe.storage.options
        why = "the generator was trained on two domains, and translates whole volumes with the labels that they have"
        check_given(command, ALLOWED, why)
        back = settings.direction == "back"
        model.check_domains(tiles)
        by_role = {domain["role"]: name for name, domain in tiles.domains.items()}
        names = [by_role["tumour"], by_role["anatomy"]] if back else [by_role["anatomy"], by_role["tumour"]]
        source, target = (tiles.of_domain(name) for name in names)
        planes, left_out = chosen_originals(source, settings)
        chosen = source.index.index[source.index["volume"].isin(planes)].to_numpy()
        model.check_held_out(source, chosen, options)
        rules = rules_of(tiles, names[0], settings)
        refs = located_volumes(recipe, model, tiles)
        found = originals(source, planes, refs, names[1])
        form = form_of(found, settings, rules)
        job = shared_job(recipe, model, source, target, rules, form)
        return VolumeTranslation(recipe, model, tiles, source, target, tuple(found), tuple(left_out), job)

    @property
    def tags(self) -> dict[str, str]:
        """For the MLflow run: the generator, and the run that trained it."""
        return self.model.tags

    def carry_out(self, opened: OpenRun) -> None:
        """The work of the job; what an earlier start of the run finished is not made again.

        The result gets the artefacts `dataset` and `preview`.
        """
        result = opened.result
        job = replace(self.job, folder=join(opened.run.folder, FOLDER))
        for line in self.left_out:
            say(f"volumes of {self.source.domain}: {line}")
        with opened.log() as log:
            name, count = f"tiles-{self.tiles.digest[:8]}", len(self.source.index)
            log.dataset(name, self.tiles.uri, self.tiles.digest, "source", count)
        crew = Crew.of(opened.recipe.synthesis, opened.plan, ray.available_resources())
        job = replace(job, device=crew.device)
        say(
            f"translation: {len(self.originals)} volume(s) of {self.source.domain} into {self.target.domain} by "
            f"{self.model.recipe.method.name} in {self.model.uri}; {crew}"
        )
        with result.phase("translation"):
            made = self._translated(job, join(opened.run.folder, MARKERS), crew)
        digest = self.describe(job, made)
        with result.phase("preview"):
            opened.keep({"preview.png": self.preview(job)}, {"preview.png": "preview"})
        record_set(opened, job.folder, digest, made)
        say(f"volumes: {len(made)} of the domain {self.target.domain!r}; {job.folder}")
        say(f"digest: {digest}")

    def _translated(self, job: Translation, markers: str, crew: Crew) -> list[dict[str, Any]]:
        """The markers of all volumes, in their order."""
        afresh = "translation: generator, tiles or settings have changed since this run began; it is started afresh"
        begin_pass(markers, self.facts(job), job.options, say, afresh)
        jobs = {original.name: original for original in self.originals}
        work = Pass("translation", markers, job.options, say, unit="volumes")
        made = list(work.crewed(partial(translator, job), jobs, crew))
        by_name = {str(one["name"]): one for one in made}
        return [by_name[name] for name in jobs]

    def facts(self, job: Translation) -> dict[str, Any]:
        """What the voxels follow from, and where that came from: the data set's section `synthesis` without volumes."""
        settings = self.recipe.synthesis.model_dump(mode="json", include=set(SETTINGS))
        return {
            "model": self.model.facts,
            "tiles": {"uri": self.tiles.uri, "digest": self.tiles.digest},
            "settings": settings | {"format": job.form, "precision": job.precision},
            "from": self.source.domain,
            "intensities": {"low_and_high": [list(ends) for ends in job.ranges], "dtype": job.dtype},
        }

    def describe(self, job: Translation, made: list[dict[str, Any]]) -> str:
        """Write the dataset.yaml, which makes the folder a data set; the SHA-256 of all voxels."""
        digest = set_digest((one["name"], one["sha256"]) for one in made)
        listed = [
            {"id": one["name"], "volume": own.ref.id, "patient": own.ref.patient, "voxels_sha256": one["sha256"]}
            for own, one in zip(self.originals, made, strict=True)
        ]
        written = {
            **self._head(job),
            "synthesis": {**self.facts(job), "volumes": listed, "voxels_sha256": digest},
            "volumes": [self._entry(own, one) for own, one in zip(self.originals, made, strict=True)],
        }
        text = yaml.safe_dump(written, sort_keys=False, allow_unicode=True)
        write_whole(join(job.folder, DESCRIPTION), text.encode(), job.options)
        return digest

    def _head(self, job: Translation) -> dict[str, Any]:
        """Domain, classes and orientation of the data set."""
        data, name = self.tiles.manifest["data"], str(self.target.domain)
        own = data["domains"][name]
        fields = {key: own[key] for key in ("channels", "modality", "normalise", "percentiles") if own[key]}
        named = {"labels": job.classes} if self.source.manifest["data"]["labels"] else {"classes": data["classes"]}
        turned = {"orientation": data["orientation"]} if job.form == "nifti" and data["orientation"] else {}
        return {"domains": {name: fields}, "target": name, **named, **turned}

    def _entry(self, original: Original, made: Mapping[str, Any]) -> dict[str, Any]:
        """A volume as the data set lists it."""
        facts = {"domain": self.target.domain, "organ": original.ref.organ, "patient": original.ref.patient}
        told = {key: value for key, value in facts.items() if value}
        return {"id": original.name, **made["entry"], **told, "split": "train"}

    def preview(self, job: Translation) -> bytes:
        """PNG of some volumes: source on the generator's voxels, label, translated; three cuts, or the fullest plane.

        The translated ones are read as the data set that was written.
        """
        written = {ref.id: ref for ref in volume_refs(resolve_data(Data(path=job.folder), job.options), job.options)}
        count = min(self.recipe.synthesis.pictures, len(self.originals))
        chosen = [
            self.originals[n] for n in np.unique(np.linspace(0, len(self.originals) - 1, count).round().astype(int))
        ]
        sources, labels, images = [], [], []
        for original in chosen:
            seen, made = as_seen(original.ref.open(), original, job), written[original.name].open()
            z, y, x = made.shape
            layers = [layer for layer in made.dtypes if layer != "label"]
            image = np.stack(
                [
                    normalise(made.read(layer, ((0, z), (0, y), (0, x))), *ends, clip=True)
                    for layer, ends in zip(layers, job.ranges, strict=True)
                ]
            )
            label = np.zeros(seen.image.shape[1:], np.uint8) if seen.label is None else seen.label
            plane = slice(None) if job.tiles.dimensions == 3 else int((label > 0).sum(axis=(1, 2)).argmax())
            sources.append(seen.image[:, plane])
            labels.append(label[plane])
            images.append(image[:, plane])
        columns = {
            **by_channel(str(self.source.domain), sources, self.source.channels("tumour")),
            "label": labels,
            **by_channel(f"as {self.target.domain}", images, self.target.channels("tumour")),
        }
        return image_grid(columns, rows=[original.ref.id for original in chosen])
