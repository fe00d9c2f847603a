"""What segment_volumes.py does: a trained segmentor on whole test volumes, as they are or translated into its domain.

Nothing is trained. Scores are of independent units (patients) and by region: Dice, average symmetric surface distance
and Hausdorff's, in mm where the voxel size is known; beside their means how they lie, as Sallé et al. (2021) have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch

from metgan_dist.errors import UserError
from metgan_dist.evaluation.tables import aligned
from metgan_dist.evaluation.whole_volumes import per_unit
from metgan_dist.lineage import check_start
from metgan_dist.lineage.records import COMPARED
from metgan_dist.main_job import segmented_domain
from metgan_dist.methods.segmentor import Segmentor
from metgan_dist.recipe import Recipe, Tiles
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun, is_tile_set
from metgan_dist.scores.spread import Spread, above
from metgan_dist.storage import Options, absolute, join
from metgan_dist.tasks.joined import WholeScores
from metgan_dist.tasks.overlays import Overlays
from metgan_dist.tasks.seen_through import Translator, find_through
from metgan_dist.tasks.shapes import PER_UNIT, SEGMENTED
from metgan_dist.tiles.tile_set import TileSet, open_part
from metgan_dist.tracking import tracking_uri
from metgan_dist.trained import (
    check_segmentor,
    checkpoint_digest,
    checkpoint_folder,
    checkpoint_recipe,
    load_method,
    read_run,
    run_of,
)

OVERLAYS = "overlays.npz"
FIELDS = ("segmentor", "translator")
GOOD = 0.8  # a Dice above which Sallé et al. count patients
SAME = 0.01  # by how much the sizes of two pixels may differ, as a share


def check_segmented(recipe: Recipe) -> None:
    """UserError for what keeps the recipe's segmentor from being scored on its tiles, before any work."""
    for field in _named(recipe):
        _located(field, recipe)
    if not is_tile_set(recipe):
        raise UserError("data.path: no tiles here to score it on; cut them with make_tiles.py and name their folder")


def located_models(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The models that `segmentation` names, by field, as runs keep them on record; UserError without a segmentor."""
    return {field: _record(field, recipe) for field in _named(recipe)}


def _named(recipe: Recipe) -> list[str]:
    """The fields that name a model; UserError where that of the segmentor names none."""
    if recipe.segmentation.segmentor is None:
        raise UserError("segmentation.segmentor: none given; name a run or checkpoint of train_segmentor.py")
    return [field for field in FIELDS if getattr(recipe.segmentation, field) is not None]


def segmented_tags(recipe: Recipe) -> dict[str, str]:
    """For the MLflow run: the runs that trained its models, which lineage follows; UserError as `check_segmented`."""
    runs = {field: _located(field, recipe)["run"] for field in _named(recipe)}
    return {f"{COMPARED}{field}": str(run) for field, run in runs.items() if run is not None}


def score_segmented(opened: OpenRun) -> None:
    """The work of the job: scores by unit, their spread, files; UserError where models do not fit the tiles.

    Models that have seen a test tile are refused, by whatever way it came to them.
    """
    recipe = opened.recipe
    tiles = TileSet.open(str(recipe.data.path), recipe.storage.options)
    opened.result.artefacts["tiles"] = tiles.uri
    with opened.log() as log:
        log.dataset(f"tiles-{tiles.digest[:8]}", tiles.uri, tiles.digest, "test", len(tiles.positions("test")))
    chosen = _Chosen.of(recipe, tiles)
    store = tracking_uri(recipe.tracking, recipe.storage)
    for field, model in chosen.models.items():
        check_start(f"segmentation.{field}", tiles, model, store)
    with opened.result.phase("scores"):
        uris = {field: str(model["uri"]) for field, model in chosen.models.items()}
        plan = opened.plan
        arguments = uris, tiles.uri, recipe.storage.options, chosen.domain, chosen.back, plan.threads_per_worker
        if recipe.scaling.in_process:
            whole, shown = _looked_at(*arguments)
        else:
            task = ray.remote(num_cpus=plan.cpus_per_worker, num_gpus=plan.gpus_per_worker)(_looked_at)
            whole, shown = ray.get(task.remote(*arguments))
    scores = _scores(whole, chosen.side)
    opened.result.scores["test"] = scores
    opened.result.artefacts |= uris
    text = _report(whole, chosen)
    units = per_unit({opened.run.name: scores}, "run")
    opened.keep(
        {
            "report.md": text.encode(),
            "volumes.csv": units.to_csv(index=False).encode(),
            "overlays.png": shown.png(),
            OVERLAYS: shown.npz(),
        },
        {"overlays.png": "overlays"},
    )
    say(f"\n{text}")


@dataclass(frozen=True)
class _Chosen:
    """Models on record (uri, sha256, method, run) by field; the domain whose tiles are segmented, None without any; how
    scores call its side; whether the translator goes back."""

    models: Mapping[str, dict[str, Any]]
    domain: str | None
    side: str
    back: bool

    @staticmethod
    def of(recipe: Recipe, tiles: TileSet) -> _Chosen:
        """UserError where the models, the domain and the tiles do not fit together."""
        domain, side = _domain(recipe, tiles)
        own = tiles if domain is None else tiles.of_domain(domain)
        if not len(own.positions("test", "tumour", "label")):
            raise UserError(f"data.path: {tiles.uri} has no labelled test tiles{_of(domain)}, so nothing can be scored")
        models = located_models(recipe)
        seen = recipe.model_copy(update={"data": recipe.data.model_copy(update=_seen(own))})
        check_segmentor("segmentation.segmentor", str(models["segmentor"]["uri"]), seen)
        rules, channels = Tiles.model_validate(own.manifest["tiles"]), len(own.channels("tumour"))
        back = "translator" in models and goes_back(
            str(models["translator"]["uri"]), recipe.storage.options, domain, channels, rules
        )
        return _Chosen(models, domain, side, back)


def _seen(own: TileSet) -> dict[str, Any]:
    data = own.manifest["data"]
    return {"tumour": data["tumour"], "anatomy": "", "classes": data["classes"]}


def _of(domain: str | None) -> str:
    return "" if domain is None else f" of {domain!r}"


def _domain(recipe: Recipe, tiles: TileSet) -> tuple[str | None, str]:
    """The domain that is segmented, by default the target, and its side; UserError for one that the tiles have not."""
    names = {domain["role"]: name for name, domain in tiles.domains.items()}
    name = segmented_domain(tiles, recipe) or names.get("tumour")
    return name, "source" if name is not None and name != names["tumour"] else "target"


def _record(field: str, recipe: Recipe) -> dict[str, Any]:
    """A model that a field of `segmentation` names, as runs keep it on record: located, with its SHA-256."""
    model = _located(field, recipe)
    return {**model, "sha256": checkpoint_digest(model["uri"], recipe.storage.options)}


def _located(field: str, recipe: Recipe) -> dict[str, Any]:
    """Checkpoint, method and run of a model that is named by run or checkpoint; UserError for one of another kind."""
    named, options = str(getattr(recipe.segmentation, field)), recipe.storage.options
    beside = join(recipe.storage.path, named)
    place = absolute(beside if read_run(beside, options) else named)
    try:
        folder = absolute(checkpoint_folder(place, options))
        method = checkpoint_recipe(folder, options).method.name
    except UserError as error:
        raise UserError(f"segmentation.{field}: {error}") from error
    if (method == "segmentor") != (field == "segmentor"):
        raise UserError(f"segmentation.{field}: {named}: a model of {method}; name a {field}")
    run = run_of(folder, options) or run_of(place, options) or {}
    return {"uri": folder, "method": method, "run": run.get("mlflow_run_id")}


def goes_back(uri: str, options: Options | None, domain: str | None, channels: int, rules: Tiles) -> bool:
    """Whether a translator brings images of a domain from its target to its source.

    UserError where it does neither, or was trained on images of another number of channels or on tiles of other pixels
    or intensities than `rules` give.
    """
    method, theirs = load_method(uri, options)
    field, ways = "segmentation.translator", (theirs.data.source, theirs.data.target)
    if theirs.data.domains and domain not in ways:
        raise UserError(f"{field}: {uri}: translates between {' and '.join(map(str, ways))}, not {domain!r}")
    back = bool(theirs.data.domains) and domain == theirs.data.target
    if back and not method.translates_back:
        raise UserError(f"{field}: {uri}: {theirs.method.name} does not translate {domain!r} back; name one that does")
    learned = theirs.data.channel_numbers[1 if back else 0]
    if learned != channels:
        raise UserError(f"{field}: {uri}: translates images of {learned} channel(s), these have {channels}")
    if theirs.tiles.dimensions > rules.dimensions:
        raise UserError(f"{field}: {uri}: a translator of crops, and these tiles are planes; cut crops")
    if (theirs.tiles.normalise, theirs.tiles.percentiles) != (rules.normalise, rules.percentiles):
        raise UserError(
            f"{field}: {uri}: its tiles were normalised otherwise; cut these with the same tiles.normalise and "
            "tiles.percentiles"
        )
    sizes = theirs.tiles.pixel_size, rules.pixel_size
    if None not in sizes:
        other, mine = (size[-theirs.tiles.dimensions :] for size in sizes if size is not None)
        if not np.allclose(other, mine, rtol=SAME):
            raise UserError(f"{field}: {uri}: its pixels are {other}, these {mine}; cut both with one size")
    return back


def _looked_at(
    uris: Mapping[str, str],
    tiles_uri: str,
    options: dict[str, Any] | None,
    domain: str | None,
    back: bool,
    threads: int,
) -> tuple[WholeScores, Overlays]:
    """What the models find on the test tiles, joined, and some of it to be looked at."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(threads)
    segmentor = load_method(uris["segmentor"], options)[0].to(device)
    assert isinstance(segmentor, Segmentor)
    translator = None
    if "translator" in uris:
        method, theirs = load_method(uris["translator"], options)
        translator = Translator(method.to(device), theirs.tiles.shape, back)
    tiles = open_part(tiles_uri, options, domain)
    rows = tiles.positions("test", "tumour", "label")
    find = find_through(segmentor, translator)
    return WholeScores.of(tiles, rows, find, device), Overlays.of(tiles, rows, find, translator, device)


def _scores(whole: WholeScores, side: str) -> dict[str, dict[str, Any]]:
    """Means and every unit's scores, as trainings on two domains keep them of their own segmentation.

    With those of each region even where there is one alone, so that its name is known.
    """
    table = whole.by_unit().rename(columns=lambda name: _called(name, side))
    units = {
        str(unit): {str(name): float(value) for name, value in scores.items() if not np.isnan(value)}
        for unit, scores in table.to_dict("index").items()
    }
    means = {str(name): float(column.mean()) for name, column in table.items() if column.notna().any()}
    return {SEGMENTED: means, PER_UNIT: {SEGMENTED: units}}


def _called(name: str, side: str) -> str:
    score, slash, region = name.partition("/")
    return f"{score}_{side}{slash}{region}"


def _report(whole: WholeScores, chosen: _Chosen) -> str:
    """Markdown: a line for each region, with the spread of its scores over units."""
    table = whole.by_unit()
    titles = f"Dice (25/50/75 %), n = {len(table)}", f"ASSD, {whole.unit} (25/50/75 %)", "none", f"Dice > {GOOD}"
    rows = [["Region", *titles]]
    for name in whole.regions:
        dice, apart = table[f"dice/{name}"].dropna(), table[f"assd/{name}"]
        if not len(dice):
            continue
        distance = Spread.of(apart) if apart.notna().any() else None
        shown = "-" if distance is None else distance.text(1, falling=True)
        none = str(int(apart.isna().sum()))
        rows.append([name, Spread.of(dice).text(2), shown, none, str(above(dice, GOOD))])
    through = f", translated by {chosen.models['translator']['method']}" if "translator" in chosen.models else ""
    return (
        f"**Whole test volumes{_of(chosen.domain)}{through}, segmented**\n\n{aligned(rows)}\n"
        "Of independent units (patients, or volumes where none are known): mean ± standard deviation (quartiles, of "
        "distances from the longest to the shortest). Distances are of units in which the region was found; `none`: of "
        "how many it was not.\n"
    )
