"""The sizes of an image at the scales of a pyramid (Shaham et al. 2019, as released)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

Edges = tuple[int, ...]
# Rounding must not make 26 pixels of 25: powers of a root come out a little above the whole number.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Scales:
    """The scales of a pyramid, the coarsest being scale 0.

    Attributes:
        shape: of the image that the pyramid was laid out for, (H, W) or (D, H, W).
        edges: of that image at each scale.
        factor: by which the edges of a scale are shorter than those of the next finer one.
    """

    shape: Edges
    edges: tuple[Edges, ...]
    factor: float

    @classmethod
    def of(cls, shape: Sequence[int], coarsest: int = 25, finest: int = 250, factor: float = 0.75) -> Self:
        """Scales that steps of `factor` lead through from the finest to the coarsest, and one more, as released.

        An image whose longest edge is above `finest` is brought to that first. The factor is then fitted, so that the
        shorter edge in the plane is `coarsest` at scale 0: 256 x 256 has ten scales at 0.774, from 25 to 250 pixels,
        128 x 128 has eight at 0.792. Edges are rounded up. Of a volume, which is beyond the paper, the depth shrinks
        likewise, but not below `coarsest`. Raises ValueError for an edge that is shorter than that.
        """
        longest, shrunk = max(shape), min(1.0, finest / max(shape))
        top = [_up(edge * shrunk) for edge in shape]
        if min(top) < coarsest:
            brought = f", once the longest of {longest} is brought to {finest}," if shrunk < 1 else ""
            raise ValueError(f"an edge of {min(top)} pixels{brought} is shorter than the coarsest scale's {coarsest}")
        # From the image as it is, less those that bringing it to `finest` takes.
        whole, before = (_up(math.log(by) / math.log(factor)) for by in (coarsest / min(shape[-2:]), shrunk))
        steps = whole - before + 1
        fitted = (coarsest / min(top[-2:])) ** (1 / steps)
        edges = tuple(
            tuple(max(min(edge, coarsest), _up(edge * fitted ** (steps - scale))) for edge in top)
            for scale in range(steps + 1)
        )
        return cls(tuple(shape), edges, fitted)

    def __len__(self) -> int:
        return len(self.edges)

    def of_image(self, shape: Sequence[int]) -> tuple[Edges, ...]:
        """The edges at each scale of another image whose pixels are as large as those of the first."""
        return tuple(
            tuple(max(1, round(edge * own / given)) for edge, own, given in zip(shape, edges, self.shape, strict=True))
            for edges in self.edges
        )


def _up(edge: float) -> int:
    return math.ceil(edge - ROUNDING)
