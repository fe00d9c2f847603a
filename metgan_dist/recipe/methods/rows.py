"""What the rows of paper 1's table 2 have: a generator of three, and the terms of their ticks (methods/rows.py)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from metgan_dist.recipe.method import MethodRecipe
from metgan_dist.recipe.methods.terms import (
    AdversarialForm,
    AdversarialWeight,
    CycleWeight,
    IdentityWeight,
    PairWeight,
    Pool,
    SegmentationWeight,
    StochasticInference,
)

Backbone = Annotated[
    Literal["metgen", "unet-256", "resnet-9"], Field(description="generator of the methods of table 2")
]


class RowRecipe(MethodRecipe):
    """What every row has; MetGAN's values, its generator MetGen among them."""

    for_any: ClassVar[frozenset[str]] = frozenset({"stochastic_inference"})

    alpha1: AdversarialWeight = 1.0
    backbone: Backbone = "metgen"
    adversarial: AdversarialForm = "least-squares"
    pool: Pool = 50
    merge_full_resolution: bool = Field(
        False, description="also merge the label path's last block at full resolution (the authors compute and drop it)"
    )
    label_norm: Literal["batch", "pixel"] = Field(
        "batch",
        description="norm of metgen's label path: over the batch, as in the authors' code, with which an empty label "
        "tells places in the tile; or over the channels of each pixel, with which it does not",
    )
    statistics: Literal["running", "image"] = Field(
        "running",
        description="what BatchNorm normalises by when images are made: the training's running statistics, the same "
        "for all tiles (for whole volumes always these); or each image's own, as in training on one image a step",
    )
    stochastic_inference: StochasticInference = False
    label_input: bool = Field(
        True,
        description="show generators and conditional discriminators the label; false: images alone, as papers without "
        "labels of both domains have it (not with metgen, which has a path for it)",
    )


class CycleRecipe(MethodRecipe):
    """The tick `Cycle`: both directions, and CycleGAN's identity loss."""

    alpha2: CycleWeight = 10.0
    identity: IdentityWeight = 0.0


class SegmentationRecipe(MethodRecipe):
    """The tick `Segmentor`: a frozen segmentor judges what the generator makes."""

    alpha3: SegmentationWeight = 100.0
    segmentation_loss: Literal["wbce", "l1"] = Field(
        "wbce", description="weighted cross-entropy (paper) or L1 (its code)"
    )


class PairRecipe(MethodRecipe):
    """The tick `Pair loss`."""

    alpha4: PairWeight = 10.0
