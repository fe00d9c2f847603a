"""Brains with and without a stroke: which patient has which tissues and which lesion, and each drawn by itself.

Tissues are drawn, or those of real maps, bent and mirrored for every patient; lesions are drawn, or real masks, brought
to the brain by its extent. Which map and which masks a patient may have is settled by his side of the split: nobody who
is tested shares a map or a mask with anybody who is trained on.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metgan_dist.errors import UserError
from metgan_dist.recipe import Phantom
from metgan_dist.storage import Options, absolute, basename, entries, exists, join
from metgan_dist.volumes.nifti import SUFFIXES
from metgan_dist.volumes.phantoms.brain import FIELD_OF_VIEW, BrainPhantom
from metgan_dist.volumes.phantoms.dwi_signal import PARENCHYMA, draw_signal
from metgan_dist.volumes.phantoms.field import Axes, random_generator
from metgan_dist.volumes.phantoms.real_brain import LesionMask, TissueMap

HEALTHY = 0.5
# Of maps and of masks: what is kept for tests, and to choose the best checkpoint.
HELD_OUT = {"test": 0.2, "val": 0.1}
FEWEST = 20  # voxels that a lesion has in the tissue, as paper 4 asks
TRIES = 50
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Plan:
    """What a patient is drawn from. split: `auto` where nothing real is shared; tissue: a map, masks: those that are
    tried in turn, by path; None, or none, where they are drawn."""

    number: int
    id: str
    split: str
    healthy: bool
    tissue: str | None
    masks: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """A patient: dwi int16, tissue uint8 (numbers of `TISSUES`), lesion uint8, 0 or 1, None of a healthy one; all
    (z, y, x). affine: 4x4 from voxels (x, y, z) to millimetres, towards right, front and head."""

    dwi: NDArray[np.int16]
    tissue: NDArray[np.uint8]
    lesion: NDArray[np.uint8] | None
    affine: NDArray[np.float64]


def plans_of(phantom: Phantom, options: Options | None = None) -> list[Plan]:
    """All patients of a data set; UserError for a folder of maps or masks that is not there, or has too few files."""
    maps = _sides("tissue_maps", phantom.tissue_maps, phantom.seed, options)
    masks = _sides("lesion_masks", phantom.lesion_masks, phantom.seed, options)
    # As many patients of each side as there are maps of it, or as its share of the masks.
    shared = maps or masks
    stride = 1 if maps else max(1, sum(map(len, shared.values())) // 10)
    turns = [side for side, own in shared.items() for _ in own[::stride]] or ["auto"]
    share = HEALTHY if phantom.healthy is None else phantom.healthy
    plans, seen = [], Counter[str]()
    for number in range(phantom.volumes):
        side = turns[number % len(turns)]
        own, rank = maps.get(side, []), seen[side]
        seen[side] += 1
        tissue = own[rank % len(own)] if own else None
        # Spread evenly, whatever the share, and not in step with the maps.
        healthy = (number + 1) * _GOLDEN % 1 < share
        tried = () if healthy else _in_turn(masks.get(side, []), rank)
        name = f"{basename(tissue).partition('.')[0]}-" if tissue else ""
        plans.append(Plan(number, f"{name}case-{number:04d}", side, healthy, tissue, tried))
    return plans


class StrokeBrains:
    """Draws the patients of a phantom, each a function of the section and his number alone; reads a map once."""

    def __init__(self, phantom: Phantom, options: Options | None = None) -> None:
        self.phantom, self._options = phantom, options
        self.plans = plans_of(phantom, options)
        self._maps: dict[str, TissueMap] = {}

    def draw(self, number: int) -> Case:
        """Patient `number`; UserError for maps and masks that are none, and where no mask that is tried fits."""
        plan, seed, shape = self.plans[number], self.phantom.seed + number, self.phantom.shape
        steps = [reach / length for length, reach in zip(shape, FIELD_OF_VIEW, strict=True)]
        z, y, x = (
            np.asarray((np.arange(length) + 0.5) * step, np.float64) for length, step in zip(shape, steps, strict=True)
        )
        axes = (z, y, x)
        if plan.tissue is None:
            tissue, lesion = self._drawn(axes, seed)
        else:
            tissue = self._map(plan.tissue).bent(axes, seed)
            lesion = np.zeros(shape, np.bool_) if plan.healthy or plan.masks else self._drawn(axes, seed)[1]
        lesion = self._mask(plan, tissue, axes) if plan.masks else lesion & np.isin(tissue, PARENCHYMA)
        if plan.healthy:
            lesion = np.zeros(shape, np.bool_)
        affine = np.diag([*steps[::-1], 1.0])
        affine[:3, 3] = [(step - reach) / 2 for step, reach in zip(steps[::-1], FIELD_OF_VIEW[::-1], strict=True)]
        dwi = draw_signal(tissue, lesion, axes, seed)
        return Case(dwi, tissue, None if plan.healthy else lesion.astype(np.uint8), affine)

    def _drawn(self, axes: Axes, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Tissues and lesions of a drawn head, which looks towards lower y, turned as the affine says."""
        drawn = BrainPhantom(self.phantom.shape, seed).anatomy_at(axes)
        return np.ascontiguousarray(drawn.tissue[:, ::-1]), np.ascontiguousarray(drawn.lesion[:, ::-1])

    def _map(self, path: str) -> TissueMap:
        # Two threads that read one map do so twice, and keep either.
        if path not in self._maps:
            self._maps[path] = TissueMap(path, self._options)
        return self._maps[path]

    def _mask(self, plan: Plan, tissue: NDArray[np.uint8], axes: Axes) -> NDArray[np.bool_]:
        """The first of the patient's masks of which enough lies in tissue; on its own side or the other."""
        inside, random = np.isin(tissue, PARENCHYMA), random_generator(self.phantom.seed + plan.number, 43)
        for path in plan.masks[:TRIES]:
            mirrored = bool(random.random() < 0.5)
            lesion = LesionMask(path, self._options).laid_into(tissue, axes, mirrored=mirrored) & inside
            if np.count_nonzero(lesion) >= FEWEST:
                return lesion
        raise UserError(
            f"data.phantom.lesion_masks: of none of {min(TRIES, len(plan.masks))} masks {FEWEST} voxels lie in the "
            f"tissue of {plan.id!r}; give more voxels in data.phantom.shape, or other masks in standard space"
        )


def _sides(field: str, folder: str | None, seed: int, options: Options | None) -> dict[str, list[str]]:
    """The files of a folder by the side of the split that has them, in a random order; none without a folder."""
    if folder is None:
        return {}
    uri = absolute(folder)
    if not exists(uri, options):
        raise UserError(f"data.phantom.{field}: {uri}: not found; give a folder of NIfTI files")
    files = sorted(name for name in entries(uri, options)[0] if name.lower().endswith(SUFFIXES))
    held = {side: max(1, round(share * len(files))) for side, share in HELD_OUT.items()}
    if len(files) <= sum(held.values()):
        raise UserError(
            f"data.phantom.{field}: {uri}: {len(files)} NIfTI file(s); three at least, so that training, validation "
            "and test have their own"
        )
    order = [join(uri, files[number]) for number in random_generator(seed, 47).permutation(len(files))]
    test, val = held["test"], held["val"]
    return {"test": order[:test], "val": order[test : test + val], "train": order[test + val :]}


def _in_turn(files: list[str], rank: int) -> tuple[str, ...]:
    """The files from place `rank` on, and round."""
    first = rank % len(files) if files else 0
    return (*files[first:], *files[:first])
