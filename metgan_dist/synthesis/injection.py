"""Lesion masks laid into the parenchyma of a healthy brain (Platscher et al., section 2.3)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from metgan_dist.errors import UserError

LEAST = 20  # voxels of a lesion that must remain within the parenchyma
TRIES = 100


@dataclass(frozen=True)
class Laid:
    """One lesion in a brain: which mask it is, whether it was mirrored, how many were drawn, voxels that remain."""

    mask: int
    mirrored: bool
    draws: int
    voxels: int


@dataclass(frozen=True)
class Injected:
    """A brain's lesions: where they are, (D, H, W) bool, and how each came there."""

    lesion: np.ndarray
    laid: tuple[Laid, ...]

    @property
    def draws(self) -> int:
        """Masks that were drawn for all of them."""
        return sum(laid.draws for laid in self.laid)


def inject(
    tissue: np.ndarray,
    masks: Sequence[np.ndarray],
    parenchyma: Collection[int],
    random: np.random.Generator,
    *,
    name: str,
    lesions: int = 1,
    mirror: bool = True,
    least: int = LEAST,
    tries: int = TRIES,
) -> Injected:
    """Lay `lesions` masks into a brain, each drawn anew until enough of it lies in the parenchyma.

    Of a mask remains what lies in the parenchyma and in no lesion before it. With `mirror`, half of them change sides
    first, left and right being the last axis, about its middle: brain and masks are thought registered to one space.

    Args:
        tissue: classes (D, H, W) of a brain called `name`.
        masks: where lesions may be, (D, H, W), non-zero in a lesion; opened one at a time. No mask is laid twice.
        parenchyma: classes that lesions may lie in.
        random: of this brain alone, so that what it gets does not depend on others.
        least: voxels that must remain of each lesion. tries: masks drawn for one before it is given up.

    Raises UserError where the brain has no parenchyma, a mask lies on another grid, all masks are empty, or a lesion
    never fits.
    """
    free = np.isin(tissue, list(parenchyma))
    if np.count_nonzero(free) < least:
        raise UserError(
            f"{name}: {np.count_nonzero(free)} voxels of parenchyma (data.parenchyma), fewer than the {least} of a "
            "lesion; name the classes of its tissue map in which lesions may lie"
        )
    lesion = np.zeros(tissue.shape, bool)
    left = np.arange(len(masks))
    laid: list[Laid] = []
    for number in range(lesions):
        order, empty = random.permutation(left)[:tries], True
        for draws, index in enumerate(order, start=1):
            mirrored = mirror and bool(random.integers(2))
            mask = _mask(masks, int(index), tissue.shape, name, mirrored)
            there, empty = mask & free, empty and not mask.any()
            if (voxels := np.count_nonzero(there)) >= least:
                laid.append(Laid(int(index), mirrored, draws, int(voxels)))
                lesion, free, left = lesion | there, free & ~there, left[left != index]
                break
        else:
            if len(order) and empty:
                raise UserError(
                    f"synthesis.masks: all {len(order)} masks that were tried are empty; give some with lesions"
                )
            raise UserError(
                f"{name}: lesion {number + 1} of {lesions} fits nowhere: of {len(order)} mask(s) tried "
                f"(synthesis.tries: {tries}) none leaves {least} voxels (synthesis.least_lesion) in the parenchyma; "
                "are masks and brain in one space?"
            )
    return Injected(lesion, tuple(laid))


def _mask(masks: Sequence[np.ndarray], index: int, shape: tuple[int, ...], name: str, mirrored: bool) -> np.ndarray:
    """A mask as bool on the brain's grid, perhaps mirrored."""
    mask = np.asarray(masks[index]) != 0
    if mask.shape != shape:
        raise UserError(f"{name}: mask {index} has shape {mask.shape}, the brain {shape}; bring them to one grid")
    return mask[..., ::-1] if mirrored else mask
