"""Procedural volumes with known truth: light-sheet, brain DWI, cardiac CT and MR, heads; drawn chunk by chunk."""

from metgan_dist.volumes.phantoms.procedural import Drawing, ProceduralVolume, Truth
from metgan_dist.volumes.phantoms.write import phantom_description, phantom_grid, phantom_volume, write_phantom

__all__ = [
    "Drawing",
    "ProceduralVolume",
    "Truth",
    "phantom_description",
    "phantom_grid",
    "phantom_volume",
    "write_phantom",
]
