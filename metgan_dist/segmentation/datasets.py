"""The synthetic datasets of a cross-validation: opened, and refused where they may not be used for it."""

from __future__ import annotations

from collections.abc import Sequence

from metgan_dist.errors import UserError
from metgan_dist.lineage import Tissue, check_untouched
from metgan_dist.main_job import segmented_domain
from metgan_dist.recipe import Recipe
from metgan_dist.storage import absolute, exists, join
from metgan_dist.tiles.mixture import check_fits
from metgan_dist.tiles.tile_set import MANIFEST, TileSet
from metgan_dist.tracking import tracking_uri

FIELD = "segmentation.datasets"


def open_datasets(recipe: Recipe) -> tuple[TileSet, ...]:
    """The datasets that the recipe trains on: none where it asks for no synthetic tiles.

    Raises UserError when there is nothing to train on at all, and for a folder that is no synthetic set.
    """
    settings = recipe.segmentation
    if not settings.synthetic:
        if not settings.real:
            raise UserError("segmentation.real: 0 real and 0 synthetic tiles leave nothing to train on; ask for some")
        return ()
    if not settings.datasets:
        raise UserError(
            f"{FIELD}: none given, but segmentation.synthetic asks for {settings.synthetic} tiles; name folders that "
            "synthesize.py wrote"
        )
    sets = []
    for uri in dict.fromkeys(absolute(uri) for uri in settings.datasets):
        if not exists(join(uri, MANIFEST), recipe.storage.options):
            raise UserError(f"{FIELD}: {uri}: no finished synthetic tiles here ({MANIFEST} is missing)")
        sets.append(TileSet.open(uri, recipe.storage.options))
        if "synthesis" not in sets[-1].manifest:
            raise UserError(f"{FIELD}: {uri}: tiles that were not synthesised; name a folder that synthesize.py wrote")
    return tuple(sets)


def of_domain(tiles: TileSet, datasets: Sequence[TileSet], recipe: Recipe) -> tuple[TileSet, tuple[TileSet, ...]]:
    """Real tiles and synthetic sets of the domain that is segmented; as they are where the real tiles have no domains.

    Raises UserError for a domain that they do not have, and for a synthetic set that has no tiles of it.
    """
    wanted = segmented_domain(tiles, recipe)
    if not tiles.domains:
        return tiles, tuple(datasets)
    name = wanted or next(name for name, domain in tiles.domains.items() if domain["role"] == "tumour")
    strange = next((dataset for dataset in datasets if name not in dataset.domains), None)
    if strange is not None:
        theirs = f"of {', '.join(strange.domains)}" if strange.domains else "of no domain"
        raise UserError(
            f"{FIELD}: {strange.uri}: tiles {theirs}, but {name!r} is segmented; name sets cut from volumes that were "
            "translated into it"
        )
    return tiles.of_domain(name), tuple(dataset.of_domain(name) for dataset in datasets)


def check_datasets(datasets: Sequence[TileSet], real: TileSet, recipe: Recipe) -> tuple[Tissue, ...]:
    """What the datasets' generators were trained on.

    Raises UserError when a dataset does not fit the real tiles, or anything behind it has seen their test tiles.
    """
    trained_on: list[Tissue] = []
    for dataset in datasets:
        check_fits(dataset, real)
        trained_on += check_untouched(FIELD, real, dataset, tracking_uri(recipe.tracking, recipe.storage))
    return tuple(trained_on)
