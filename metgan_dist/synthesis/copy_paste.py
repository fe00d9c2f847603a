"""Copy-paste, which paper 4 compares with: a healthy brain's own image, brighter where lesions are laid.

Federau et al. (Radiology: AI 2020) carry the relative signal increase of real strokes over to normal brains. Here a
brain's lesions get one increase, drawn from those of the training split's stroke cases; each voxel is multiplied, so
that texture and noise of the brain stay, and the increase fades over the lesions' borders as a scanner blurs them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import scipy  # loads a part of itself when that is first used

from metgan_dist.errors import UserError
from metgan_dist.recipe import Recipe
from metgan_dist.recipe.synthesis import COPY_PASTE
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun
from metgan_dist.storage import Options
from metgan_dist.synthesis.crew import Crew
from metgan_dist.synthesis.painting import Brain, Image, ImageMaker, Painting
from metgan_dist.synthesis.passes import Pass
from metgan_dist.synthesis.target_range import as_type
from metgan_dist.tiles.tile_set import TileSet

# Tissue around a lesion: from the second to the sixth voxel outside it in its plane. The first is part lesion.
NEAR, FAR = 1, 6
_PLANE = np.array([[[0, 1, 0], [1, 1, 1], [0, 1, 0]]], bool)


def raised(image: np.ndarray, lesion: np.ndarray, ratio: float, border: float) -> np.ndarray:
    """An image (D, H, W) whose lesions are `ratio` times as bright as before, float of at least 32 bits.

    lesion: bool (D, H, W). The increase is blurred in each plane by a Gaussian of `border` pixels, cut off at four of
    them, and scaled so that its mean over the lesions' voxels is that of `ratio`. Beyond its reach no voxel changes.
    """
    share = lesion.astype(np.float64)
    if border:
        share = scipy.ndimage.gaussian_filter(share, (0, border, border), mode="constant")
    gain = 1 + (ratio - 1) * share / share[lesion].mean()
    return (image * gain).astype(np.result_type(image, np.float32))


def lesion_ratio(
    image: np.ndarray, label: np.ndarray, lesion: int, parenchyma: Collection[int], least: int
) -> float | None:
    """How many times as bright as the parenchyma around them the lesions of a case are, by the means of either.

    image, label (classes): (D, H, W). None where either has fewer than `least` voxels, or the tissue is black.
    """
    ill = label == lesion
    near, far = (scipy.ndimage.binary_dilation(ill, _PLANE, iterations=reach) for reach in (NEAR, FAR))
    around = far & ~near & np.isin(label, list(parenchyma))
    if min(np.count_nonzero(ill), np.count_nonzero(around)) < least or image[around].mean() <= 0:
        return None
    return float(image[ill].mean() / image[around].mean())


@dataclass(frozen=True)
class Pasted:
    """The brains' own images, raised.

    ratios: ascending; a brain's is drawn from the distribution that they are the evenly spaced quantiles of, of two
    evenly between them; border: as `raised` has it.
    """

    ratios: tuple[float, ...]
    border: float

    def opened(self, job: Painting, tiles: TileSet) -> ImageMaker:
        """With the tiles that hold the images."""

        def image(brain: Brain, label: np.ndarray, random: np.random.Generator) -> Image:
            own = np.stack([tiles.pixels(row, "tumour") for row in brain.rows])
            ratio = float(np.quantile(self.ratios, random.uniform()))
            made = raised(own, label == job.lesion, ratio, self.border)
            return Image(as_type(made, np.dtype(job.dtype)), {"ratio": round(ratio, 4)})

        return image


@dataclass(frozen=True)
class Case:
    """A stroke patient's volume that is trained on: `rows` of its slices in the tile set, in their order."""

    name: str
    patient: str
    rows: tuple[int, ...]


@dataclass(frozen=True)
class ByCopyPaste:
    """A set of raised images; cases: those whose lesions say by how much, none where the recipe does."""

    recipe: Recipe
    tiles: TileSet
    cases: tuple[Case, ...]

    on_gpus: ClassVar[bool] = False
    settings: ClassVar[tuple[str, ...]] = ("gain", "border")

    @property
    def more_settings(self) -> dict[str, Any]:
        """None."""
        return {}

    @property
    def facts(self) -> dict[str, Any]:
        """No model, and whose lesions were measured."""
        patients = sorted({case.patient for case in self.cases if case.patient})
        measured = {"volumes": [case.name for case in self.cases], "patients": patients}
        model = {"uri": None, "sha256": None, "method": COPY_PASTE, "run": None}
        return {"model": model, **({"measured": measured} if self.cases else {})}

    @property
    def images(self) -> Pasted:
        """As the recipe says it; without ratios where cases are to be measured."""
        settings = self.recipe.synthesis
        return Pasted(settings.gain or (), settings.border)

    def ready(self, opened: OpenRun, job: Painting, crew: Crew) -> Pasted:
        """With the ratios of the cases, a task of Ray's each, in the result's scores, too."""
        if not self.cases:
            return self.images
        work = partial(measure, self.tiles.uri, job.lesion, job.parenchyma, job.least, job.options)
        named = {case.name: case for case in self.cases}
        with opened.result.phase("measuring"):
            ratios = brighter(list(Pass("lesions measured", None, job.options, say, unit="cases").tasks(work, named)))
        low, middle, high = np.quantile(ratios, (0.05, 0.5, 0.95))
        say(
            f"copy-paste: lesions of {len(ratios)} of {len(self.cases)} stroke case(s) are {middle:.2f} times as "
            f"bright as the tissue around them (5 % below {low:.2f}, 5 % above {high:.2f})"
        )
        opened.result.scores["ratio"] = {"cases": len(ratios), "p5": low, "median": middle, "p95": high}
        return replace(self.images, ratios=ratios)

    def __str__(self) -> str:
        return COPY_PASTE


def measure(
    tiles: str, lesion: int, parenchyma: Sequence[int], least: int, options: Options, case: Case
) -> float | None:
    """`lesion_ratio` of a case, from its slices."""
    opened = TileSet.open(tiles, options)
    image = np.stack([opened.pixels(row, "tumour") for row in case.rows])
    label = np.stack([opened.load(row)["label"] for row in case.rows])
    return lesion_ratio(image, label, lesion, parenchyma, least)


def brighter(ratios: Sequence[float | None]) -> tuple[float, ...]:
    """Those above 1, ascending: what is no brighter is none of the acute lesions that are imitated.

    UserError where there is none.
    """
    found = tuple(sorted(ratio for ratio in ratios if ratio is not None and ratio > 1))
    if not found:
        raise UserError(
            f"synthesis.gain: none of {len(ratios)} stroke case(s) of the training tiles has a lesion brighter than "
            "the tissue around it; check their labels, or say how bright lesions are, such as 1.3,2"
        )
    return found
