"""CSF, white and grey matter of a diffusion-weighted image told apart by its intensities alone: no anatomy is known.

For brains of which nobody has drawn a map. What is above Otsu's threshold, closed and filled plane by plane, is taken
for the brain, and its voxels fall into three classes by k-means: in DWI fluid is dark, and grey matter a little
brighter than white. The same image gives the same map. No noise is taken away beforehand: what blurs grey matter, a few
pixels wide, into fluid costs more than noise does.
"""

from __future__ import annotations

import numpy as np
import scipy  # loads a part of itself when that is first used
import skimage  # likewise

from metgan_dist.errors import UserError

CLASSES = {1: "CSF", 2: "white matter", 3: "grey matter"}
"""Values of a map, by rising intensity, and what they are called."""

# Shares of the brain's median. What is brighter than the first (rims above air, old damage) would else be a class of
# its own; the others are about those of fluid, white and grey matter in real images, where the classes' means begin.
BRIGHTEST, BEGIN = 1.5, (0.4, 0.92, 1.15)
CLOSED = 6.0  # radius in a plane of what is closed: sulci, whose fluid is as dark as what is outside, mm
_TURNS = 100


def tissue_of(
    image: np.ndarray, apart: np.ndarray | None = None, pixel: float = 1.0, name: str = "image"
) -> np.ndarray:
    """A map of tissues, uint8 (z, y, x): 0 outside of the brain, and `CLASSES`.

    Args:
        image: (z, y, x), brighter in tissue than in fluid and outside.
        apart: bool (z, y, x), voxels that the classes' means are not to depend on (lesions); they get the class that
            their brightness has.
        pixel: size of a pixel in a plane, mm.
        name: of the image, in messages.

    Raises UserError for an image in which no brain, or no three classes, can be told apart.
    """
    values = image.astype(np.float32)
    brain = brain_of(values, pixel, apart)
    fitted = brain if apart is None else brain & ~apart
    seen = values[fitted]
    middle = np.median(seen) if seen.size else 0.0
    begin = np.multiply(BEGIN, middle).astype(np.float32)[:, None]
    seen = np.minimum(seen, np.float32(BRIGHTEST * middle))[:, None]
    try:
        found, _ = scipy.cluster.vq.kmeans2(seen, begin, iter=_TURNS, minit="matrix", missing="raise")
    except (ValueError, scipy.cluster.vq.ClusterError) as error:
        raise UserError(
            f"data.tissue_map: {name}: no brain is seen in it in which fluid, white and grey matter could be told apart"
        ) from error
    means = np.sort(found[:, 0])
    return np.where(brain, 1 + np.digitize(values, (means[1:] + means[:-1]) / 2), 0).astype(np.uint8)


def brain_of(image: np.ndarray, pixel: float = 1.0, apart: np.ndarray | None = None) -> np.ndarray:
    """Where the brain is, bool (z, y, x): the largest part above Otsu's threshold, its planes closed and filled.

    The threshold depends on no voxel of `apart`: between a large bright lesion and all else would be one, too.
    """
    seen = image.ravel() if apart is None else image[~apart]
    if not seen.size or seen.min() == seen.max():
        return np.zeros(image.shape, bool)
    threshold = skimage.filters.threshold_otsu(np.minimum(seen, np.percentile(seen, 99.5)))
    parts, count = scipy.ndimage.label(image > threshold)
    if not count:
        return np.zeros(image.shape, bool)
    largest = parts == 1 + np.argmax(np.bincount(parts.ravel(), minlength=count + 1)[1:])
    reach = max(1, round(CLOSED / pixel))
    disk = skimage.morphology.disk(reach).astype(bool)  # type: ignore[attr-defined]  # exported, but lazily
    planes = []
    for plane in largest:
        wide = np.pad(plane, reach)  # closing reaches beyond the edge
        closed = scipy.ndimage.binary_closing(wide, disk)[reach:-reach, reach:-reach]
        planes.append(scipy.ndimage.binary_fill_holes(closed))
    return np.stack(planes)
