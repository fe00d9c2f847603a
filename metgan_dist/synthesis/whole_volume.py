"""A whole volume filled by a generator: the synthetic tumour channels as an OME-Zarr with pyramid and label.

Four passes over blocks on Ray: the anatomy is measured, so that one intensity range holds for the volume (or one for
each plane, where the generator was trained so); the finest level is generated from overlapping tiles; coarser levels
are averaged from it; the seams are scored on what was written. No process holds more than a block of the volume.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import ray

from metgan_dist.code_version import code_version
from metgan_dist.figures import by_channel, image_grid
from metgan_dist.recipe import Recipe
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun
from metgan_dist.storage import exists, join, read_json, write_whole
from metgan_dist.synthesis.crew import Crew
from metgan_dist.synthesis.filling import Filling, filler
from metgan_dist.synthesis.model import tags_of
from metgan_dist.synthesis.passes import Pass, remove_markers
from metgan_dist.synthesis.seams import SeamJob, SeamSums, measure_seams, seam_scores
from metgan_dist.synthesis.slabs import Survey, SurveyJob, projected, survey_planes
from metgan_dist.synthesis.source_volume import SourceVolume
from metgan_dist.tiles.intensity import normalise
from metgan_dist.tiles.ranges import check_volume
from metgan_dist.volumes import ome_zarr_writer as ome
from metgan_dist.volumes.layers import Layer
from metgan_dist.volumes.nifti_writer import write_nifti
from metgan_dist.volumes.volume import Range, Region

TARGET, MARKERS, PLAN = "synthetic.ome.zarr", "volume", "plan.json"
ATTRIBUTE = "metgan_dist"
PREVIEW_EDGE, PREVIEW_PLANES = 512, 4


def fill_volume(opened: OpenRun) -> None:
    """Check and carry out in one go; see `VolumeSynthesis`."""
    VolumeSynthesis.planned(opened.recipe).carry_out(opened)


@dataclass(frozen=True)
class VolumeSynthesis:
    """A whole volume that can be made: `synthetic.ome.zarr` in the run's folder.

    Its channels have the names, the type and the intensities of the training data's tumour channels: the generator's -1
    and 1 become the median low and high of the training tiles, one range of a channel for the whole volume, so that
    brightness does not jump between planes.
    """

    source: SourceVolume

    @staticmethod
    def planned(recipe: Recipe) -> VolumeSynthesis:
        """Everything that can be checked before a cluster is touched; UserError in one line for what does not fit."""
        return VolumeSynthesis(SourceVolume.of(recipe))

    @property
    def tags(self) -> dict[str, str]:
        """For the MLflow run: the generator, and the run that trained it."""
        return tags_of(self.source.model)

    def carry_out(self, opened: OpenRun) -> None:
        """The work of the job; what an earlier start of the run finished is not made again.

        The result gets the artefacts `volume` and `preview`, the scores `seams`, and the largest memory of a replica.

        Raises UserError for label values that are no class of the generator and for a volume that is constant.
        """
        work, result = _Work(self.source, opened.run.folder), opened.result
        crew = Crew.of(opened.recipe.synthesis, opened.plan, ray.available_resources())
        with result.phase("survey"):
            plan = work.surveyed()
        with result.phase("synthesis"):
            blocks = work.filled(plan, crew)
        with result.phase("pyramid"):
            work.coarsened()
        with result.phase("seams"):
            seams = work.seams()
        digest = work.finish(plan, blocks)
        if self.source.as_nifti:
            with result.phase("nifti"):
                result.artefacts |= work.nifti(opened.run.folder)
        opened.keep({"preview.png": work.preview(plan)}, {"preview.png": "preview"})
        with opened.log() as log:
            log.dataset(f"volume-{digest[:8]}", work.target, digest, "generated", self.source.volume.shape[0])
        result.scores["seams"] = seams
        result.artefacts |= {"volume": work.target, "voxels_sha256": digest}
        result.resources["peak_rss_bytes"] = max(block["peak_rss_bytes"] for block in blocks)
        ratio = "there are none" if seams["ratio"] is None else f"{seams['ratio']:.3f}"
        say(f"volume: {work.target}; gradient across tile borders against inside tiles: {ratio}")


class _Work:
    """The passes over one volume, in the order in which they are made."""

    def __init__(self, source: SourceVolume, folder: str) -> None:
        self.source, self.options = source, source.options
        self.target, self.markers = join(folder, TARGET), join(folder, MARKERS)
        self.levels = ome.plan_levels(source.volume.shape, source.volume.spacing)

    def surveyed(self) -> dict[str, Any]:
        """What is made from what and in which ranges, measured or as an earlier start noted it; the arrays exist."""
        uri, provenance, source = join(self.markers, PLAN), self.source.provenance, self.source
        if exists(uri, self.options):
            plan = read_json(uri, self.options, holding=("provenance",))
            if plan["provenance"] == provenance:
                return plan
            say("volume: generator, volume or tiles have changed since this run began; it is started afresh")
        remove_markers(self.markers, self.options)
        z, step = source.volume.shape[0], ome.chunks_and_shards(source.volume.shape)[1][0]
        spans = [(first, min(first + step, z)) for first in range(0, z, step)]
        surveys = [self._survey(spans, layer) for layer in source.anatomy]
        plan = {
            "provenance": provenance,
            "ranges": [[list(limits) for limits in survey.ranges()] for survey in surveys],
            "over": surveys[0].over,
            "tumour": [list(limits) for limits in source.tumour_ranges],
            "dtype": source.tumour_dtype,
        }
        channels = len(source.channels)
        ome.create_image(self.target, self.levels, plan["dtype"], source.label_name, self.options, channels)
        write_whole(uri, json.dumps(plan).encode(), self.options)
        return plan

    def _survey(self, spans: Sequence[Range], layer: Layer) -> Survey:
        """One layer of the anatomy measured; UserError where it is constant."""
        source, survey = self.source, Survey(self.source.tiles)
        jobs = {f"{span[0]}": SurveyJob(source.ref, span, source.tiles, source.layout.depth, layer) for span in spans}
        for part in self._pass("survey", marked=False).tasks(survey_planes, jobs):
            survey.add(part)
        assert survey.histogram is not None
        check_volume([survey.histogram], source.tiles, source.ref.id, source.volume.described(layer))
        return survey

    def filled(self, plan: dict[str, Any], crew: Crew) -> list[dict[str, Any]]:
        """The finest level; what was noted of each block, in the order of their regions."""
        source, regions = self.source, self._regions(self.levels[0])
        layout = source.layout
        planes = source.volume.shape[0] if layout.planes is None else 1
        tiles = planes * math.prod(len(axis.starts) for axis in layout.axes)
        say(f"volume: {source.volume.shape} voxels in {len(regions)} blocks, {tiles} tiles; {crew}")
        filling = Filling.of(source, plan, self.target, crew.device)
        blocks = list(self._pass("synthesis").crewed(partial(filler, filling), regions, crew))
        return sorted(blocks, key=lambda block: block["region"])

    def coarsened(self) -> None:
        """The coarser levels of image and label, each from the one before."""
        for finer, coarser in zip(self.levels, self.levels[1:], strict=False):
            step = tuple(new // old for new, old in zip(coarser.factor, finer.factor, strict=True))
            jobs = {
                name: ome.CoarserJob(
                    self.target,
                    self.source.label_name,
                    finer.path,
                    coarser.path,
                    region,
                    (step[0], step[1], step[2]),
                    self.options,
                )
                for name, region in self._regions(coarser).items()
            }
            for _ in self._pass(f"level {coarser.path}").tasks(ome.coarsen_block, jobs):
                pass

    def seams(self) -> dict[str, Any]:
        """Scores of the written volume (see `seams`)."""
        borders = tuple(axis.borders for axis in self.source.layout.axes)
        jobs = {
            name: SeamJob(self.target, region, borders, self.options)
            for name, region in self._regions(self.levels[0]).items()
        }
        sums = [SeamSums.none(len(borders))] * len(self.source.channels)
        for part in self._pass("seams", marked=False).tasks(measure_seams, jobs):
            sums = [known + own for known, own in zip(sums, part, strict=True)]
        return seam_scores(sums, self.source.channels)

    def finish(self, plan: dict[str, Any], blocks: list[dict[str, Any]]) -> str:
        """Write the metadata, which make the folder an OME-Zarr; the SHA-256 of all voxels."""
        source, dtype, ranges = self.source, np.dtype(plan["dtype"]), plan["tumour"]
        content = [list(source.volume.shape), str(dtype), *(block["sha256"] for block in blocks)]
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        scales = {
            name: ome.multiscales(name, self.levels, source.volume.spacing, channel_axis=channel)
            for name, channel in (("synthetic", True), (source.label_name, False))
        }
        possible = (0.0, float(np.iinfo(dtype).max)) if dtype.kind == "u" else None
        channels = [
            ome.channel(name, colour, (low, high), possible or (low, high))
            for name, colour, (low, high) in zip(source.channels, itertools.cycle(ome.COLOURS), ranges, strict=False)
        ]
        image = ome.image_metadata(scales["synthetic"], channels)
        anatomy = [_extent(planes) | {"over": plan["over"]} for planes in plan["ranges"]]
        tumour = [{"low": low, "high": high, "from": "median of the training tiles"} for low, high in ranges]
        attributes = {
            **plan["provenance"],
            "intensities": {
                "anatomy": _by_name(source.ref.anatomy, anatomy),
                "tumour": _by_name(source.channels, tumour),
            },
            "label_voxels": np.sum([block["label_voxels"] for block in blocks], axis=0).tolist(),
            "voxels_sha256": digest,
            "code": code_version(),
        }
        ome.finish_image(
            self.target,
            image,
            source.label_name,
            ome.label_metadata(scales[source.label_name], source.classes),
            {ATTRIBUTE: attributes},
            self.options,
        )
        return digest

    def nifti(self, folder: str) -> dict[str, str]:
        """The finest level as .nii.gz, a file a channel and one for the label, on the source's grid; their URIs."""
        source, like = self.source, self.source.volume
        assert like.affine is not None
        assert like.lies is not None
        image = ome.open_level(self.target, "s0", self.options)
        label = ome.open_level(self.target, f"labels/{source.label_name}/s0", self.options)
        written = {}
        for name, at in [*((f"synthetic-{name}", n) for n, name in enumerate(source.channels)), ("label", None)]:
            # One channel is in memory at a time.
            voxels = np.asarray(label[:] if at is None else image[at])
            written[f"nifti_{name}"] = uri = join(folder, f"{name}.nii.gz")
            write_nifti(uri, voxels, like.affine, like.lies, like.spacing, self.options)
        return written

    def preview(self, plan: dict[str, Any]) -> bytes:
        """PNG of anatomy, label and generated image in the middle of some planes."""
        volume, (z, y, x) = self.source.volume, self.source.volume.shape
        rows, columns = (
            (max(0, (length - PREVIEW_EDGE) // 2), min(length, (length + PREVIEW_EDGE) // 2)) for length in (y, x)
        )
        written = ome.open_level(self.target, "s0", self.options)
        imposed = ome.open_level(self.target, f"labels/{self.source.label_name}/s0", self.options)
        anatomies, labels, images = [], [], []
        planes = sorted({round(at) for at in np.linspace(0, z - 1, PREVIEW_PLANES + 2)[1:-1]})
        for plane in planes:
            region, depth = ((plane, plane + 1), rows, columns), self.source.layout.depth
            seen = [projected(volume, region, depth, layer)[0] for layer in self.source.anatomy]
            anatomies.append(_normalised(seen, [planes[plane] for planes in plan["ranges"]]))
            labels.append(np.asarray(imposed[ome.where(region)])[0])
            images.append(_normalised(list(np.asarray(written[ome.where(region)])[:, 0]), plan["tumour"]))
        pictures = {
            **by_channel("anatomy", anatomies, self.source.ref.anatomy),
            "label": labels,
            **by_channel("generated", images, self.source.channels),
        }
        return image_grid(pictures, rows=[f"plane {plane}" for plane in planes])

    def _pass(self, title: str, marked: bool = True) -> Pass:
        return Pass(f"volume: {title}", self.markers if marked else None, self.options, say)

    def _regions(self, level: ome.Level) -> dict[str, Region]:
        """The blocks of a level by name: its shards."""
        shards = ome.chunks_and_shards(level.shape)[1]
        return {f"{level.path}-{n:06d}": region for n, region in enumerate(ome.regions(level.shape, shards))}


def _extent(planes: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Between what the (low, high) of planes lie."""
    lows, highs = zip(*planes, strict=True)
    return {"low": [min(lows), max(lows)], "high": [min(highs), max(highs)]}


def _by_name(names: Sequence[str], facts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Facts of the one channel, or by the name of each."""
    return dict(zip(names, facts, strict=True)) if len(names) > 1 else facts[0]


def _normalised(images: Sequence[np.ndarray], ranges: Sequence[tuple[float, float]]) -> np.ndarray:
    """Channels (C, y, x) in [-1, 1], each by its own range."""
    return np.stack([normalise(image, *limits, clip=True) for image, limits in zip(images, ranges, strict=True)])
