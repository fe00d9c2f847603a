"""What the OME metadata of a Zarr group say of its image, checked before anything is made of them."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from metgan_dist.errors import UserError
from metgan_dist.recipe.mistakes import first_mistake


class _Part(BaseModel):
    """Fields that nothing is read from are let be."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Axis(_Part):
    """An axis since version 0.4."""

    name: str = Field(min_length=1)
    type: str | None = None
    unit: str | None = None

    @property
    def letter(self) -> str:
        """The one that stands for it: c and t by what it is, others by their names."""
        return {"channel": "c", "time": "t"}.get(self.type or "", self.name[:1])


class Transformation(_Part):
    """Of which only scales are read; one that has none is of another kind."""

    type: str | None = None
    scale: list[float] = []


class Level(_Part):
    """A level of the pyramid; `path`: of its array, within the group."""

    path: str | int
    transformations: list[Transformation] = Field([], alias="coordinateTransformations")

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str | int) -> str:
        if PurePosixPath(str(path)).is_absolute() or ".." in PurePosixPath(str(path)).parts:
            raise ValueError(f"path {path} leads out of the image")
        return str(path)


class Multiscale(_Part):
    """A pyramid: its levels, the finest first. Versions before 0.3 state no axes, version 0.3 only their names."""

    axes: list[Axis] | list[str] | None = None
    datasets: list[Level] = Field(min_length=1)
    transformations: list[Transformation] = Field([], alias="coordinateTransformations")

    def named_axes(self, ndim: int) -> tuple[str, list[str | None]]:
        """Letters and units of the axes of an array; t, c, z, y, x where none are stated."""
        axes = [Axis(name=axis) if isinstance(axis, str) else axis for axis in self.axes or []]
        if not axes:
            return "tczyx"[-ndim:], [None] * ndim
        return "".join(axis.letter for axis in axes), [axis.unit for axis in axes]

    def scales(self, level: Level) -> list[list[float]]:
        """All scales of a level: its own, and those of the whole pyramid."""
        return [one.scale for one in (*level.transformations, *self.transformations) if one.type == "scale"]


class _Channel(_Part):
    label: Any = None


class _Omero(_Part):
    channels: list[_Channel] = []


class _Attributes(_Part):
    multiscales: list[Multiscale] = Field(min_length=1)
    omero: _Omero | None = None


def multiscale_of(uri: str, attributes: dict[str, Any]) -> tuple[Multiscale, list[str] | None]:
    """The first image of a group, and the names of its channels, None where it has none.

    UserError where the group holds no image, that says where images are if it only holds others, and for metadata that
    are not as they must be, naming the field.
    """
    if not isinstance(attributes.get("multiscales"), list) or not attributes["multiscales"]:
        raise UserError(f"{uri}: no multiscales metadata{_what_else(uri, attributes)}")
    try:
        found = _Attributes.model_validate({**attributes, "multiscales": attributes["multiscales"][:1]})
    except ValidationError as error:
        raise UserError(
            f"{uri}: its OME metadata are wrong: {first_mistake(error)}; correct them, or write the image again"
        ) from error
    channels = found.omero.channels if found.omero else []
    names = ["" if channel.label is None else str(channel.label) for channel in channels]
    return found.multiscales[0], names or None


def _what_else(uri: str, attributes: dict[str, Any]) -> str:
    if "bioformats2raw.layout" in attributes:
        return f", a collection of images; give one of them, for example {uri}/0"
    if "plate" in attributes or "well" in attributes:
        return ", a plate; give the path of one of its images"
    if isinstance(attributes.get("labels"), list):
        return f"; give one of its labels: {', '.join(map(str, attributes['labels']))}"
    return "; not an OME-Zarr image (give the group that holds `multiscales`)"
