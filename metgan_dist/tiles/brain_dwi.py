"""Brain DWI as paper 4 prepares it (section 2.1): the whole volume on one grid, its background silenced.

Resampled to 128 x 128 x 40 (x, y, z), four slices dropped at the top and at the bottom: (32, 128, 128) in z, y, x.
Intensities are clipped at the 99.5th percentile, values below 35 are background and become zero.

The paper leaves open, and we choose: the percentile is taken per volume and channel over the whole cropped grid,
background included; the background rule acts on resampled intensities, before scaling; zero and the percentile are the
ends of the range. The paper registers to the MNI atlas with ANTs first: here volumes are only resampled, so
register them beforehand where that matters. `tiles.grid`, `tiles.margin`, `data.floor` and `data.floor_relative` take
the place of the paper's numbers.
"""

from __future__ import annotations

import numpy as np

from metgan_dist.tiles.intensity import Histogram

GRID = (40, 128, 128)
MARGIN = (4, 0, 0)
BACKGROUND_BELOW = 35.0
CLIP_PERCENTILE = 99.5


def intensity_range(histogram: Histogram) -> tuple[float, float]:
    """(0, 99.5th percentile) of a preprocessed channel: the values that become -1 and 1, for the GANs."""
    return 0.0, histogram.percentile(CLIP_PERCENTILE)


def unet_range(image: np.ndarray) -> np.ndarray:
    """[-1, 1] of the GANs -> [0, 1] of the U-Net."""
    return (image + 1) / 2
