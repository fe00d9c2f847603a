"""Generation of image-label pairs: from which labels, on which anatomy, how many."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from metgan_dist.recipe.section import Section, Seed, comma_list

COPY_PASTE = "copy-paste"  # as `model`: no generator, the brains' own images


class Synthesis(Section):
    """Pairs made by a trained generator (synthesize.py; paper 1, section 4.3.3)."""

    model: str | None = Field(
        None,
        description="checkpoint or run folder of the generator; `copy-paste`, with `masks`: none, lesions are raised "
        "in the brains' own images",
    )
    tiles: str | None = Field(
        None, description="tiles that give anatomy and real labels; empty: those that the generator was trained on"
    )
    anatomies: Annotated[tuple[str, ...], BeforeValidator(comma_list)] = Field(
        (), description="ids of the volumes that give anatomy; empty: all with training tiles"
    )
    organs: Literal["same", "any"] = Field("any", description="anatomy of the label's own organ, or of any")
    count: int = Field(1000, ge=1, description="labels to draw; each gives `samples` tiles")
    seed: Seed = Field(0, description="seed of labels, places and latents")
    real: float = Field(1.0, ge=0, description="share of real non-zero labels, as they are, of what is not transformed")
    merged: float = Field(1.0, ge=0, description="share of labels that are several real ones laid together, likewise")
    drawn: float = Field(0.0, ge=0, description="share of labels from `labels`, likewise")
    transformed: float = Field(
        0.0, ge=0, le=1, description="fraction of all labels that are real ones rotated, scaled and bent; paper: none"
    )
    labels: str | None = Field(None, description="label image, or folder of them, of the user's own (for `drawn`)")
    merge_most: int = Field(3, ge=2, description="real labels in a merged one, at most")
    rotation: float = Field(180.0, ge=0, le=180, description="largest angle of a transformed label, degrees")
    scale: Annotated[tuple[float, float], BeforeValidator(comma_list)] = Field(
        (0.8, 1.25), description="smallest and largest scale of a transformed label"
    )
    elastic: float = Field(3.0, ge=0, description="typical displacement of the elastic transform, pixels")
    elastic_smoothness: float = Field(16.0, gt=0, description="over how many pixels the displacement changes")
    tissue: float | None = Field(
        -0.9,
        ge=-1,
        le=1,
        description="smoothed anatomy above this level is tissue, where lesions may lie; none: anywhere",
    )
    samples: int = Field(
        1, ge=1, description="images of one label and anatomy (spade_vae, sean_vae and spade_stroke make several)"
    )
    gate: float = Field(
        0.0, ge=0, le=1, description="keep pairs in which `segmentor` finds the imposed label with this Dice or better"
    )
    segmentor: str | None = Field(None, description="checkpoint of the gate's segmentor; empty: the run's judge")
    batch_size: int = Field(16, ge=1, description="tiles in one forward pass")
    shard: int = Field(64, ge=1, description="tiles in one file, the unit of a restart")
    replicas: int | Literal["auto"] = Field("auto", description="copies of the generator; auto: as many as have room")
    threads: int = Field(1, ge=1, description="CPU threads of a replica without a GPU; part of what is reproduced")
    pictures: int = Field(8, ge=1, le=64, description="rows of the preview; also dropped pairs kept for looking at")
    volume: str | None = Field(
        None, description="whole volume to fill instead of tiles: its anatomy is read, the tumour channel is written"
    )
    volume_label: str | None = Field(
        None, description="label volume for `volume`, of the same shape; each plane of it is imposed on that plane"
    )
    volume_organ: str | None = Field(
        None, description="organ of `volume`, for generators that were told of several (redgan)"
    )
    masks: str | None = Field(
        None,
        description="data set of lesion masks, as a mask GAN draws them, to lay into healthy brains; whole volumes are "
        "then drawn slice by slice from their tissue maps",
    )
    lesions: int = Field(1, ge=1, description="of `masks`: how many are laid into a brain")
    mirror: bool = Field(True, description="of `masks`: half of them change sides, left and right")
    least_lesion: int = Field(20, ge=1, description="of `masks`: voxels of each that must lie in the parenchyma")
    tries: int = Field(100, ge=1, description="of `masks`: how many are drawn for a lesion before it is given up")
    gain: Annotated[tuple[float, float], BeforeValidator(comma_list)] | None = Field(
        None,
        description="of copy-paste: how many times as bright as before a lesion becomes, drawn between these two; "
        "empty: as those of the training tiles' stroke cases are, against the tissue around them",
    )
    border: float = Field(
        0.5, ge=0, description="of copy-paste: pixels of a plane over which a lesion's increase is blurred"
    )
    picture: str | None = Field(
        None,
        description="of a singan: picture to make anew from `start_scale` on, or to enlarge: PNG, TIFF or NIfTI, grey "
        "values (8 bit) or intensities; empty: images are drawn",
    )
    picture_mask: str | None = Field(
        None, description="of `picture`: where something was drawn; blended with it (insertion.dilate, insertion.blur)"
    )
    start_scale: int | None = Field(
        None, ge=1, description="of `picture`: scale at which it is put in, counted from the coarsest, which is 0"
    )
    enlarge: float | None = Field(
        None,
        gt=1,
        le=16,
        description="of a singan: how many times as long edges become, of `picture` or of the image that was learned",
    )
    direction: Literal["forward", "back"] = Field(
        "forward",
        description="of generators trained on two domains, which translate whole volumes: from the source to the "
        "target, or back",
    )
    region: Literal["volume", "heart"] = Field(
        "volume",
        description="what of a volume is translated: all of it, or of cardiac ones the box around the labelled heart "
        "that tiles are cut from",
    )
    overlap: float = Field(
        0.5, ge=0, lt=1, description="overlap of neighbouring tiles of a whole volume, of their edge"
    )
    format: Literal["ome-zarr", "nifti"] | None = Field(
        None,
        description="a filled volume is written as OME-Zarr alone, or as NIfTI, too, on the grid of its source, "
        "translated ones as either; empty: as NIfTI, too, or instead, where the source is",
    )

    @model_validator(mode="after")
    def _check(self) -> Synthesis:
        if self.real + self.merged + self.drawn <= 0 and self.transformed < 1:
            raise ValueError("one of real, merged and drawn must be above 0, or transformed be 1")
        if self.drawn and self.labels is None:
            raise ValueError("drawn labels need `labels`, an image or a folder of them")
        low, high = self.scale
        if not 0 < low <= high:
            raise ValueError("scale must be two numbers with 0 < smallest <= largest")
        if self.gain is not None and not 1 < self.gain[0] <= self.gain[1]:
            raise ValueError("gain must be two numbers with 1 < smallest <= largest")
        if self.volume is not None and self.volume_label is None:
            raise ValueError("volume needs volume_label, where its lesions lie")
        return self
