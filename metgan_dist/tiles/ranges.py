"""Which intensities become -1 and 1: by the recipe, the modality and the pixels of a volume, a plane or a tile."""

from __future__ import annotations

from collections.abc import Sequence

from metgan_dist.errors import UserError
from metgan_dist.recipe import Tiles
from metgan_dist.tiles import brain_dwi, cardiac
from metgan_dist.tiles.intensity import Histogram, intensity_range


def range_of(histogram: Histogram, tiles: Tiles) -> tuple[float, float]:
    """(low, high), low < high, of the pixels of one plane or tile.

    `percentile` means the modality's own rule where it has one: paper 4's for brain DWI, the window for CT.
    A constant plane or tile, which a background can be, becomes -1 everywhere.
    """
    if tiles.normalise == "percentile" and tiles.modality == "brain-dwi":
        low, high = brain_dwi.intensity_range(histogram)
    elif tiles.normalise == "percentile" and tiles.modality == "cardiac-ct":
        low, high = cardiac.CT_WINDOW
    else:
        low, high = intensity_range(histogram, tiles.normalise, tiles.percentiles)
    return (low, high) if low < high else (low, low + 1)


def check_volume(histograms: Sequence[Histogram], tiles: Tiles, volume: str, channel: str) -> None:
    """UserError naming volume and channel where that is constant, or where the percentiles fall on one value."""
    whole = Histogram.merge(histograms)
    if tiles.normalise == "none":
        return
    if len(whole.values) == 1:
        raise UserError(
            f"volume {volume!r}: its {channel} channel is {whole.values[0]:g} everywhere; check the file and the "
            "channel name, or remove the volume from the data set"
        )
    if tiles.normalise_over == "volume":
        low, high = whole.percentile(tiles.percentiles[0]), whole.percentile(tiles.percentiles[1])
        by_percentile = tiles.normalise == "percentile" and tiles.modality in ("light-sheet", "cardiac-mr")
        if by_percentile and low == high:
            raise UserError(
                f"tiles.percentiles: {tiles.percentiles[0]:g} and {tiles.percentiles[1]:g} % of the {channel} channel "
                f"of volume {volume!r} are both {low:g}; take them further apart, or set tiles.normalise to minmax"
            )
