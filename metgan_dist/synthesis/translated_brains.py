"""Images of stroke volumes by a trained translator, slice by slice from their label maps (Platscher et al., 2.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from metgan_dist.recipe import Recipe
from metgan_dist.runs.open_run import OpenRun
from metgan_dist.synthesis.crew import Crew
from metgan_dist.synthesis.model import Model
from metgan_dist.synthesis.painting import Brain, Image, ImageMaker, Painting
from metgan_dist.synthesis.replica import Replica
from metgan_dist.synthesis.target_range import as_stored
from metgan_dist.tiles.tile_set import TileSet


@dataclass(frozen=True)
class Drawn:
    """All planes of a volume by one latent vector and without dropout, so that they fit together; model: checkpoint."""

    model: str
    batch_size: int
    precision: str
    threads: int
    device: str = "cpu"

    def opened(self, job: Painting, tiles: TileSet) -> ImageMaker:
        """With a replica of the translator."""
        replica = Replica.of_volumes(
            self.model, device=self.device, precision=self.precision, threads=self.threads, options=job.options
        )

        def image(brain: Brain, label: np.ndarray, random: np.random.Generator) -> Image:
            drawn = replica.draw_slices(label, at_once=self.batch_size, seed=int(random.integers(2**31)))
            return Image(as_stored(drawn, [brain.ends] * len(drawn), np.dtype(job.dtype))[0])

        return image


@dataclass(frozen=True)
class ByTranslator:
    """A set whose images a translator draws."""

    recipe: Recipe
    model: Model

    on_gpus: ClassVar[bool] = True
    settings: ClassVar[tuple[str, ...]] = ("batch_size", "threads")

    @property
    def facts(self) -> dict[str, Any]:
        """The translator, as the data set's section `synthesis` has it."""
        return {"model": self.model.facts}

    @property
    def more_settings(self) -> dict[str, Any]:
        """What the voxels follow from and no field of `synthesis` says."""
        return {"precision": self.recipe.training.precision}

    @property
    def images(self) -> Drawn:
        """On a CPU."""
        settings = self.recipe.synthesis
        return Drawn(self.model.uri, settings.batch_size, self.recipe.training.precision, settings.threads)

    def ready(self, opened: OpenRun, job: Painting, crew: Crew) -> Drawn:
        """On the crew's device."""
        return replace(self.images, device=crew.device)

    def __str__(self) -> str:
        return f"{self.model.recipe.method.name} in {self.model.uri}"
