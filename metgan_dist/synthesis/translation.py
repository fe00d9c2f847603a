"""Whole volumes of one domain translated into the other: a data set of synthetic volumes with their originals' labels.

The folder `volumes` of the run is a data set: its dataset.yaml, written last, lists volumes of the domain that they
imitate, of their originals' patients, all to be trained on, and says in `synthesis` how they were made. A task of Ray's
translates one volume; one that is there is not made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import ray
import yaml

from metgan_dist.errors import UserError
from metgan_dist.figures import by_channel, image_grid
from metgan_dist.lineage.records import Records
from metgan_dist.lineage.volumes import located
from metgan_dist.recipe import Data, Domain, Recipe, Synthesis, Tiles, class_names, class_numbers
from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun
from metgan_dist.storage import exists, join, read_bytes, write_whole
from metgan_dist.synthesis.crew import Crew
from metgan_dist.synthesis.model import Model
from metgan_dist.synthesis.originals import Original, chosen_originals, originals
from metgan_dist.synthesis.passes import Pass, remove_markers
from metgan_dist.synthesis.target_range import joint_type, median_ranges
from metgan_dist.synthesis.translating import Translation, as_seen, translator
from metgan_dist.synthesis.voxel_grid import voxel_factors
from metgan_dist.tiles.intensity import normalise
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.tracking import tracking_uri
from metgan_dist.trained import run_of
from metgan_dist.volumes.dataset import DESCRIPTION, resolve_data, volume_refs
from metgan_dist.volumes.labelled import VolumeRef

FOLDER, MARKERS, PLAN = "volumes", "translated", "plan.json"
MOST = {"nifti": 2**31 - 1, "ome-zarr": 255, "images": 65535}  # the largest value of a label, by format
# Fields that say something of translated volumes; others are no matter of theirs.
SETTINGS = ("direction", "region", "overlap", "format", "seed", "batch_size", "threads")
ALLOWED = {*SETTINGS, "model", "tiles", "anatomies", "replicas", "pictures"}


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
        _check_given(command)
        back = settings.direction == "back"
        model.check_domains(tiles)
        by_role = {domain["role"]: name for name, domain in tiles.domains.items()}
        names = [by_role["tumour"], by_role["anatomy"]] if back else [by_role["anatomy"], by_role["tumour"]]
        source, target = (tiles.of_domain(name) for name in names)
        planes, left_out = chosen_originals(source, settings)
        chosen = source.index.index[source.index["volume"].isin(planes)].to_numpy()
        model.check_held_out(source, chosen, options)
        rules = _rules(tiles, names[0], settings)
        refs = _located(recipe, model, tiles)
        found = originals(source, planes, refs, names[1])
        form = _form(found, settings, rules)
        job = _job(recipe, model, source, target, rules, form)
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
        with opened.log() as log:
            log.dataset(f"volumes-{digest[:8]}", job.folder, digest, "generated", len(made))
        result.artefacts |= {"dataset": job.folder, "voxels_sha256": digest}
        result.resources["peak_rss_bytes"] = max(one["peak_rss_bytes"] for one in made)
        say(f"volumes: {len(made)} of the domain {self.target.domain!r}; {job.folder}")
        say(f"digest: {digest}")

    def _translated(self, job: Translation, markers: str, crew: Crew) -> list[dict[str, Any]]:
        """The markers of all volumes, in their order."""
        options, uri = job.options, join(markers, PLAN)
        begun = json.dumps(self.facts(job), sort_keys=True).encode()
        if not exists(uri, options) or read_bytes(uri, options) != begun:
            if exists(uri, options):
                say("translation: generator, tiles or settings have changed since this run began; it is started afresh")
            remove_markers(markers, options)
            write_whole(uri, begun, options)
        jobs = {original.name: original for original in self.originals}
        work = Pass("translation", markers, options, say, unit="volumes")
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
        parts = [[one["name"], one["sha256"]] for one in made]
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
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


def _check_given(command: Command) -> None:
    """UserError for a field on what is imposed on tiles, rather than ignoring it."""
    said = next((name for name in command.given.get("synthesis", {}) if name not in ALLOWED), None)
    if said is not None:
        raise UserError(
            f"synthesis.{said}: the generator was trained on two domains, and translates whole volumes with the labels "
            "that they have; leave it out"
        )


def _rules(tiles: TileSet, domain: str, settings: Synthesis) -> Tiles:
    """The section with which the tiles of a domain were cut; UserError for tiles that are no part of whole volumes."""
    own = Domain.model_validate(tiles.manifest["data"]["domains"][domain])
    rules, what = own.rules(Tiles.model_validate(tiles.manifest["tiles"])), None
    if rules.modality == "brain-dwi":
        what = "brain-dwi tiles, whose volumes are preprocessed as a whole"
    elif rules.kind == "projection":
        what = "projections, each of which shows many planes; train it on slices or crops"
    elif rules.kind == "slice" and "z" not in rules.views:
        what = f"views along {', '.join(rules.views)}; a volume is translated along z"
    if what is not None:
        raise UserError(f"synthesis.model: trained on {what}")
    if settings.region == "heart" and not rules.modality.startswith("cardiac"):
        raise UserError(
            f"synthesis.region: heart, but the tiles of {domain!r} were cut as {rules.modality}, from the whole "
            "volume; leave it out"
        )
    return rules


def _located(recipe: Recipe, model: Model, tiles: TileSet) -> dict[str, VolumeRef]:
    """The volumes of the tiles by id: in the data set at `data.path`, or where the runs that used the tiles say."""
    options = recipe.storage.options
    records = Records([tracking_uri(recipe.tracking, recipe.storage)], options)
    if (run := run_of(model.uri, options)) is not None:
        records.read_run(run["folder"])  # it names the MLflow store that knows the tiles
    place = None if recipe.data.path is None else resolve_data(recipe.data, options).path
    try:
        return located(tiles, records, "synthesis.tiles", place)
    except UserError as error:
        raise UserError(f"{error}; name the data set that they were cut from in data.path") from error


def _form(found: Sequence[Original], settings: Synthesis, rules: Tiles) -> str:
    """As what the volumes are written; UserError where that cannot be, or a volume does not say its voxel size."""
    volumes = [original.ref.open() for original in found]
    for volume in volumes:
        voxel_factors(rules, volume)
    separate = [original.planes is not None for original in found]
    if any(separate):
        if settings.format is not None or not all(separate):
            raise UserError(
                f"synthesis.format: {found[separate.index(True)].ref.id!r} is a folder of separate images, which are "
                "written as images, and volumes are not; leave the format out, and name one kind in synthesis.anatomies"
            )
        return "images"
    nowhere = next((volume for volume in volumes if volume.affine is None), None)
    if settings.format == "nifti" and nowhere is not None:
        raise UserError(
            f"synthesis.format: nifti, but volume {nowhere.id!r} says nothing of where its voxels lie; only what is "
            "made from a NIfTI volume can be written as one"
        )
    return settings.format or ("ome-zarr" if nowhere is not None else "nifti")


def _job(recipe: Recipe, model: Model, source: TileSet, target: TileSet, rules: Tiles, form: str) -> Translation:
    """What all volumes share, but for the folder and the device."""
    settings = recipe.synthesis
    values, classes = _written_labels(source, form)
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


def _written_labels(source: TileSet, form: str) -> tuple[tuple[int, ...], dict[int, str]]:
    """What is written of each class, background first, and the names of the others: the values of the label files.

    The first one of several of a class; numbers of classes where the format has no room for such values.
    """
    data = source.manifest["data"]
    named = {int(value): name for value, name in (data["labels"] or {}).items()}
    first: dict[int, int] = {0: 0}
    for value, number in class_numbers(named).items():
        first.setdefault(number, value)
    values = tuple(first.get(k, k) for k in range(data["classes"]))
    if not 0 <= min(values) <= max(values) <= MOST[form]:
        values = tuple(range(data["classes"]))
    names = class_names(named) if named else tuple(f"class {k}" for k in range(data["classes"]))
    return values, {value: names[k] for k, value in enumerate(values) if k}
