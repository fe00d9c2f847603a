"""Where the tiles of a volume lie, worked out from its metadata alone.

The grid is laid out in *target* voxels: those of the file, or of `tiles.spacing` when it is set. A tile's region is
given back in source voxels, because that is what is read; its pixels are resized to one fixed shape afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

from metgan_dist.errors import UserError
from metgan_dist.recipe import Tiles
from metgan_dist.volumes.volume import Range, Region

AXES = ("z", "y", "x")


@dataclass(frozen=True, slots=True)
class TilePlan:
    """One tile before it is cut.

    Attributes:
        volume: id of the volume.
        index: number of the tile within the volume.
        view: axis that the tile looks along, or "zyx" for a 3D crop.
        plane: where along the view the tile starts, source voxels; 0 for crops.
        region: what it covers, ((z0, z1), (y0, y1), (x0, x1)), source voxels, inside the volume.
        pad: zeros before and after the region along z, y, x, source voxels.
        shape: output pixels, (H, W) or (D, H, W).
    """

    volume: str
    index: int
    view: str
    plane: int
    region: Region
    pad: Region
    shape: tuple[int, ...]


def in_plane(view: str) -> tuple[int, ...]:
    """Axes (0 z, 1 y, 2 x) that make the rows and columns of a tile; all three for a crop."""
    return tuple(axis for axis, name in enumerate(AXES) if name != view)


FINEST = 64  # target voxels of a source voxel along an axis; there is nothing between its neighbours to be seen


def target_factors(tiles: Tiles, volume: str, spacing: tuple[float, float, float] | None) -> tuple[float, float, float]:
    """Source voxels per target voxel along z, y, x; 1 without `tiles.spacing`.

    Raises UserError when resampling is asked of a volume whose spacing is unknown.
    """
    if tiles.spacing is None:
        return 1.0, 1.0, 1.0
    if spacing is None:
        raise UserError(
            f"tiles.spacing: volume {volume!r} has no voxel spacing to resample from; give it in the data set"
        )
    z, y, x = (target / source for target, source in zip(tiles.spacing, spacing, strict=True))
    if min(z, y, x) < 1 / FINEST:
        asked, there = (", ".join(f"{edge:g}" for edge in edges) for edges in (tiles.spacing, spacing))
        raise UserError(
            f"tiles.spacing: {asked}, but the voxels of volume {volume!r} are {there}; one of these would become more "
            f"than {FINEST} along an axis: check the unit"
        )
    return z, y, x


def plan_tiles(
    tiles: Tiles, volume: str, shape: tuple[int, int, int], spacing: tuple[float, float, float] | None = None
) -> list[TilePlan]:
    """All tiles of one volume, view after view, in z, y, x order of their regions.

    Args:
        tiles: section of the recipe.
        volume: id, for the tiles and for messages.
        shape: voxels (z, y, x).
        spacing: voxel size (z, y, x) in the volume's unit, or None where unknown.

    Raises UserError naming the field when a tile does not fit, or a field does not suit the kind of tile.
    """
    _check_fields(tiles)
    factors = target_factors(tiles, volume, spacing)
    plans: list[TilePlan] = []
    for view in ("zyx",) if tiles.kind == "crop" else tiles.views:
        rows = [_axis_rows(tiles, volume, view, axis, shape[axis], factors[axis]) for axis in range(3)]
        output = tiles.shape
        for z in rows[0]:
            for y in rows[1]:
                for x in rows[2]:
                    plane = 0 if view == "zyx" else (z, y, x)[AXES.index(view)][0][0]
                    box, pad = (z[0], y[0], x[0]), (z[1], y[1], x[1])
                    plans.append(TilePlan(volume, len(plans), view, plane, box, pad, output))
    return plans


def axis_starts(length: int, box: int, stride: int, edge: str) -> list[int]:
    """First voxels of boxes along an axis that is at least as long as a box, unless `edge` is "pad".

    >>> axis_starts(10, 4, 4, "shift"), axis_starts(10, 4, 4, "drop"), axis_starts(10, 4, 4, "pad")
    ([0, 4, 6], [0, 4], [0, 4, 8])
    """
    # A box longer than the axis (only with `pad`) starts at 0.
    starts = list(range(0, length - box + 1, stride)) or [0]
    if starts[-1] + box < length:
        if edge == "shift":
            starts.append(length - box)
        elif edge == "pad":
            starts.append(starts[-1] + stride)
    return [start for start in starts if start < length]


def _axis_rows(
    tiles: Tiles, volume: str, view: str, axis: int, length: int, factor: float
) -> list[tuple[Range, Range]]:
    """(interval, padding) of the boxes along one axis, source voxels."""
    along_view = AXES[axis] == view
    if along_view and tiles.kind == "slice":
        # A slice is one source plane: no edge can cut it, and resampling along the view only spaces slices out.
        step = max(1, round((tiles.step or 1) * factor))
        return [((at, at + 1), (0, 0)) for at in range(0, length, step)]
    # Spacings such as 0.3 divide with a remainder of rounding, which must not cost the last voxel.
    target = max(1, int(length / factor + 1e-6))
    edge: str = tiles.edge
    if along_view:
        box = tiles.depth or max(tiles.size)
        stride = tiles.step or box
        if edge == "pad":
            # Nothing to add along the view: a maximum runs through what there is.
            box, edge = min(box, target), "shift"
    else:
        where = in_plane(view).index(axis)
        box = _per_axis(tiles.size, len(in_plane(view)))[where]
        stride = _per_axis(tiles.stride, len(in_plane(view)))[where] if tiles.stride else box
    if box > target and edge != "pad":
        field = f"tiles.depth: {tiles.depth}" if along_view and tiles.depth else f"tiles.size: {_by(tiles.size)}"
        hint = "set tiles.depth" if along_view and not tiles.depth else "make it smaller, or set tiles.edge to pad"
        raise UserError(
            f"{field} is larger than volume {volume!r}: {box} voxels along {AXES[axis]}, it has {target}; {hint}"
        )
    return [_to_source(at, box, length, factor) for at in axis_starts(target, box, stride, edge)]


def _by(numbers: tuple[int, ...]) -> str:
    return "x".join(str(number) for number in numbers)


def _to_source(start: int, box: int, length: int, factor: float) -> tuple[Range, Range]:
    """A box of target voxels as an interval of source voxels inside the volume, and the zeros that complete it."""
    # At least one source voxel, also where the target's voxels are the smaller ones.
    first, last = round(start * factor), max(round(start * factor) + 1, round((start + box) * factor))
    # Rounding may end one voxel past the volume, which is no reason to pad.
    last = length if length < last <= length + factor / 2 else last
    return (first, min(last, length)), (0, max(0, last - length))


def _per_axis(numbers: tuple[int, ...], axes: int) -> tuple[int, ...]:
    return tuple(numbers) if len(numbers) == axes else (numbers[0],) * axes


def _check_fields(tiles: Tiles) -> None:
    """Lists of the wrong length are mistakes; a preset's `depth` or `step` merely says nothing to other kinds."""
    if tiles.kind == "crop" and tiles.normalise_over == "plane":
        raise UserError("tiles.normalise_over: plane: crops lie in no plane; take volume or tile")
    axes = 3 if tiles.kind == "crop" else 2
    if tiles.stride and len(tiles.stride) not in (1, axes):
        raise UserError(f"tiles.stride: {list(tiles.stride)} must be one number or {axes} for tiles.kind {tiles.kind}")
