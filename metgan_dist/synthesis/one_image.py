"""What else a SinGAN makes (Shaham et al. 2019, section 4): random images, edited pictures, enlargements.

`images/` of the run has a TIFF for each, in intensities of the image that was learned and of its type. Which is made
the recipe says: `synthesis.picture` gives a picture to be made anew from a scale on, `synthesis.enlarge` a factor;
without either images are drawn. Image n follows from model, picture, settings, `synthesis.seed` and n; a task of Ray's
makes one, and one that is there is not made again.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import ray
import tifffile

from metgan_dist.errors import UserError
from metgan_dist.figures import by_channel, image_grid
from metgan_dist.recipe import Recipe
from metgan_dist.recipe.methods.singan import SinGANRecipe
from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun
from metgan_dist.storage import Options, absolute, exists, join, read_bytes, write_whole
from metgan_dist.synthesis.crew import Crew
from metgan_dist.synthesis.learned_image import Learned, learned_of
from metgan_dist.synthesis.model import Model
from metgan_dist.synthesis.passes import Pass, begin_pass
from metgan_dist.synthesis.pasting import blended, blending
from metgan_dist.synthesis.replica import Replica
from metgan_dist.synthesis.target_range import as_stored
from metgan_dist.synthesis.translation_plan import check_given
from metgan_dist.synthesis.volume_files import set_digest, voxels_digest
from metgan_dist.tiles.intensity import normalise
from metgan_dist.tiles.tile_set import chosen_rows
from metgan_dist.volumes.images import read_image
from metgan_dist.volumes.open import open_volume
from metgan_dist.volumes.volume import whole

FOLDER, MARKERS = "images", "made"
OF_ONE_IMAGE = ("picture", "picture_mask", "start_scale", "enlarge")
SETTINGS = (*OF_ONE_IMAGE, "seed", "threads")
ALLOWED = {*SETTINGS, "model", "count", "samples", "replicas", "pictures"}
BYTE = 255  # of 8-bit pictures: white, whatever the intensities of the image that was learned


@dataclass(frozen=True)
class Picture:
    """A picture that was drawn: image (C, [D,] H, W) in its own type; mask, bool ([D,] H, W) or None; ends: intensities
    that are -1 and 1."""

    image: np.ndarray
    mask: np.ndarray | None
    ends: tuple[float, float]

    @property
    def normalised(self) -> np.ndarray:
        """In [-1, 1]."""
        return normalise(self.image, *self.ends, clip=True)


@dataclass(frozen=True)
class Making:
    """What all images share.

    kind: "sample", "edit" or "enlarged"; picture: that is edited or enlarged, None for samples; ranges, dtype: of what
    is written, one range a channel; dilate, blur: of the mask that an edit is blended by.
    """

    model: str
    kind: str
    picture: Picture | None
    start_scale: int | None
    enlarge: float | None
    dilate: int
    blur: float
    ranges: tuple[tuple[float, float], ...]
    dtype: str
    folder: str
    seed: int
    threads: int
    precision: str
    device: str
    options: Options = field(repr=False)  # may hold a secret


class Maker:
    """Makes images with one replica of the pyramid."""

    def __init__(self, job: Making) -> None:
        self._job = job
        self._replica = Replica.of_volumes(
            job.model, device=job.device, precision=job.precision, threads=job.threads, options=job.options
        )

    def make(self, number: int) -> dict[str, Any]:
        """Write an image; its id, seed and the SHA-256 of its pixels."""
        job, seed = self._job, [self._job.seed, number]
        name = f"{job.kind}-{number:06d}"
        image = self._image(seed)
        packed = io.BytesIO()
        tifffile.imwrite(packed, image, photometric="minisblack", metadata=None)
        write_whole(join(job.folder, f"{name}.tif"), packed.getvalue(), job.options)
        return {"id": name, "number": number, "seed": seed, "sha256": voxels_digest([image])}

    def _image(self, seed: list[int]) -> np.ndarray:
        """(C, [D,] H, W) as it is written."""
        job, dtype = self._job, np.dtype(self._job.dtype)
        if job.picture is None:
            return as_stored(self._replica.sample_image(seed), job.ranges, dtype)
        given = job.picture.normalised
        if job.enlarge is not None:
            return as_stored(self._replica.super_resolve(given, job.enlarge, seed), job.ranges, dtype)
        assert job.start_scale is not None
        made = self._replica.harmonise(given, job.start_scale, seed)
        if job.picture.mask is None:
            return as_stored(made, job.ranges, dtype)
        # In the picture's own type, so that what lies outside of the mask stays as it was drawn.
        ranges = [job.picture.ends] * len(made)
        intensities = as_stored(made, ranges, np.dtype(np.float64))
        return blended(job.picture.image, intensities, blending(job.picture.mask, job.dilate, job.blur))


def maker(job: Making) -> Callable[[int], dict[str, Any]]:
    """`Maker.make` with a pyramid that is loaded once."""
    return Maker(job).make


@dataclass(frozen=True)
class OneImageSynthesis:
    """Images that can be made by a SinGAN; count: how many."""

    recipe: Recipe
    learned: Learned
    count: int
    job: Making

    @staticmethod
    def planned(command: Command, model: Model) -> OneImageSynthesis:
        """Everything that can be checked before a cluster is touched; UserError in one line for what does not fit."""
        recipe, settings = command.recipe, command.recipe.synthesis
        check_given(command, ALLOWED, "the generator has learned one image, and makes images like it")
        _check_settings(command)
        learned = learned_of("synthesis.model", model, recipe.storage.options)
        if settings.start_scale is not None:
            learned.check_start("synthesis.start_scale", settings.start_scale)
        tile = learned.tiles.index.iloc[learned.row]
        layers = learned.tiles.layers("tumour")
        ranges = tuple((float(tile[f"{layer}_low"]), float(tile[f"{layer}_high"])) for layer in layers)
        pixels = [learned.tiles.pixels(learned.row, layer) for layer in layers]
        picture = None
        if settings.picture is not None:
            picture = read_picture(recipe, learned, ranges[0])
        elif settings.enlarge is not None:
            picture = Picture(learned.tiles.load(learned.row)["tumour"], None, (-1.0, 1.0))
        kind = "enlarged" if settings.enlarge is not None else "sample" if picture is None else "edit"
        job = Making(
            model=model.uri,
            kind=kind,
            picture=picture,
            start_scale=settings.start_scale,
            enlarge=settings.enlarge,
            dilate=recipe.insertion.dilate,
            blur=recipe.insertion.blur,
            ranges=ranges,
            dtype=str(np.result_type(*pixels)),
            folder="",
            seed=settings.seed,
            threads=settings.threads,
            precision=recipe.training.precision,
            device="cpu",
            options=recipe.storage.options,
        )
        return OneImageSynthesis(recipe, learned, settings.count if kind == "sample" else settings.samples, job)

    @property
    def tags(self) -> dict[str, str]:
        """For the MLflow run: the generator, and the run that trained it."""
        return self.learned.model.tags

    @property
    def facts(self) -> dict[str, Any]:
        """What the images follow from."""
        settings, options = self.recipe.synthesis, self.recipe.storage.options
        files = [absolute(file) for file in (settings.picture, settings.picture_mask) if file is not None]
        return {
            "model": {**self.learned.model.facts, "image": self.learned.image},
            "settings": settings.model_dump(mode="json", include=set(SETTINGS)),
            "blending": [self.job.dilate, self.job.blur],
            "files": {file: hashlib.sha256(read_bytes(file, options)).hexdigest() for file in files},
        }

    def carry_out(self, opened: OpenRun) -> None:
        """The work of the job; what an earlier start of the run finished is not made again.

        The result gets the artefacts `images`, `preview` and `pixels_sha256`.
        """
        result, tiles = opened.result, self.learned.tiles
        crew = Crew.of(opened.recipe.synthesis, opened.plan, ray.available_resources())
        job = replace(self.job, folder=join(opened.run.folder, FOLDER), device=crew.device)
        with opened.log() as log:
            log.dataset(f"tiles-{tiles.digest[:8]}", tiles.uri, tiles.digest, "source", 1)
        say(f"images: {self.count} of the kind {job.kind!r} by {self.learned.model.uri}; {crew}")
        with result.phase("generation"):
            markers = join(opened.run.folder, MARKERS)
            afresh = "images: what they follow from has changed since this run began; it is started afresh"
            begin_pass(markers, self.facts, job.options, say, afresh)
            work = Pass("images", markers, job.options, say)
            jobs = {f"{job.kind}-{number:06d}": number for number in range(self.count)}
            made = sorted(work.crewed(partial(maker, job), jobs, crew), key=lambda one: one["number"])
        with result.phase("preview"):
            names = [made[k]["id"] for k in chosen_rows(np.arange(len(made)), self.recipe.synthesis.pictures)]
            opened.keep({"preview.png": self.preview(job, names)}, {"preview.png": "preview"})
        digest = set_digest((one["id"], one["sha256"]) for one in made)
        result.artefacts |= {"images": job.folder, "pixels_sha256": digest}
        say(f"images: {len(made)}; {job.folder}")
        say(f"digest: {digest}")

    def preview(self, job: Making, names: list[str]) -> bytes:
        """PNG of the image that was learned, the picture that was given, and some that were made."""
        columns = {"learned": [self.learned.tiles.load(self.learned.row)["tumour"]]}
        if job.picture is not None:
            columns["given"] = [job.picture.normalised]
        made = [tifffile.imread(io.BytesIO(read_bytes(join(job.folder, f"{name}.tif"), job.options))) for name in names]
        masked = job.picture is not None and job.picture.mask is not None
        ranges = [job.picture.ends] * len(job.ranges) if masked and job.picture else job.ranges
        channels = len(job.ranges)
        columns["made"] = [
            np.stack(
                [normalise(own, *ends, clip=True) for own, ends in zip(_channels(image, channels), ranges, strict=True)]
            )
            for image in made
        ]
        shown: dict[str, list[np.ndarray]] = {}
        for name, images in columns.items():
            shown |= by_channel(name, images, self.learned.tiles.channels("tumour"))
        return image_grid(shown, rows=names)


def _channels(image: np.ndarray, count: int) -> np.ndarray:
    """A TIFF's pixels as (C, [D,] H, W): of a single channel the axis may be gone."""
    return image if count > 1 or image.shape[0] == 1 else image[None]


def _check_settings(command: Command) -> None:
    """UserError for settings of an edit or an enlargement that do not go together, or are no matter of samples."""
    settings, given = command.recipe.synthesis, command.given.get("synthesis", {})
    if settings.picture is None:
        for name in ("picture_mask", "start_scale"):
            if getattr(settings, name) is not None:
                raise UserError(f"synthesis.{name}: is for a picture that is edited; name it in synthesis.picture")
    elif settings.enlarge is None and settings.start_scale is None:
        raise UserError(
            "synthesis.start_scale: none given; 1 changes the picture most, the finest of the pyramid least"
        )
    elif settings.enlarge is not None and (settings.start_scale is not None or settings.picture_mask is not None):
        raise UserError("synthesis.enlarge: a picture is edited or enlarged; leave it out, or the scale and the mask")
    samples = settings.picture is None and settings.enlarge is None
    other, why = (
        ("samples", "images are drawn; their number is synthesis.count")
        if samples
        else (
            "count",
            "of a picture; how many are made is synthesis.samples",
        )
    )
    if other in given:
        raise UserError(f"synthesis.{other}: {why}")


def read_picture(recipe: Recipe, learned: Learned, ends: tuple[float, float]) -> Picture:
    """The picture and mask of `synthesis.picture` and `picture_mask`: PNG, TIFF, NIfTI, OME-Zarr.

    8-bit pictures are grey values, black and white being `ends`; others are intensities. UserError for one that the
    pyramid cannot take, and for a mask that is empty or of another shape.
    """
    settings, options = recipe.synthesis, recipe.storage.options
    where = str(settings.picture)
    image = _read("picture", where, learned, options)
    if (channels := learned.model.recipe.data.channel_numbers[1]) > 1:
        raise UserError(f"synthesis.picture: {where} has one channel, and the generator {channels}; use one of one")
    least = SinGANRecipe.of(learned.model.recipe.method).coarsest
    if min(image.shape) < least:
        raise UserError(
            f"synthesis.picture: {where} has {_edges(image.shape)} pixels, and the coarsest scale alone {least}; take "
            "a larger one"
        )
    if image.min() == image.max():
        raise UserError(f"synthesis.picture: {where} is constant, so there is nothing to make anew")
    own = (0.0, float(BYTE)) if image.dtype == np.uint8 else ends
    if settings.picture_mask is None:
        return Picture(image[None], None, own)
    mask = _read("picture_mask", settings.picture_mask, learned, options) > 0
    if mask.shape != image.shape:
        raise UserError(
            f"synthesis.picture_mask: {settings.picture_mask} has {_edges(mask.shape)} pixels, the picture "
            f"{_edges(image.shape)}; they must agree"
        )
    if not mask.any():
        raise UserError(f"synthesis.picture_mask: {settings.picture_mask} is empty: the slice has no tumour")
    return Picture(image[None], mask, own)


def _read(name: str, file: str, learned: Learned, options: Options) -> np.ndarray:
    """The pixels ([D,] H, W) of a file, as many axes as the learned image has."""
    uri = absolute(file)
    if not exists(uri, options):
        raise UserError(f"synthesis.{name}: {uri}: not found")
    if uri.lower().endswith(".png"):
        pixels = read_image(uri, options)[None]
    else:
        volume = open_volume(uri, options=options)
        if len(volume.channels) > 1:
            raise UserError(f"synthesis.{name}: {uri}: {len(volume.channels)} channels; a picture has one")
        pixels = volume.read(volume.channels[0], whole(volume))
    if learned.shape is not None:
        return pixels
    if len(pixels) > 1:
        raise UserError(f"synthesis.{name}: {uri}: {len(pixels)} planes, and the generator makes slices; give one")
    return pixels[0]


def _edges(shape: tuple[int, ...]) -> str:
    return " x ".join(str(edge) for edge in shape)
