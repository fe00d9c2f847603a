"""Images of any size for networks that halve them: padded to the next multiple of what they need, and cropped again."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional


def padded(image: Tensor, divisor: int) -> Tensor:
    """`image` (N, C, ...) with each edge brought to the next multiple of `divisor`: 86 x 112 x 112 to 88 x 112 x 112.

    Equally much before and behind, the odd pixel behind. Reflected, since tissue goes on beyond the edge of a crop:
    zeros would be a black wall and copies of the outermost pixel stripes, and both would enter the statistics of norms
    over the whole image. Raises ValueError for an edge that is too short to be reflected.
    """
    missing = [-edge % divisor for edge in image.shape[2:]]
    if not any(missing):
        return image
    if any(edge <= lack - lack // 2 for edge, lack in zip(image.shape[2:], missing, strict=True)):
        raise ValueError(f"edges {tuple(image.shape[2:])} are too short to be reflected to multiples of {divisor}")
    # The last axis comes first in torch's list.
    sides = [side for lack in reversed(missing) for side in (lack // 2, lack - lack // 2)]
    return functional.pad(image, sides, mode="reflect")


def cropped(image: Tensor, edges: Sequence[int]) -> Tensor:
    """The middle of `image` (N, C, ...) with these `edges`, from which `padded` made it."""
    for axis, edge in enumerate(edges, start=2):
        image = image.narrow(axis, (image.shape[axis] - edge) // 2, edge)
    return image
