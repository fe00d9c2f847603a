"""The segmentors that are trained beside a method: they are described by the fields that all methods have."""

from __future__ import annotations

from typing import Any, Literal, Self

from metgan_dist.recipe.method import MethodRecipe


class SegmentorRecipe(MethodRecipe):
    """No fields of its own."""

    name: Literal["segmentor"] = "segmentor"

    @classmethod
    def beside(cls, method: MethodRecipe, **changes: Any) -> Self:
        """The segmentor that a method's section describes, with `changes` to its fields."""
        shared = {field: getattr(method, field) for field in MethodRecipe.model_fields if field != "name"}
        return cls(**{**shared, **changes})
