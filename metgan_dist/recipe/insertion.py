"""Tumours put into volumes: which, where, and how they are made to look as if they belonged there."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from metgan_dist.recipe.data import Channels
from metgan_dist.recipe.section import Section, Seed, comma_list

NAIVE = "naive"  # as `model`: no network, tumours are pasted as they are


class Insertion(Section):
    """Tumours pasted into the volumes of `data.path` and harmonised (insert_tumours.py; paper 3)."""

    model: str | None = Field(
        None,
        description="checkpoint or run folder of a singan, which harmonises what is pasted; `naive`: none does",
    )
    start_scale: int | None = Field(
        None,
        ge=1,
        description="scale at which the paste is put into the pyramid, counted from the coarsest, which is 0: 1 "
        "changes most, the finest least",
    )
    contrast: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="what the pasted tumour is multiplied by, in [0, 1] of its volume's range (0.5, 0.8, 1.5 in the "
        "authors' notebook)",
    )
    masks: str | None = Field(
        None,
        description="data set of tumours, or one mask file: volumes with labels, with images or without; empty: the "
        "labels of the volumes themselves",
    )
    channel: Channels | None = Field(
        None, description="channel(s) of the images of `masks` that are pasted; default: those that their set generates"
    )
    tumour: str | None = Field(
        None, description="class of the labels that is the tumour, by name or number; default: the only one there is"
    )
    pairs: Literal["own", "drawn"] = Field(
        "own",
        description="whose tumour a volume gets: its own (of the volume of the same id or patient, or that it was made "
        "from), or one that is drawn",
    )
    place: Literal["same", "tissue"] = Field(
        "same",
        description="where a tumour goes: same, as it lies on its own grid, which has to be the volume's; tissue, "
        "about a voxel that is drawn",
    )
    centre: Annotated[tuple[int, int, int], BeforeValidator(comma_list)] | None = Field(
        None, description="voxel z,y,x about which a tumour goes, in place of `place`"
    )
    intensity: float | None = Field(
        None,
        ge=0,
        le=1,
        description="of tumours, in [0, 1] of the volume's range, in place of that of their images; needed where "
        "`masks` have none",
    )
    volumes: Annotated[tuple[str, ...], BeforeValidator(comma_list)] = Field(
        (), description="ids of the volumes that get a tumour; empty: all that are not held out"
    )
    count: int | None = Field(
        None, ge=1, description="volumes to make, each of one that is drawn; empty: one of each volume"
    )
    tissue: float = Field(0.1, ge=0, lt=1, description="of `place` tissue: level of the smoothed image that is tissue")
    inside: float = Field(0.95, gt=0, le=1, description="of `place` tissue: share of a tumour that must lie in tissue")
    tries: int = Field(100, ge=1, description="of `place` tissue: places drawn for a tumour before it is given up")
    dilate: int = Field(7, ge=0, description="pixels by which the mask of the blending is dilated, by a disk")
    blur: float = Field(
        5.0, ge=0, allow_inf_nan=False, description="pixels of the Gaussian by which it is blurred; 0: a hard edge"
    )
    seed: Seed = Field(0, description="seed of noise, pairs, places, and of the readers' slices")
    replicas: int | Literal["auto"] = Field("auto", description="copies of the generator; auto: as many as have room")
    threads: int = Field(1, ge=1, description="CPU threads of a replica without a GPU; part of what is reproduced")
    format: Literal["ome-zarr", "nifti"] | None = Field(
        None, description="as what volumes are written; empty: as NIfTI where they all are, else as OME-Zarr"
    )
    pictures: int = Field(8, ge=1, le=64, description="rows of the preview")
    readers: int = Field(
        0, ge=0, description="slices for blinded readers, half of them real; 0: none (evaluate.py --sheet scores them)"
    )

    @model_validator(mode="after")
    def _check(self) -> Insertion:
        if self.model == NAIVE and self.start_scale is not None:
            raise ValueError(f"start_scale is a scale of a singan, and `model` is {NAIVE}; leave one out")
        if self.masks is None and self.channel is not None:
            raise ValueError("channel is one of `masks`, of which there are none; leave it out")
        if self.centre is not None and self.place == "tissue":
            raise ValueError("centre says where a tumour goes, and `place` that this is drawn; leave one out")
        if self.masks is None and self.pairs == "drawn":
            raise ValueError("pairs drawn needs `masks` to draw from")
        return self
