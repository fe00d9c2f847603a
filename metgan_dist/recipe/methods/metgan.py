"""MetGAN and its ablations (Horvath et al. 2022, equation 4 and section 4.2; the rows with MetGen of table 2)."""

from __future__ import annotations

from typing import ClassVar, Literal

from metgan_dist.recipe.methods.rows import CycleRecipe, PairRecipe, RowRecipe, SegmentationRecipe


class MetGANRecipe(PairRecipe, SegmentationRecipe, CycleRecipe, RowRecipe):
    """All terms."""

    name: Literal["metgan"] = "metgan"


class MetGANMinusRecipe(SegmentationRecipe, CycleRecipe, RowRecipe):
    """MetGAN without the pair loss."""

    variant_of: ClassVar[str | None] = "metgan"

    name: Literal["metgan_minus"] = "metgan_minus"


class MetGenCycleRecipe(PairRecipe, CycleRecipe, RowRecipe):
    """MetGAN without the segmentor."""

    variant_of: ClassVar[str | None] = "metgan"

    name: Literal["metgen_cycle"] = "metgen_cycle"


class MetGenCondRecipe(PairRecipe, RowRecipe):
    """MetGAN without segmentor and cycle."""

    variant_of: ClassVar[str | None] = "metgan"

    name: Literal["metgen_cond"] = "metgen_cond"


class MetGenCondSegRecipe(PairRecipe, SegmentationRecipe, RowRecipe):
    """MetGAN without the cycle."""

    variant_of: ClassVar[str | None] = "metgan"

    name: Literal["metgen_cond_seg"] = "metgen_cond_seg"
