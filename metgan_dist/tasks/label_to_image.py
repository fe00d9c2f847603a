"""Label to image: images are drawn from labels alone, and scored as translations of the anatomy of their places are.

Tiles need no anatomy. Where they have one it is shown, and gives the trivial predictions; the methods do not see it, so
no pixel of the background can be right, and label fidelity is what chooses a checkpoint (`Method.criterion`) unless the
label map says what the background is, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from metgan_dist.recipe import Recipe
from metgan_dist.scores.reference import TRIVIAL
from metgan_dist.tasks.paired import Paired
from metgan_dist.tasks.task import Maker

if TYPE_CHECKING:
    from metgan_dist.volumes.labelled import Role


class LabelToImage(Paired):
    """As paired translation: both stand in one table."""

    name = "label_to_image"
    fields: ClassVar[tuple[Role, ...]] = ("tumour", "label")
    made_of: ClassVar[Role] = "label"

    @classmethod
    def needs(cls, recipe: Recipe, apart: bool) -> list[tuple[Role, ...]]:
        """Image and label of one place; methods that draw from labels refuse images that are drawn apart."""
        return [cls.fields]

    def rows(self, split: str) -> np.ndarray:
        """Whatever has a label, and an image to hold what is drawn against."""
        return self.tiles.positions(split, *self.fields)

    def beside(self, say: Callable[[str], None]) -> dict[str, Maker]:
        """Those of pairs, where the tiles have an anatomy."""
        if not self.tiles.has("anatomy", "tumour"):
            say(f"{' and '.join(TRIVIAL)}: left out, these tiles have no anatomy image to predict from")
            return {}
        return super().beside(say)
