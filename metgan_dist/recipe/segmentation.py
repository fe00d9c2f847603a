"""Downstream segmentation: on which mixture of real and synthetic tiles, over which folds."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from metgan_dist.recipe.method import SegmentorLoss, check_loss_weights
from metgan_dist.recipe.section import Section, comma_list


class Segmentation(Section):
    """Segmentors trained fold by fold and scored on one unseen test set (segment_folds.py; paper 1, table 4)."""

    network: Literal["unet", "dynunet", "unet-stroke"] = Field(
        "unet", description="Pan et al.'s U-Net, MONAI's DynUNet as nnU-Net lays it out, or paper 4's U-Net"
    )
    width: float = Field(1.0, gt=0, le=4, description="multiplier of all channel numbers; 1 is the paper")
    domain: str | None = Field(
        None,
        description="of tiles of two domains, the one whose labelled tiles are segmented, by its name or as source "
        "or target; default: the target (train_segmentor.py reads it, too)",
    )
    segmentor: str | None = Field(
        None, description="run or checkpoint of the trained segmentor that segment_volumes.py scores, or labels with"
    )
    translator: str | None = Field(
        None,
        description="run or checkpoint of a method that translates the images of `domain` for that segmentor, back "
        "where they are of its target; empty: it sees them as they are (segment_volumes.py)",
    )
    volumes: Annotated[tuple[str, ...], BeforeValidator(comma_list)] = Field(
        (), description="ids of the volumes that segment_volumes.py labels; empty: all"
    )
    overlap: float = Field(0.5, ge=0, lt=1, description="of neighbouring tiles of a labelled volume, of an edge")
    format: Literal["ome-zarr", "nifti"] | None = Field(
        None, description="of the labels of volumes; empty: NIfTI where the volumes say where their voxels lie"
    )
    replicas: int | Literal["auto"] = Field(
        "auto", description="copies of the segmentor that label volumes; auto: as many as have room"
    )
    threads: int = Field(1, ge=1, description="CPU threads of a copy without a GPU; part of what is reproduced")
    real: float = Field(
        1.0, ge=0, description="real tiles to train on: up to 1 a fraction of each fold's, above 1 a number"
    )
    cases: int | None = Field(
        None,
        ge=1,
        description="patients (volumes, where none are known) whose real tiles are trained on, drawn by training.seed: "
        "fewer are part of more; none: all (train_segmentor.py reads it, too)",
    )
    least_lesion: int = Field(
        0,
        ge=0,
        description="labelled pixels (voxels) that a tile must hold to be trained on, in paper 4 20; those that "
        "validate and test are kept as they are (train_segmentor.py reads it, too)",
    )
    synthetic: Annotated[int, Field(ge=0)] | Literal["all"] = Field(
        0,
        description="synthetic tiles to train on, from `datasets` in equal parts, or all of them; none made from tiles "
        "that validate the fold",
    )
    datasets: Annotated[tuple[str, ...], BeforeValidator(comma_list)] = Field(
        (), description="folders that synthesize.py wrote"
    )
    folds: Annotated[tuple[int, ...], BeforeValidator(comma_list)] = Field(
        (), description="which of the tiles' folds to train; empty: all of them"
    )
    epochs: int = Field(40, ge=1, description="passes over the training tiles, at most")
    max_steps: int | None = Field(None, ge=1, description="stop after this many steps, if before the epochs end")
    patience: int | None = Field(
        10, ge=1, description="stop after so many validations without a better Dice; none: never"
    )
    validate_every: int | None = Field(
        None, ge=1, description="images between validations; none: one pass over the fold's training tiles"
    )
    test_every: int | None = Field(
        None,
        ge=1,
        description="after each so many validations the Dice on the test tiles is noted, volume by volume, which "
        "chooses nothing (paper 4: 1); none: they are seen after the training alone (train_segmentor.py reads it, too)",
    )
    batch_size: int = Field(4, ge=1, description="tiles in a batch")
    learning_rate: float = Field(1e-4, gt=0, description="Adam's learning rate")
    loss: SegmentorLoss = "wbce"
    positive: float = Field(2.0, gt=0, description="weight of lesion pixels in the loss wbce")
    negative: float = Field(0.5, gt=0, description="weight of background pixels in it")
    threshold: float = Field(0.5, gt=0, lt=1, description="probability above which a pixel is lesion")
    strata: int = Field(
        3, ge=1, description="groups of equal size that lesions are sorted into, by area and brightness"
    )
    pictures: int = Field(4, ge=1, le=32, description="worst and median tiles drawn of each")

    @model_validator(mode="after")
    def _check(self) -> Self:
        fields = ("positive", "negative")
        usual = {name: Segmentation.model_fields[name].default for name in fields}
        check_loss_weights(self.loss, {name: (getattr(self, name), usual[name]) for name in fields})
        return self
