"""Tiles and volumes written for other tools: as what, where to, and what of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from metgan_dist.recipe.section import Section, comma_list


class Export(Section):
    """A tile set, or a data set of volumes, at `data.path` written in the form of other tools (export.py)."""

    format: Literal["nnunet", "nifti", "tiff", "png", "ome-zarr"] = Field(
        "nnunet", description="nnU-Net's raw data, or folders of images and labels of one kind of file"
    )
    folder: str | None = Field(
        None,
        description="where to, for nnunet what nnU-Net calls nnUNet_raw; empty: the folder `export` of the run",
    )
    name: str = Field(
        "Export", pattern=r"^[A-Za-z0-9]+$", description="of the nnU-Net data set: letters and digits, Dataset001_NAME"
    )
    id: int = Field(1, ge=1, le=999, description="of the nnU-Net data set, which no other in the folder may have")
    splits: Literal["patients", "own", "none"] = Field(
        "patients",
        description="of nnunet: patients, the set's own splits and folds, refused where they part a patient; own, also "
        "where they are slabs of one patient; none, all cases are trained on, and nnU-Net draws its folds",
    )
    roles: Annotated[tuple[Literal["anatomy", "tumour"], ...], BeforeValidator(comma_list)] = Field(
        ("anatomy", "tumour"),
        min_length=1,
        description="images that are written, with all channels, where there are any",
    )
    domain: str | None = Field(
        None, description="of a set of two domains, the one that is written, by its name or as source or target"
    )
    values: Literal["normalised", "stored"] = Field(
        "normalised",
        description="of tiles: float32, in [-1, 1] where the set clips, as networks see them; or as they were cut",
    )
    png_range: Annotated[tuple[float, float] | None, BeforeValidator(comma_list)] = Field(
        None,
        description="of png: intensities low,high that become 0 and 65535, beyond them clipped; empty: integers of 8 "
        "or 16 bits as they are, and nothing else",
    )

    @model_validator(mode="after")
    def _check(self) -> Export:
        if self.png_range is not None:
            if self.format != "png":
                raise ValueError(f"png_range is for the format png, not {self.format}; leave it out")
            if self.png_range[0] >= self.png_range[1]:
                raise ValueError("png_range: low must be less than high")
        return self
