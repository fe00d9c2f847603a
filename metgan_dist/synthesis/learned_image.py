"""The single image that a SinGAN has learned, as inserting needs it: which one, along which axis, of what pixels."""

from __future__ import annotations

from typing import Any, NamedTuple

from metgan_dist.errors import UserError
from metgan_dist.methods.singan import SinGAN
from metgan_dist.recipe import Recipe
from metgan_dist.recipe.insertion import NAIVE
from metgan_dist.recipe.methods.singan import SinGANRecipe
from metgan_dist.storage import Options
from metgan_dist.synthesis.model import Model, model_at
from metgan_dist.tasks.one_image import OneImage
from metgan_dist.tiles.geometry import AXES
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.trained import load_method


class Learned(NamedTuple):
    """What a SinGAN has seen: itself, its tiles, the row of the tile that it learned."""

    model: Model
    tiles: TileSet
    row: int

    @property
    def image(self) -> dict[str, Any]:
        """The image, as it is put on record."""
        tile = self.tiles.index.iloc[self.row]
        return {
            "volume": str(tile["volume"]),
            "patient": str(tile["patient"]) if tile.get("patient") else None,
            "view": str(tile["view"]),
            "plane": int(tile["plane"]),
            "tile": self.row,
        }

    @property
    def axis(self) -> int:
        """Along which its slices follow each other; z for a volume."""
        return AXES.index(str(self.image["view"])) if len(self.tiles.shape) == 2 else 0

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Of the volume that it has learned, None for a slice."""
        return self.tiles.shape if len(self.tiles.shape) == 3 else None

    def check_start(self, field: str, start_scale: int) -> None:
        """UserError, beginning with `field`, for a scale that no image can be put in at."""
        method, _ = load_method(self.model.uri, self.model.options)
        assert isinstance(method, SinGAN)
        try:
            method.pyramid.check_start(start_scale)
        except UserError as error:
            raise UserError(f"{field}: {error}") from error

    @property
    def spacing(self) -> dict[str, float]:
        """Size of a pixel along the axes of the slice (of the volume), where the set says it."""
        tile = self.tiles.index.iloc[self.row]
        axes = [axis for axis in AXES if self.shape is not None or axis != AXES[self.axis]]
        return {axis: float(tile[f"spacing_{axis}"]) for axis in axes if f"spacing_{axis}" in tile}


def learned_by(recipe: Recipe) -> Learned | None:
    """The SinGAN that `insertion.model` names, None for naive pastes; UserError for what does not harmonise."""
    settings, options = recipe.insertion, recipe.storage.options
    if settings.model is None:
        raise UserError(f"insertion.model: none given; name a run of singan, or {NAIVE}")
    if settings.model == NAIVE:
        return None
    model = model_at("insertion.model", settings.model, options)
    if not model.of_one_image:
        raise UserError(
            f"insertion.model: {model.uri}: of {model.recipe.method.name}, which harmonises nothing; use a run of "
            "singan"
        )
    learned = learned_of("insertion.model", model, options)
    if settings.start_scale is None:
        raise UserError("insertion.start_scale: none given; 1 changes most, the finest of the pyramid least")
    learned.check_start("insertion.start_scale", settings.start_scale)
    return learned


def learned_of(field: str, model: Model, options: Options) -> Learned:
    """What a SinGAN has learned, as its run says; UserError, beginning with `field`, where there is none that does."""
    if "tiles" not in model.artefacts:
        raise UserError(f"{field}: {model.uri} lies in no finished run that says which slice it has learned")
    tiles = TileSet.open(str(model.artefacts["tiles"]), options)
    own = SinGANRecipe.of(model.recipe.method)
    return Learned(model, tiles, OneImage(tiles).row(own.volume, own.plane))
