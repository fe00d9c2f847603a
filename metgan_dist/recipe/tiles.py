"""How volumes become tiles."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from metgan_dist.recipe.section import Section, VoxelSize, comma_list

# Fields that sets from before them were not known by.
LATER = ("grid", "margin")
Modality = Literal["light-sheet", "brain-dwi", "cardiac-ct", "cardiac-mr"]
Normalise = Literal["percentile", "minmax", "none"]
Count = Annotated[int, Field(ge=0)]
Voxels = Annotated[
    tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]],
    BeforeValidator(comma_list),
]
Percentiles = Annotated[tuple[float, float], BeforeValidator(comma_list)]


def check_percentiles(percentiles: tuple[float, float]) -> None:
    """ValueError unless they are two that ascend, from 0 to 100."""
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise ValueError("percentiles must be two numbers with 0 <= lower < upper <= 100")


class Tiles(Section):
    """How volumes become training tiles."""

    kind: Literal["projection", "slice", "crop"] = Field(
        "projection", description="maximum projections of sub-volumes, single slices, or 3D crops"
    )
    modality: Modality = Field("light-sheet", description="preprocessing rules")
    size: Annotated[tuple[int, ...], BeforeValidator(comma_list)] = Field(
        (256,),
        description="edge of a tile in source pixels (after `spacing`), one number or one per axis; given as a flag "
        "without `resize`, it is the edge of the stored tile, too, whatever `resize` a recipe has",
    )
    depth: int | None = Field(
        None, ge=1, description="voxels a projection runs through (projections only); default: the tile's size"
    )
    views: Annotated[tuple[Literal["z", "y", "x"], ...], BeforeValidator(comma_list)] = Field(
        ("z",), description="axes to project or slice along"
    )
    stride: Annotated[tuple[int, ...], BeforeValidator(comma_list)] | None = Field(
        None, description="pixels between neighbouring tiles in the tile's plane; default: the size (no overlap)"
    )
    step: int | None = Field(
        None, ge=1, description="voxels between tiles along the view (not for crops); default: the depth, 1 for slices"
    )
    edge: Literal["shift", "drop", "pad"] = Field(
        "shift", description="last tile of a row: moved inwards, left out, or padded with zeros"
    )
    resize: int | None = Field(
        None, ge=8, description="edge of the tile after resizing (300 -> 256 in the paper), pixels"
    )
    spacing: VoxelSize | None = Field(None, description="resample to this voxel size (z, y, x) in the volume's unit")
    grid: Voxels | None = Field(
        None,
        description="resample every volume as a whole to so many voxels (z, y, x), whatever its own, before anything "
        "is cut; images linear, labels nearest; default: 40,128,128 for brain-dwi, none for others",
    )
    margin: Annotated[tuple[Count, Count, Count], BeforeValidator(comma_list)] | None = Field(
        None,
        description="voxels (z, y, x) of `grid` that are dropped at either end; default: none, or 4,0,0 for brain-dwi "
        "without a `grid` of its own",
    )
    min_foreground: int = Field(0, ge=0, description="label pixels that a tile must hold to be kept")
    normalise: Normalise = Field("percentile", description="to [-1, 1], by which range")
    percentiles: Percentiles = Field((0.5, 99.8), description="lower and upper percentile that become -1 and 1")
    normalise_over: Literal["volume", "plane", "tile"] = Field(
        "volume",
        description="what the range is taken over; `plane`: tiles at the same position along the view, of "
        "which crops have none",
    )
    clip: bool = Field(True, description="clip to [-1, 1] (values outside the range cannot be inverted)")
    test: float = Field(
        0.2, ge=0, lt=1, description="fraction of volumes (or of the slab axis) held out for the scores"
    )
    val: float = Field(0.1, ge=0, lt=1, description="fraction held out to choose the best checkpoint")
    folds: int = Field(
        5,
        ge=2,
        description="folds over what is left, for the downstream study: of whole patients (volumes, where none are "
        "known), as many as there are where they are fewer; of slabs where there is one alone, or split_by says slab",
    )
    split_by: Literal["auto", "volume", "slab"] = Field(
        "auto", description="hold out whole volumes, or a slab of each; auto: volumes when there are enough"
    )
    slab_axis: Literal["auto", "z", "y", "x"] = Field(
        "auto", description="axis that slabs are cut along; auto: the longest"
    )
    gap: int = Field(16, ge=0, description="voxels kept free between tiles on two sides of a split")

    def told(self) -> dict[str, Any]:
        """The section as JSON, by which sets are known: without later fields that say nothing."""
        fields = self.model_dump(mode="json")
        return {name: value for name, value in fields.items() if name not in LATER or value is not None}

    @property
    def dimensions(self) -> int:
        """Axes of a tile: 3 for crops, 2 for projections and slices."""
        return 3 if self.kind == "crop" else 2

    @property
    def shape(self) -> tuple[int, ...]:
        """Pixels of every tile as it is stored and as the networks see it: (H, W), or (D, H, W) for crops.

        `size`, its longest edge brought to `resize` where that is set: 150 x 300 resized to 256 is 128 x 256.
        """
        size = self.size if len(self.size) == self.dimensions else self.size * self.dimensions
        if self.resize is None:
            return size
        # One factor for all edges, so that tissue keeps its proportions.
        return tuple(max(1, round(edge * self.resize / max(size))) for edge in size)

    @property
    def pixel_size(self) -> tuple[float, ...] | None:
        """Size of a pixel along each axis of a tile, up to a factor, as `spacing` has it.

        None without it, and where tiles of several views would differ.
        """
        if self.spacing is None or self.dimensions == 3:
            return self.spacing
        of_views = {
            tuple(size for axis, size in zip("zyx", self.spacing, strict=True) if axis != view) for view in self.views
        }
        return of_views.pop() if len(of_views) == 1 else None

    @model_validator(mode="after")
    def _check(self) -> Tiles:
        check_percentiles(self.percentiles)
        if self.test + self.val >= 1:
            raise ValueError("test + val must leave something to train on (their sum must be below 1)")
        if any(s < 1 for s in (*self.size, *(self.stride or ()))):
            raise ValueError("size and stride must be positive")
        if not self.views or len(set(self.views)) < len(self.views):
            raise ValueError(f"views {','.join(self.views)!r} must name one axis or more, each once")
        if len(self.size) not in (1, self.dimensions):
            raise ValueError("size takes one number, or one per axis of the tile")
        return self
