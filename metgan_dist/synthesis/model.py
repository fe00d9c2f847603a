"""The generator of a synthetic set: where it is from, and which tiles and segmentor go with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from metgan_dist.errors import UserError
from metgan_dist.methods import method_class
from metgan_dist.recipe import Recipe, Synthesis
from metgan_dist.recipe.methods.terms import organs_of
from metgan_dist.storage import Options, absolute, exists, join
from metgan_dist.tasks.one_image import OneImage
from metgan_dist.tiles.tile_set import MANIFEST, TileSet, check_pairs
from metgan_dist.trained import (
    check_segmentor,
    checkpoint_digest,
    checkpoint_folder,
    checkpoint_recipe,
    load_method,
    read_result,
    run_of,
)


@dataclass(frozen=True)
class Model:
    """A checkpoint with the recipe and digest (of its state.pt), and what the run above it left, if there is one.

    `artefacts` are those of the run's result.json: tiles, judge, segmentor; empty where it has not finished.
    """

    uri: str
    sha256: str
    recipe: Recipe
    run_id: str | None
    artefacts: dict[str, Any]
    options: Options = field(repr=False)  # may hold a secret

    def own_tiles(self) -> str:
        """The tiles that the generator was trained on; UserError where its run does not say."""
        if "tiles" not in self.artefacts:
            raise UserError(
                f"synthesis.tiles: {self.uri} lies in no finished run that says which tiles it was trained on; name "
                "them"
            )
        return str(self.artefacts["tiles"])

    @property
    def of_one_image(self) -> bool:
        """Whether it is the pyramid of a single image."""
        return method_class(self.recipe.method.name).task == OneImage.name

    @property
    def facts(self) -> dict[str, Any]:
        """What is put on record of it."""
        return {"uri": self.uri, "sha256": self.sha256, "method": self.recipe.method.name, "run": self.run_id}

    @property
    def tags(self) -> dict[str, str]:
        """For the MLflow run: the generator, and the run that trained it."""
        return tags_of(self.facts)

    def check_domains(self, tiles: TileSet) -> None:
        """UserError unless these are tiles cut from volumes of two domains, alike those that the model learned from."""
        place, manifest = f"synthesis.tiles: {tiles.uri}", tiles.manifest
        if "synthesis" in manifest or "parts" in manifest:
            raise UserError(f"{place}: synthetic or mixed tiles; give tiles cut from volumes")
        if not method_class(self.recipe.method.name).unpaired(self.recipe):
            raise UserError(
                f"{place}: images of two domains ({', '.join(tiles.domains)}) are no pairs, and {self.uri} is of "
                f"{self.recipe.method.name}, which is trained on pairs; use a generator trained on them, as by cyclegan"
            )
        uri = str(self.artefacts.get("tiles", tiles.uri))
        known = exists(join(uri, MANIFEST), self.options)
        own = TileSet.open(uri, self.options) if known and absolute(uri) != tiles.uri else tiles
        domains = {"domains": (list(own.domains), list(tiles.domains))}
        for role in ("anatomy", "tumour"):
            domains[f"data.{role}"] = own.manifest["data"][role], manifest["data"][role]
        self.check_cut_alike(tiles, domains)

    def check_masks(self, tiles: TileSet) -> None:
        """UserError unless these are the tiles with whose masks the model, a mask GAN, was trained, and of volumes."""
        own = self.artefacts.get("tiles")
        if own is not None and absolute(str(own)) != tiles.uri:
            raise UserError(
                f"synthesis.tiles: {tiles.uri}: masks are drawn from nothing, and what the generator has seen are its "
                f"own tiles {own}; leave it out"
            )
        if len(tiles.shape) != 3:
            raise UserError(
                f"synthesis.model: {self.uri} draws masks of {_edges(tiles.shape)} pixels, and a data set has volumes; "
                "use one that was trained on crops"
            )
        self.check_cut_alike(tiles)

    def check_cut_alike(self, tiles: TileSet, more: Mapping[str, tuple[Any, Any]] | None = None) -> None:
        """UserError for tiles of another shape, or other classes, than those that the model learned from.

        more: what else is to agree, by what it is called: (the model's, the tiles').
        """
        same = {
            "tile shape": (list(self.recipe.tiles.shape), list(tiles.shape)),
            "data.classes": (self.recipe.data.classes, tiles.manifest["data"]["classes"]),
        }
        for what, (ours, theirs) in {**same, **(more or {})}.items():
            if ours != theirs:
                raise UserError(
                    f"synthesis.tiles: {tiles.uri}: {what} {theirs!r}, the generator was trained with {ours!r}; use "
                    "tiles cut alike"
                )

    def check_tiles(self, tiles: TileSet) -> None:
        """UserError unless these are tiles cut from volumes, of the model's channels, classes and size."""
        manifest = tiles.manifest
        check_pairs(tiles.domains, f"synthesis.tiles: {tiles.uri}")
        if "synthesis" in manifest or "parts" in manifest:
            raise UserError(f"synthesis.tiles: {tiles.uri}: synthetic or mixed tiles; give tiles cut from volumes")
        if "anatomy" not in manifest["roles"]:
            raise UserError(f"synthesis.tiles: {tiles.uri}: these tiles have no anatomy")
        for name in ("anatomy", "tumour", "classes"):
            ours, theirs = getattr(self.recipe.data, name), manifest["data"][name]
            if ours != theirs and (name == "classes" or name in manifest["roles"]):
                raise UserError(
                    f"synthesis.tiles: {tiles.uri}: data.{name} is {theirs!r}, the generator was trained with {ours!r}"
                )
        edges = self.recipe.tiles.shape
        divisor = method_class(self.recipe.method.name).divisor(self.recipe)
        fits = len(tiles.shape) == len(edges) and all(edge % divisor == 0 for edge in tiles.shape)
        if tiles.shape != tuple(edges) and not fits:
            raise UserError(
                f"synthesis.tiles: {tiles.uri}: tiles of {_edges(tiles.shape)} pixels do not fit a generator trained "
                f"on {_edges(edges)}; use tiles of that size, or of a multiple of {divisor}"
            )

    def check_held_out(self, tiles: TileSet, rows: np.ndarray, options: Options) -> None:
        """UserError when a volume that gives anatomy or labels is held out, as a whole, in the generator's tiles."""
        own = self.artefacts.get("tiles")
        if own is None or absolute(str(own)) == tiles.uri or not exists(join(str(own), MANIFEST), options):
            return
        trained = TileSet.open(str(own), options).index
        for volume in dict.fromkeys(tiles.index["volume"].iloc[rows]):
            splits = set(trained["split"][trained["volume"] == volume])
            if splits & {"test", "unseen"} and "train" not in splits:
                raise UserError(
                    f"synthesis.tiles: {tiles.uri}: volume {volume!r} is held out ({', '.join(sorted(splits))}) in the "
                    f"generator's own tiles {own}; use tiles that hold it out as well"
                )

    def check_organs(self, organs: Iterable[str | None], field: str) -> None:
        """UserError, beginning with `field`, for an organ that the generator was not told of, where it was of several.

        None and "" are no organ.
        """
        known = organs_of(self.recipe.method)
        unknown = sorted({organ or "no organ" for organ in organs} - set(known))
        if len(known) > 1 and unknown:
            raise UserError(
                f"{field}: {', '.join(unknown)} is none of the organs that the generator was trained on, which are "
                f"{', '.join(known)}"
            )

    def check_generates(self, shape: tuple[int, ...], settings: Synthesis) -> None:
        """Try the generator on one tile: UserError when the label changes nothing, or the tile does not fit.

        Also when several `samples` of a label are asked of a method that has only one.
        """
        method, _ = load_method(self.uri, self.options)
        random = torch.Generator().manual_seed(0)
        batch = {
            "anatomy": torch.rand((1, self.recipe.data.channel_numbers[0], *shape), generator=random) * 2 - 1,
            "organ": torch.zeros(1, dtype=torch.long),
        }
        empty = torch.zeros((1, *shape), dtype=torch.long)
        full = torch.ones_like(empty)
        try:
            with torch.no_grad():
                if settings.samples > 1:
                    method.sample({**batch, "label": empty}, 1, random)
                torch.manual_seed(0)
                without = method.translate({**batch, "label": empty})
                torch.manual_seed(0)
                same = torch.equal(without, method.translate({**batch, "label": full}))
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"synthesis.tiles: tiles of {_edges(shape)} pixels do not fit the generator {self.uri}, trained on "
                f"{_edges(self.recipe.tiles.shape)} ({str(error).splitlines()[0]})"
            ) from error
        if same:
            raise UserError(
                f"synthesis.model: {self.uri}: {self.recipe.method.name} makes the same image whatever the label; "
                "use a generator that is conditioned on it, such as metgan"
            )


def tags_of(facts: dict[str, Any]) -> dict[str, str]:
    """Tags of an MLflow run that generated, by the facts of its generator."""
    run = {"generator.run": facts["run"]} if facts["run"] else {}
    if facts["uri"] is None:  # copy-paste
        return {"generator": facts["method"]}
    return {"generator": facts["uri"], "generator.sha256": facts["sha256"], **run}


def find_model(settings: Synthesis, options: Options, *, one_image: bool = False) -> Model:
    """The generator that `synthesis.model` names; UserError where there is none, or a segmentor.

    One that has learned a single image is refused, too, unless `one_image` says that it will do.
    """
    if settings.model is None:
        raise UserError("synthesis.model: none given; name a run of train_metgan.py or one of its checkpoints")
    model = model_at("synthesis.model", settings.model, options)
    if model.of_one_image and not one_image:
        raise UserError(
            f"synthesis.model: {model.uri}: {model.recipe.method.name} has learned one image and makes none of other "
            "tiles or labels; docs/insertion.md says what it makes"
        )
    return model


def model_at(field: str, place: str, options: Options) -> Model:
    """The generator whose run or checkpoint is at a place; UserError, beginning with `field`, for none or a
    segmentor."""
    named = absolute(place)
    try:
        uri = absolute(checkpoint_folder(named, options))
        recipe = checkpoint_recipe(uri, options)
    except UserError as error:
        raise UserError(f"{field}: {error}") from error
    if recipe.method.name == "segmentor":
        raise UserError(f"{field}: {named}: a segmentor; name a run of train_metgan.py or its checkpoint")
    # A run's folder may be named whose best checkpoint lies elsewhere.
    run = run_of(uri, options) or run_of(named, options) or {}
    artefacts = (read_result(run["folder"], options) or {}).get("artefacts", {}) if run else {}
    return Model(uri, checkpoint_digest(uri, options), recipe, run.get("mlflow_run_id"), artefacts, options)


def check_gate(settings: Synthesis, model: Model, options: Options) -> str | None:
    """The checkpoint of the gate's segmentor; None without a gate.

    Raises UserError where there is none, where it is no segmentor of the model's classes, or where it is the very one
    that the generator was trained to please.
    """
    if not settings.gate:
        return None
    named = settings.segmentor or model.artefacts.get("judge")
    if named is None:
        raise UserError(
            "synthesis.segmentor: the gate needs a segmentor, and the generator's run has no judge; name one"
        )
    check_segmentor("synthesis.segmentor", named, model.recipe)
    uri = absolute(checkpoint_folder(named, options))
    own = model.artefacts.get("segmentor")
    if own is not None and checkpoint_digest(own, options) == checkpoint_digest(uri, options):
        raise UserError(
            f"synthesis.segmentor: {uri}: the generator was trained to please this very segmentor; name another one"
        )
    return uri


def _edges(shape: tuple[int, ...]) -> str:
    return " x ".join(str(edge) for edge in shape)
