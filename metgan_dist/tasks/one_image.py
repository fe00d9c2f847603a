"""One image: a method learns a single slice, or a single volume, and is scored by that image itself.

Which tile it is the method's section says (`method.volume`, `method.plane`); where the training tiles are one, nothing
need be said. Nothing is held out: validation and scores after the training ask how near the reconstruction comes, scale
by scale, and how samples compare with the image as distributions of intensities and of patches. So there are no tiles
on which models of several images could be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from metgan_dist.errors import UserError
from metgan_dist.figures import by_channel, image_grid
from metgan_dist.methods.method import Batch, Method
from metgan_dist.methods.singan import SinGAN
from metgan_dist.recipe import Recipe
from metgan_dist.recipe.methods.singan import SinGANRecipe
from metgan_dist.scores.column import columns
from metgan_dist.scores.one_image import rmse, sample_scores
from metgan_dist.scores.scored import Scored, TileScorer
from metgan_dist.tasks.pictures import loaded, on_device
from metgan_dist.tasks.task import ALL, GENERATED, Drawn, Maker, Task, Wanted
from metgan_dist.tiles.stream import tile_batches

SAMPLES, SHOWN = 8, 3
RMSE, AT_SCALE = "reconstruction_rmse", "rmse_scale_"


class OneImage(Task):
    """A single tile that is trained on, whatever the split that is asked for."""

    name = "one_image"
    fields = ("tumour",)
    columns = columns(RMSE, "diversity", "intensity_distance", "patch_distance")
    splits: ClassVar[tuple[str, ...]] = ("train",)
    of_real = frozenset()
    own: tuple[str | None, int | None] | None = None

    def of_method(self, method: Method | type[Method]) -> Self:
        """The task of a method that knows which image is its own."""
        if isinstance(method, SinGAN):
            self.own = method.image
        return self

    def drawn(self, recipe: Recipe, part: str | None = None) -> Drawn:
        """The tile that the recipe names; UserError where it names none of several, or one that is constant."""
        method = SinGANRecipe.of(recipe.method)
        row = self.row(method.volume, method.plane)
        image = self.tiles.load(int(row))["tumour"]
        if image.min() == image.max():
            tile = self.tiles.index.iloc[row]
            raise UserError(
                f"method.plane: the image of {tile['volume']!r} at {tile['plane']} is constant, so there is nothing to "
                "learn; name another one"
            )
        return Drawn(np.array([row]))

    def rows(self, split: str) -> np.ndarray:
        """The tile that is learned; UserError where it is not known whose, as in a comparison of several methods."""
        if self.own is None:
            raise UserError(
                f"{self.tiles.uri}: nothing is held out of a single image, so that its models cannot be compared on "
                "tiles; each is scored by its own image when it has been trained"
            )
        return np.array([self.row(*self.own)])

    def scorer(self, sample: str, wanted: Wanted = ALL) -> TileScorer:
        """Of numbers, and of an image to be shown."""
        return TileScorer(int(self.tiles.manifest["data"]["classes"]), show=wanted.show)

    def score(self, sample: str, scorer: TileScorer, batch: Batch, maker: Maker | None) -> None:
        """The reconstruction at every scale that was reached, and samples at the finest of them."""
        assert isinstance(maker, SinGAN)
        pyramid, image = maker.pyramid, batch["tumour"]
        reconstructed, samples = pyramid.reconstruct(), pyramid.sample(range(SAMPLES))[-1]
        real = [_array(pyramid.real(image, scale)) for scale in range(len(reconstructed))]
        errors = [rmse(_array(own), true) for own, true in zip(reconstructed, real, strict=True)]
        scores = {RMSE: errors[-1], **sample_scores(_array(samples), real[-1][0])}
        scores |= {f"{AT_SCALE}{scale}": error for scale, error in enumerate(errors)}
        shown = maker.translate(batch) if scorer.show else None
        scorer.add(batch, {name: np.array([value]) for name, value in scores.items()}, shown)

    def summary(self, scored: Mapping[str, Scored]) -> dict[str, float]:
        """The scores; of one image there is no spread."""
        return _without_spread(scored[GENERATED].summary())

    def summaries(self, scored: Mapping[str, Scored], rows: np.ndarray) -> dict[str, dict[str, float]]:
        """As `summary`."""
        return {name: _without_spread(one.of(rows).summary()) for name, one in scored.items()}

    def line(self, split: str, scores: Mapping[str, Any]) -> str:
        """The error at the finest scale and at the coarsest, and what is told of samples."""
        own = scores[GENERATED]
        return (
            f"the image: reconstruction RMSE {own[RMSE]:.4f} ({own[f'{AT_SCALE}0']:.4f} at the coarsest scale); of "
            f"{SAMPLES} samples, in deviations of its intensities: diversity {own['diversity']:.3f}, intensities "
            f"{own['intensity_distance']:.3f}, patches {own['patch_distance']:.3f} away"
        )

    def grid(self, method: Method, rows: np.ndarray, device: torch.device) -> bytes:
        """PNG of the image, its reconstruction and samples, a column for each scale (and channel)."""
        assert isinstance(method, SinGAN)
        (batch,) = tile_batches(self.tiles, rows[:1], 1)
        image, pyramid = on_device(batch, device)["tumour"], method.pyramid
        with torch.no_grad():
            reconstructed, samples = pyramid.reconstruct(), pyramid.sample(range(SHOWN))
        shown: dict[str, list[np.ndarray]] = {}
        for scale, own in enumerate(reconstructed):
            images = np.concatenate([_array(one) for one in (pyramid.real(image, scale), own, samples[scale])])
            shown |= by_channel(" x ".join(map(str, own.shape[2:])), list(images), self.tiles.channels("tumour"))
        return image_grid(shown, rows=["real", "reconstructed", *("sample",) * SHOWN])

    def given(self, rows: np.ndarray) -> dict[str, list[np.ndarray]]:
        """The image."""
        return loaded(self.tiles, rows, {"real": "tumour"})

    def row(self, volume: str | None, plane: int | None) -> int:
        """The training tile of a volume and plane; UserError, naming the field, unless that is one."""
        tiles = self.tiles.index.reset_index(drop=True)[self.tiles.with_roles(*self.fields)]
        for name, wanted in (("volume", volume), ("plane", plane)):
            tiles = _of(tiles, name, wanted)
        rows = tiles.index[tiles["split"] == "train"]
        if len(rows) > 1:
            raise UserError(
                f"tiles.size: the image is cut into {len(rows)} tiles, and singan learns it as a whole; make tiles of "
                "its size, along one of tiles.views"
            )
        return int(rows[0])


def _of(tiles: pd.DataFrame, name: str, wanted: Any) -> pd.DataFrame:
    """The training tiles whose volume, or plane, is the wanted one, or the only one; UserError where there is none."""
    trained = tiles[tiles["split"] == "train"]
    known = sorted(set(trained[name]))
    if wanted is None and len(known) > 1:
        raise UserError(f"method.{name}: one image is learned, and there are several; name one of {_few(known)}")
    if wanted is not None and wanted not in known:
        there = "is held out" if wanted in set(tiles[name]) else "is not there"
        raise UserError(f"method.{name}: {wanted} {there}; training tiles have {_few(known) or 'none'}")
    return tiles if wanted is None else tiles[tiles[name] == wanted]


def _few(values: Sequence[Any]) -> str:
    shown = [str(value) for value in values]
    return ", ".join(shown if len(shown) <= 6 else [*shown[:3], "...", *shown[-2:]])


def _array(image: Tensor) -> np.ndarray:
    return image.float().cpu().numpy()


def _without_spread(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in scores.items() if not name.endswith("_std")}
