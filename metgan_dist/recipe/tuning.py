"""Search over loss weights."""

from __future__ import annotations

from metgan_dist.recipe.section import Section


class Tuning(Section):
    """Search over loss weights (nothing to set yet)."""
