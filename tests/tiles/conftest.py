"""A small data set on disk: multi-page TIFFs with blobs, and the recipe that names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from metgan_dist.recipe import Recipe


@pytest.fixture
def write_volumes(tmp_path: Path) -> Callable[..., Recipe]:
    """write(count, shape, data=, tiles=) -> recipe over `count` volumes v0, v1, ... of random uint16 voxels."""

    def write(
        count: int = 1,
        shape: tuple[int, int, int] = (8, 96, 64),
        *,
        data: dict[str, Any] | None = None,
        tiles: dict[str, Any] | None = None,
        entry: dict[str, Any] | None = None,
        training: dict[str, Any] | None = None,
    ) -> Recipe:
        volumes = []
        for number in range(count):
            random = np.random.default_rng(number)
            paths = {}
            for channel in ("anatomy", "tumour"):
                paths[channel] = f"{channel}-{number}.tif"
                voxels = random.integers(10, 4000, shape).astype(np.uint16)
                tifffile.imwrite(tmp_path / paths[channel], voxels, photometric="minisblack", metadata={"axes": "ZYX"})
            label = (random.random(shape) < 0.02).astype(np.uint8)
            tifffile.imwrite(
                tmp_path / f"label-{number}.tif", label, photometric="minisblack", metadata={"axes": "ZYX"}
            )
            volumes.append({"id": f"v{number}", "path": paths, "label": f"label-{number}.tif", **(entry or {})})
        return Recipe.model_validate(
            {
                "data": {"path": str(tmp_path), "anatomy": "anatomy", "volumes": volumes, **(data or {})},
                "tiles": {"kind": "slice", "size": 32, "gap": 0, **(tiles or {})},
                "training": training or {},
                "scaling": {"tile_memory": 16},
            }
        )

    return write
