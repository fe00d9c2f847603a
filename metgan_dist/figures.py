"""Pictures of a run: grids of tiles and histograms, as PNG; and what all pictures are drawn on.

Matplotlib's object interface is used throughout: no pyplot, no global state, so that pictures can be drawn in a
training worker and in a notebook alike. It is loaded by the first picture: most processes draw none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Voxel = tuple[int, int, int]
"""Numbers along z, y, x."""
CELL_INCHES = 2.0
DOTS_PER_INCH = 110
BINS = 30
# tab10 opens with a blue that drowns in grey images; a single foreground class is drawn in its red.
LABEL_COLOURS = [
    f"tab:{name}" for name in ("red", "green", "blue", "orange", "purple", "brown", "pink", "gray", "olive", "cyan")
]


def canvas(
    width: float, height: float, rows: int = 1, cols: int = 1, title: str = "", fontsize: float = 11
) -> tuple[Figure, np.ndarray]:
    """A figure of so many inches, and its axes as an array (rows, cols)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=fontsize)
    return figure, figure.subplots(rows, cols, squeeze=False)


def png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def image_grid(
    columns: Mapping[str, Sequence[np.ndarray]],
    *,
    title: str = "",
    rows: Sequence[str] = (),
    through: Sequence[Voxel] = (),
) -> bytes:
    """Draw tiles side by side: one row per tile, one named column per role.

    Args:
        columns: arrays per column in drawing order, e.g. anatomy, label, generated, real, cycled. Floating point arrays
            are images, shown in grey with -1 black and 1 white in every tile, so that brightness can be compared.
            Integer arrays are labels (0 background), shown as filled outlines over the tile's image of the first image
            column. Shapes (H, W) or (D, H, W), with a leading axis of length 1 if need be; a volume shows three cuts,
            see `three_cuts`. Columns may have different lengths; missing tiles stay empty.
        title: above the grid.
        rows: a name for each row, e.g. the tile's origin.
        through: of each row of volumes, the voxel through which they are cut; by default that of `most_label` in the
            row's first label, or the middle where it has none.

    Returns:
        The PNG.

    Raises:
        ValueError: there is no tile, or an array has another number of axes.
    """
    count = max((len(tiles) for tiles in columns.values()), default=0)
    if count == 0:
        raise ValueError("an image grid needs at least one tile")
    columns = {name: [_spatial(tile) for tile in tiles] for name, tiles in columns.items()}
    shown = {
        name: [_flat(tile, columns, through, row) for row, tile in enumerate(tiles)] for name, tiles in columns.items()
    }
    backgrounds = next((tiles for tiles in shown.values() if len(tiles) and _is_image(tiles[0])), [])
    figure, axes = canvas(len(columns) * CELL_INCHES, count * CELL_INCHES + 0.3, count, len(columns), title)
    for j, (name, tiles) in enumerate(shown.items()):
        axes[0, j].set_title(name, fontsize=10)
        for i in range(count):
            axes[i, j].set_xticks([])
            axes[i, j].set_yticks([])
            if i >= len(tiles):
                axes[i, j].set_axis_off()
            elif _is_image(tiles[i]):
                _draw_image(axes[i, j], tiles[i])
            else:
                _draw_label(axes[i, j], tiles[i], backgrounds[i] if i < len(backgrounds) else None)
    for i, name in enumerate(rows[:count]):
        axes[i, 0].set_ylabel(name, fontsize=8)
    return png(figure)


def most_label(label: np.ndarray) -> Voxel:
    """The labelled voxel of a label (D, H, W) whose three planes hold most of it; the middle where nothing is labelled.

    Of several the first.
    """
    filled = np.asarray(label) > 0
    if not filled.any():
        depth, height, width = (edge // 2 for edge in filled.shape)
        return depth, height, width
    z, y, x = (filled.sum(axis=others) for others in ((1, 2), (0, 2), (0, 1)))
    held = z[:, None, None] + y[:, None] + x
    depth, height, width = np.unravel_index(np.where(filled, held, 0).argmax(), filled.shape)
    return int(depth), int(height), int(width)


def three_cuts(volume: np.ndarray, through: Voxel) -> np.ndarray:
    """The planes of a volume (D, H, W) through a voxel, as one picture (H + 1 + D, W + 1 + D) of the volume's type.

    xy at the upper left, yz to its right, with y downwards in both, and xz below, with x to the right in both; between
    them and in the corner NaN in images, which is drawn white, and 0 in labels.
    """
    volume = np.asarray(volume)
    depth, height, width = volume.shape
    z, y, x = through
    picture = np.full((height + 1 + depth, width + 1 + depth), np.nan if _is_image(volume) else 0, volume.dtype)
    picture[:height, :width] = volume[z]
    picture[:height, width + 1 :] = volume[:, :, x].T
    picture[height + 1 :, :width] = volume[:, y]
    return picture


def by_channel(name: str, images: Sequence[np.ndarray], channels: Sequence[str]) -> dict[str, list[np.ndarray]]:
    """Images (C, [D,] H, W) as columns of a grid: one column, or one for each of several channels, which it names."""
    if len(channels) < 2:
        return {name: [image[0] for image in images]}
    return {f"{name}: {channel}": [image[k] for image in images] for k, channel in enumerate(channels)}


def histograms(
    panels: Mapping[str, Mapping[str, np.ndarray]],
    *,
    title: str = "",
    logarithmic: Collection[str] = (),
    across: int | None = None,
) -> bytes:
    """Draw distributions side by side, one panel each, as fractions over common bins.

    Args:
        panels: values by name (the legend), by panel. Values that are not finite are left out.
        title: above the panels.
        logarithmic: panels whose values, all above 0, are drawn on a logarithmic axis.
        across: panels in a row of the picture; by default all.

    Returns:
        The PNG.

    Raises:
        ValueError: there is no panel.
    """
    if not panels:
        raise ValueError("histograms need at least one panel")
    columns = min(across or len(panels), len(panels))
    figure, axes = _panels(-(-len(panels) // columns), columns, title)
    for axis in axes.ravel()[len(panels) :]:
        axis.set_axis_off()
    for axis, (panel, named) in zip(axes.ravel(), panels.items(), strict=False):
        finite = {name: np.asarray(values, float)[np.isfinite(values)] for name, values in named.items()}
        bins = _bins(np.concatenate(list(finite.values())), panel in logarithmic)
        for name, values in finite.items():
            if len(values):
                weights = np.full(len(values), 1 / len(values))
                axis.hist(values, bins, weights=weights, histtype="stepfilled", alpha=0.45, label=name)
        if panel in logarithmic:
            axis.set_xscale("log")
        axis.set_title(panel, fontsize=10)
        axis.set_ylabel("fraction", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.legend(fontsize=7)
    return png(figure)


def _panels(rows: int, cols: int, title: str) -> tuple[Figure, np.ndarray]:
    return canvas(cols * 4.0, rows * 2.8 + 0.3, rows, cols, title)


def _bins(values: np.ndarray, logarithmic: bool) -> np.ndarray:
    """Edges of bins over all values; one bin for each where they are few whole numbers."""
    if not len(values):
        return np.array([0.0, 1.0])
    low, high = float(values.min()), float(values.max())
    if logarithmic and low > 0:
        return np.geomspace(low * 0.99, high * 1.01, BINS + 1)
    if (values == values.round()).all() and high - low < BINS:
        return np.arange(low - 0.5, high + 1)
    return np.linspace(low, high if high > low else low + 1, BINS + 1)


def _is_image(tile: np.ndarray) -> bool:
    return np.issubdtype(np.asarray(tile).dtype, np.floating)


def _spatial(tile: np.ndarray) -> np.ndarray:
    """A tile as (H, W) or (D, H, W), its channel axis of length 1 dropped."""
    tile = np.asarray(tile)
    while tile.ndim > 2 and tile.shape[0] == 1:
        tile = tile[0]
    if tile.ndim not in (2, 3):
        raise ValueError(f"a tile to draw is (H, W) or (D, H, W), got {tile.shape}")
    return tile


def _flat(
    tile: np.ndarray, columns: Mapping[str, Sequence[np.ndarray]], through: Sequence[Voxel], row: int
) -> np.ndarray:
    """What is drawn of a tile: itself, or three cuts of a volume."""
    return tile if tile.ndim == 2 else three_cuts(tile, _voxel(columns, through, row))


def _voxel(columns: Mapping[str, Sequence[np.ndarray]], through: Sequence[Voxel], row: int) -> Voxel:
    """Where the volumes of a row are cut."""
    if row < len(through):
        return through[row]
    volumes = [tiles[row] for tiles in columns.values() if row < len(tiles) and tiles[row].ndim == 3]
    label = next((volume for volume in volumes if not _is_image(volume)), None)
    return most_label(np.zeros(volumes[0].shape, bool) if label is None else label)


def _draw_image(axis: Axes, image: np.ndarray) -> None:
    axis.imshow(image, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")


def _draw_label(axis: Axes, label: np.ndarray, background: np.ndarray | None) -> None:
    from matplotlib.colors import ListedColormap

    _draw_image(axis, np.full(label.shape, -1.0) if background is None else background)
    classes = [int(k) for k in np.unique(label) if k > 0]
    if not classes:
        return
    colours = [LABEL_COLOURS[(k - 1) % len(LABEL_COLOURS)] for k in range(1, max(classes) + 1)]
    filled = np.ma.masked_equal(label, 0)
    axis.imshow(
        filled, cmap=ListedColormap(colours), vmin=1, vmax=max(classes) + 1, alpha=0.35, interpolation="nearest"
    )
    for k in classes:
        # A frame of background closes the outlines of regions that touch the border.
        outline = np.pad(label == k, 1).astype(float)
        rows, cols = np.arange(-1, label.shape[0] + 1), np.arange(-1, label.shape[1] + 1)
        axis.contour(cols, rows, outline, levels=[0.5], colors=[colours[k - 1]], linewidths=0.9)
    axis.set_xlim(-0.5, label.shape[1] - 0.5)
    axis.set_ylim(label.shape[0] - 0.5, -0.5)
