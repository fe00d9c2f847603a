"""What segment_volumes.py does with volumes: a trained segmentor labels them as they lie on disk, whole.

The folder `volumes` of the run has a label file for each volume, on the volume's own voxels. Its dataset.yaml, written
last, is a data set of those that are not held out, with these labels in place of their own, and says in `synthesis`
which segmentor found them: tiles cut from it train on pseudo-labels. A task of Ray's labels one volume; one that is
there is not made again.
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
from metgan_dist.evaluation.segmented_volumes import goes_back, located_models
from metgan_dist.figures import image_grid
from metgan_dist.lineage.records import LABELLED, TRANSLATOR, VOXELS
from metgan_dist.lineage.untouched import HELD_OUT
from metgan_dist.lineage.volumes import file_digests
from metgan_dist.methods.segmentor import Segmentor
from metgan_dist.recipe import Data, Recipe
from metgan_dist.recipe.labels import by_file
from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun, run_recipe
from metgan_dist.scores.surface import SURFACE_SCORES
from metgan_dist.storage import join, write_whole
from metgan_dist.synthesis.crew import Crew, quiet_pools
from metgan_dist.synthesis.insertion_sources import one_image, only_channel
from metgan_dist.synthesis.labelling import Labelling, labeller
from metgan_dist.synthesis.passes import Pass, begin_pass
from metgan_dist.synthesis.translation_plan import check_parts, label_values, written_form
from metgan_dist.synthesis.volume_files import record_set, set_digest
from metgan_dist.synthesis.voxel_grid import voxel_factors
from metgan_dist.tiles.intensity import normalise
from metgan_dist.tiles.tile_set import chosen_rows
from metgan_dist.trained import checkpoint_recipe, load_method
from metgan_dist.volumes.dataset import DESCRIPTION, resolve_data, volume_refs
from metgan_dist.volumes.labelled import VolumeRef
from metgan_dist.volumes.layers import layers_of
from metgan_dist.volumes.open import open_volume

FOLDER, MARKERS, VOLUMES, OBJECTS = "volumes", "labelled", "volumes.csv", "objects.csv"
SCORES = ("dice", *SURFACE_SCORES)
SHOWN = (1, 99)  # percentiles that are black and white in pictures
NOT_OF_IMAGES = {"id", "path", "label", "label_axes", "split", "healthy"}  # of a volume's entry
AT_ONCE = 4  # tiles of 256 x 256 pixels in one forward pass


def label_volumes(command: Command, tags: Mapping[str, str]) -> str:
    """The job, where its data are volumes; `tags`: of the MLflow run."""
    quiet_pools(command)
    command = replace(command, recipe=command.recipe.model_copy(update={"data": command.own_data}))
    planned = VolumeLabels.planned(command.recipe)
    return run_recipe(command, "segment_volumes", planned.carry_out, tags)


@dataclass(frozen=True)
class VolumeLabels:
    """Volumes that can be labelled: which, by what, and what all of them share (`job`, but for the folder).

    models: on record (uri, sha256, method, run) by field of `segmentation`; data: the resolved data set.
    """

    recipe: Recipe
    models: Mapping[str, dict[str, Any]]
    data: Data
    refs: tuple[VolumeRef, ...]
    job: Labelling

    @staticmethod
    def planned(recipe: Recipe) -> VolumeLabels:
        """Everything that can be checked before a cluster is touched; UserError in one line for what does not fit."""
        settings, options = recipe.segmentation, recipe.storage.options
        if recipe.data.path is None and not recipe.data.volumes:
            raise UserError("data.path: none given; name the volumes that are to be labelled, or tiles to be scored on")
        models = located_models(recipe)
        segmentor, theirs = load_method(str(models["segmentor"]["uri"]), options)
        assert isinstance(segmentor, Segmentor)
        check_parts(theirs.tiles, "segmentation.segmentor")
        data = _with_image(resolve_data(recipe.data, options), theirs, recipe)
        refs = _chosen(data, recipe)
        _check_channels(refs, theirs, models)
        rules = data.rules(theirs.tiles, refs[0].domain)
        volumes = [ref.open() for ref in refs]
        for volume in volumes:
            voxel_factors(rules, volume)
        form = written_form(volumes, settings.format, "segmentation", "segmentation.volumes")
        values, classes = label_values(_labels(theirs.data), theirs.data.classes, form)
        translator, back = None, False
        window: tuple[int, ...] = ()
        if "translator" in models:
            translator = str(models["translator"]["uri"])
            back = goes_back(translator, options, refs[0].domain or None, len(refs[0].tumour), rules)
            window = checkpoint_recipe(translator, options).tiles.shape
        job = Labelling(
            segmentor=str(models["segmentor"]["uri"]),
            tiles=rules,
            threshold=segmentor.network.threshold,
            translator=translator,
            window=window,
            back=back,
            label_values=values,
            classes=classes,
            truth=data.classes == theirs.data.classes,
            form=form,
            folder="",
            overlap=settings.overlap,
            at_once=AT_ONCE,
            precision=recipe.training.precision,
            threads=settings.threads,
            device="cpu",
            options=options,
        )
        return VolumeLabels(recipe, models, data, refs, job)

    def carry_out(self, opened: OpenRun) -> None:
        """The work of the job; what an earlier start of the run finished is not made again.

        The result gets the artefacts `dataset`, `preview`, `volumes` and `objects`, and mean scores where labels of
        the volumes' own have the same classes.
        """
        result = opened.result
        crew = Crew.of(self.recipe.segmentation, opened.plan, ray.available_resources())
        job = replace(self.job, folder=join(opened.run.folder, FOLDER), device=crew.device)
        through = "" if job.translator is None else f", translated by {self.models['translator']['method']} first"
        say(f"labels: {len(self.refs)} volume(s){through}; {crew}")
        with result.phase("labels"):
            made = self._labelled(job, join(opened.run.folder, MARKERS), crew)
        digest = self.describe(job, made)
        with result.phase("scores"):
            self._keep_tables(opened, made)
        with result.phase("preview"):
            opened.keep({"preview.png": self.preview(job, made)}, {"preview.png": "preview"})
        record_set(opened, job.folder, digest, made)
        result.artefacts |= {field: str(model["uri"]) for field, model in self.models.items()}
        say(f"labels: {len(made)} volume(s); {job.folder}")
        say(f"digest: {digest}")

    def _labelled(self, job: Labelling, markers: str, crew: Crew) -> list[dict[str, Any]]:
        """What is known of all volumes, in their order."""
        afresh = "labels: models, volumes or settings have changed since this run began; it is started afresh"
        files = [[ref.id, file_digests(ref)] for ref in self.refs]
        begin_pass(markers, {**self.facts(job), "files": files}, job.options, say, afresh)
        work = Pass("labels", markers, job.options, say, unit="volumes")
        made = list(work.crewed(partial(labeller, job), {ref.id: ref for ref in self.refs}, crew))
        by_name = {str(one["name"]): one for one in made}
        return [by_name[ref.id] for ref in self.refs]

    def facts(self, job: Labelling) -> dict[str, Any]:
        """What the labels follow from: the data set's section `synthesis` without the volumes."""
        return {
            "model": self.models["segmentor"],
            TRANSLATOR: self.models.get("translator"),
            "tiles": None,
            LABELLED: {"uri": self.data.path, VOXELS: (self.data.synthesis or {}).get(VOXELS)},
            "settings": {
                "overlap": job.overlap,
                "format": job.form,
                "precision": job.precision,
                "rules": job.tiles.model_dump(mode="json"),
            },
        }

    def describe(self, job: Labelling, made: Sequence[Mapping[str, Any]]) -> str:
        """Write the dataset.yaml of the volumes that are not held out; the SHA-256 of all labels."""
        digest = set_digest((one["name"], one["sha256"]) for one in made)
        free = [(ref, one) for ref, one in zip(self.refs, made, strict=True) if ref.split not in HELD_OUT]
        if not free:
            return digest
        listed = [
            {
                "id": ref.id,
                "volume": ref.id,
                "patient": ref.patient,
                VOXELS: one["sha256"],
                "files": file_digests(ref),
            }
            for ref, one in free
        ]
        written = {
            **self._head(job),
            "synthesis": {**self.facts(job), "volumes": listed, VOXELS: digest},
            "volumes": [self._entry(ref, one) for ref, one in free],
        }
        text = yaml.safe_dump(written, sort_keys=False, allow_unicode=True)
        write_whole(join(job.folder, DESCRIPTION), text.encode(), job.options)
        return digest

    def _head(self, job: Labelling) -> dict[str, Any]:
        """Channels or domain, classes and orientation of the data set."""
        data, domain = self.data, self.refs[0].domain
        head: dict[str, Any] = {"anatomy": "", "tumour": data.tumour}
        if domain:
            own = data.domains[domain].model_dump(mode="json", exclude_none=True, exclude={"labels", "unmapped"})
            head = {"domains": {domain: own}, "target": domain}
        turned = {"orientation": data.orientation} if data.orientation else {}
        return {**head, "labels": job.classes, **turned}

    def _entry(self, ref: VolumeRef, made: Mapping[str, Any]) -> dict[str, Any]:
        """A volume as the data set lists it: its own files where they are, with the label that was found."""
        said = {"organ": ref.organ, "patient": ref.patient, "domain": ref.domain}
        told = {key: value for key, value in said.items() if value}
        if "path" not in made["entry"]:
            theirs = ref.entry.model_dump(mode="json", exclude_defaults=True, exclude=NOT_OF_IMAGES)
            path = ref.entry.path
            there = {k: join(ref.base, one) for k, one in path.items()} if isinstance(path, dict) else ref.paths[0]
            return {"id": ref.id, **theirs, "path": there, **told, **made["entry"], "split": "train"}
        return {"id": ref.id, **told, **made["entry"], "split": "train"}

    def _keep_tables(self, opened: OpenRun, made: Sequence[Mapping[str, Any]]) -> None:
        """A row a volume and a row an object, and the means of scores over volumes, by class."""
        names = dict(enumerate(self.job.classes.values(), start=1))
        rows, things = [], []
        for ref, one in zip(self.refs, made, strict=True):
            facts = {"volume": ref.id, "patient": ref.patient, "split": ref.split}
            sizes = {f"voxels/{name}": one["voxels"][k] for k, name in names.items()}
            scores = {f"{score}/{names[int(k)]}": value for score, k, value in _split(one["scores"])}
            rows.append({**facts, **sizes, **scores})
            things += [{"volume": ref.id, **thing, "class": names[int(thing["class"])]} for thing in one["objects"]]
        table, found = pd.DataFrame(rows), pd.DataFrame(things)
        opened.keep(
            {VOLUMES: table.to_csv(index=False).encode(), OBJECTS: found.to_csv(index=False).encode()},
            {VOLUMES: "volumes", OBJECTS: "objects"},
        )
        scored = table[[name for name in table if name.partition("/")[0] in SCORES]].astype(float)
        means = {str(name): float(column.mean()) for name, column in scored.items() if column.notna().any()}
        opened.result.scores["labels"] = {"objects": len(found), **means}
        dice = [f"Dice of {name[5:]} {value:.3f}" for name, value in means.items() if name.startswith("dice/")]
        shown = f"; {', '.join(dice)} (means of volumes with labels)" if dice else ""
        say(f"labels: {len(found)} object(s){shown}")

    def preview(self, job: Labelling, made: Sequence[Mapping[str, Any]]) -> bytes:
        """PNG of some volumes: the image as the network sees it through the fullest plane, and what was found there."""
        images, labels, rows = [], [], []
        for k in chosen_rows(np.arange(len(made)), self.recipe.segmentation.pictures):
            ref, volume = self.refs[k], self.refs[k].open()
            plane, entry = int(made[k]["plane"]), made[k]["entry"]
            place = join(job.folder, entry["path"], "labels", entry["label"]) if "path" in entry else entry["label"]
            found = open_volume(join(job.folder, place), options=job.options, orientation=ref.orientation)
            part = ((plane, plane + 1), (0, volume.shape[1]), (0, volume.shape[2]))
            voxels = volume.read(layers_of("tumour", len(ref.tumour))[0], part)[0]
            low, high = (float(np.percentile(voxels, share)) for share in SHOWN)
            images.append(normalise(voxels, low, max(high, low + 1e-6), clip=True))
            values = np.array(job.label_values)
            order = np.argsort(values)
            labels.append(
                order[np.searchsorted(values[order], found.read(found.channels[0], part)[0])].astype(np.uint8)
            )
            rows.append(f"{ref.id}, z {plane}")
        return image_grid({"image": images, "found": labels}, rows=rows)


def _with_image(data: Data, theirs: Recipe, recipe: Recipe) -> Data:
    """A resolved data set whose target, or tumour image, is what is to be labelled; UserError for an unknown domain.

    Where neither set nor recipe says which channel that is, it is the one that the segmentor was trained on, or the
    only one of a single volume.
    """
    name = recipe.segmentation.domain
    if data.domains:
        name = {"source": data.source, "target": data.target, None: data.target}.get(name, name)
        if name not in (data.source, data.target):
            known = ", ".join(data.domains)
            raise UserError(f"segmentation.domain: {name!r} is no domain of {data.path}, which has {known}")
        other = data.target if name == data.source else data.source
        return data.model_copy(update={"source": other, "target": name})
    if name is not None:
        raise UserError(f"segmentation.domain: {name!r}, but {data.path} has no domains; leave it out")
    options = recipe.storage.options
    data = one_image(data)
    if "tumour" in data.model_fields_set:
        return data
    own = only_channel(data, options)
    return own if "tumour" in own.model_fields_set else data.model_copy(update={"tumour": theirs.data.tumour})


def _chosen(data: Data, recipe: Recipe) -> tuple[VolumeRef, ...]:
    """The volumes that have the image, or those of them that are named; UserError for unknown ones, or none."""
    refs = {ref.id: ref for ref in volume_refs(data, recipe.storage.options) if ref.tumour}
    named = recipe.segmentation.volumes
    if unknown := next((name for name in named if name not in refs), None):
        raise UserError(f"segmentation.volumes: {data.path} has no volume {unknown!r} with an image to be labelled")
    if not refs:
        raise UserError(f"data.path: {data.path}: no volume with an image to be labelled")
    return tuple(refs[name] for name in named) if named else tuple(refs.values())


def _check_channels(refs: Sequence[VolumeRef], theirs: Recipe, models: Mapping[str, Any]) -> None:
    """UserError where the segmentor was trained on images of another number of channels, and none translates them."""
    wanted = theirs.data.channel_numbers[1]
    if "translator" not in models and len(refs[0].tumour) != wanted:
        raise UserError(
            f"segmentation.segmentor: trained on images of {wanted} channel(s), and data.tumour names "
            f"{', '.join(refs[0].tumour)}"
        )


def _labels(data: Data) -> dict[int, str]:
    """Values and names of the classes that a segmentor learned; none where nobody names them, or several files do."""
    own = (data.domains[name].labels for name in (data.target, data.source) if name in data.domains)
    files = by_file(data.labels or next((labels for labels in own if labels), None) or {})
    return dict(next(iter(files.values()))) if len(files) == 1 else {}


def _split(scores: Mapping[str, float | None]) -> list[tuple[str, str, float | None]]:
    """(score, class, value) of `dice_1` and so on."""
    parts = ((name.rpartition("_"), value) for name, value in scores.items())
    return [(score, number, value) for (score, _, number), value in parts]
