"""SinGAN (Shaham et al. 2019), with which paper 3 harmonises tumours: one model of one image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from metgan_dist.recipe.method import MethodRecipe


class SinGANRecipe(MethodRecipe):
    """Which image is learned, the pyramid's sizes, and the weights of the losses; no segmentor looks at what it makes.

    An epoch is one step, since there is one image; all scales are trained for equally many.
    """

    paper_training: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 5e-4,
        "decay_from": 0.8,
        "batch_size": 1,
        "epochs": 2000,
        "augment": False,
    }

    name: Literal["singan"] = "singan"
    volume: str | None = Field(
        None, description="volume whose image is learned, by its id; empty: the only one that is trained on"
    )
    plane: int | None = Field(
        None,
        ge=0,
        description="where along the view the image lies, in voxels of the volume (the number of a slice); empty: the "
        "only one that is trained on",
    )
    coarsest: int = Field(25, ge=11, description="shorter edge of the image at the coarsest scale, pixels")
    finest: int = Field(250, ge=11, description="longest edge at the finest scale, to which larger images are brought")
    factor: float = Field(
        0.75, ge=0.25, le=0.95, description="about how much shorter edges are from scale to scale; it is fitted"
    )
    reconstruction: float = Field(10.0, ge=0, description="weight of the reconstruction from fixed noise")
    penalty: float = Field(0.1, ge=0, description="weight of the critics' gradient penalty")
    noise: float = Field(
        0.1, gt=0, description="amplitude of a scale's noise, in errors (RMSE) of what the coarser ones reconstruct"
    )
    moves: int = Field(3, ge=1, description="moves of critic and of generator in a step, each")
