"""The steps of the main job, in order: tiles, segmentor, judge, the method, and its scores on what it never saw."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
import torch

from metgan_dist.errors import UserError
from metgan_dist.methods import check_method, check_methods, check_named_segmentors, method_class, needs_segmentor
from metgan_dist.methods.segmentor import judge_recipe, segmentor_recipe
from metgan_dist.recipe import BACKGROUND, LESION, Recipe, class_names
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun, is_tile_set
from metgan_dist.scores.fidelity import unlearned
from metgan_dist.storage import absolute, join
from metgan_dist.tasks import task_class, task_of
from metgan_dist.tasks.held_out import score_held_out
from metgan_dist.tasks.pictures import picture_rows
from metgan_dist.tasks.segmentation import JUDGE_SOURCE, PARTS, Part, Segmentation, chosen_cases, segmentor_rows
from metgan_dist.tasks.unpaired import check_apart, check_shares
from metgan_dist.tiles.pipeline import make_tiles
from metgan_dist.tiles.survey import check_volumes
from metgan_dist.tiles.tile_set import SPLITS, TileSet, check_pairs, lacking_role
from metgan_dist.trained import check_segmentor, find_stages, find_start, load_method, read_result, run_of
from metgan_dist.training.assignment import Assignment
from metgan_dist.training.choice import Choice
from metgan_dist.training.launch import Trained, run_training
from metgan_dist.training.organs import never_trained, with_organs
from metgan_dist.training.schedule import Length, check_stages
from metgan_dist.volumes.dataset import as_described, resolve_data
from metgan_dist.volumes.labelled import Role
from metgan_dist.volumes.phantoms import write_phantom

Needs = Sequence[Sequence[Role]]


def check_paired_tiles(recipe: Recipe, needed: Needs = ()) -> list[str]:
    """As `check_tiles`, for jobs that take tiles with anatomy and tumour image of one place alone."""
    if domains := as_described(recipe.data).domains:
        check_pairs(tuple(domains), "data.path")
    return check_tiles(recipe, needed)


def check_two_domains(recipe: Recipe) -> None:
    """As `check_tiles`, for what takes labelled tiles of two domains alone."""
    if not as_described(recipe.data).domains:
        raise UserError(
            "data.path: these images are of one place or kind, but the study translates between two domains; say of "
            "each volume which `domain` it is of, or draw the phantom cardiac-unpaired (--recipe cardiac-small)"
        )
    check_tiles(recipe, [("anatomy", "label"), ("tumour", "label")])


def check_tiles(recipe: Recipe, needed: Needs = ()) -> list[str]:
    """UserError for what keeps the recipe's tiles from being cut, or has not what is `needed`, before any work.

    Returns what they will be, in a line.
    """
    return [_checked_tiles(recipe, needed)[0]]


def _checked_tiles(recipe: Recipe, needed: Needs) -> tuple[str, int]:
    """As `check_tiles`; also how many are to train on, at most."""
    if not is_tile_set(recipe):
        planned = check_volumes(recipe, needed)
        size = f"{planned.size / 1e9:.3g} GB before compression"
        train = math.ceil(planned.tiles * (1 - recipe.tiles.test - recipe.tiles.val))
        return f"tiles: at most {planned.tiles} of {planned.volumes} volume(s), {size}", train
    assert recipe.data.path is not None
    tiles = TileSet.open(recipe.data.path, recipe.storage.options)
    _need(tiles, needed)
    counts = tiles.manifest["counts"]
    return "tiles: " + ", ".join(f"{counts[split]} {split}" for split in SPLITS), counts["train"]


def check_segmentor_training(recipe: Recipe) -> list[str]:
    """UserError for what keeps a segmentor from being trained on the recipe's tiles, before any work."""
    own = _as_segmentor(recipe)
    if recipe.method.segmentor:
        raise UserError(
            "method.segmentor: this job trains one; leave it out, or name it in training.start_from to begin with it"
        )
    check_named_segmentors(own)
    check_method(own, own.tiles.shape)
    check_shares(recipe, tuple(as_described(recipe.data).domains))
    if "source" in recipe.training.shares:
        raise UserError("training.shares: source: a segmentor learns from tiles of the target alone; give target=SHARE")
    check_stages(own)
    find_start(own)
    if is_tile_set(recipe):
        assert recipe.data.path is not None
        tiles = segmented_tiles(TileSet.open(recipe.data.path, recipe.storage.options), recipe)
        chosen_cases(tiles, segmentor_rows(tiles), recipe.segmentation, recipe.training.seed)
        _need(tiles, [("tumour", "label")])
        return []
    return check_tiles(recipe, [(domain_role(recipe), "label")])


def domain_role(recipe: Recipe) -> Role:
    """The role of the images that `segmentation.domain` says are segmented: the tumour's, or the source's anatomy.

    UserError for a domain that the data set does not have.
    """
    data, wanted = as_described(recipe.data), recipe.segmentation.domain
    if wanted in ("source", "target") and wanted not in data.domains and data.domains:
        wanted = data.source if wanted == "source" else data.target
    if wanted is not None and wanted not in (data.source, data.target):
        known = ", ".join(name for name in (data.source, data.target) if name) or "none"
        raise UserError(f"segmentation.domain: {wanted!r} is no domain of the data set, which has {known}; correct it")
    return "anatomy" if wanted is not None and wanted == data.source else "tumour"


def check_training(recipe: Recipe, variants: Sequence[Recipe] = ()) -> list[str]:
    """UserError for what keeps the recipe's method, and its segmentors, from being trained, before any work.

    `variants`: recipes with other methods or losses that are to train on the same tiles. Returns lines on what tiles
    and training will be.
    """
    check_methods(recipe, recipe.tiles.shape)
    data = as_described(recipe.data)
    for one in (recipe, *variants):
        check_apart(one, tuple(data.domains))
    Choice.of(recipe)
    check_named_segmentors(recipe, variants)
    _named_segmentors(recipe, needs_segmentor(recipe))
    _check_source_judge(recipe)
    check_stages(recipe)
    find_start(recipe)
    find_stages(recipe)
    for one in (recipe, *variants):
        _check_tissue(one)
    needed = [roles for one in (recipe, *variants) for roles in _needs(one, bool(data.domains), data.apart)]
    line, train = _checked_tiles(recipe, needed)
    if data.apart:  # which of the domains is larger, and so an epoch, is not known yet
        return [line]
    stages = method_class(recipe.method.name).stages(recipe)
    images = Length.of(recipe.training, train, 1, stages=stages).total
    return [line, f"training: at most {images} images in steps of {recipe.training.batch_size} a worker"]


def _check_tissue(recipe: Recipe) -> None:
    """UserError where a method that draws brains from maps of their tissue is given maps of lesions alone."""
    if not method_class(recipe.method.name).of_tissue:
        return
    options = recipe.storage.options
    if is_tile_set(recipe):
        labels = TileSet.open(str(recipe.data.path), options).manifest["data"].get("labels")
    else:
        drawn = recipe.data.path is None
        labels = (as_described if drawn else resolve_data)(recipe.data, options).labels
    if labels is not None and set(class_names(labels)) == {BACKGROUND, LESION}:
        raise UserError(
            f"data.label: the label maps have lesions and no tissue, and {recipe.method.name} draws brains from maps "
            "of their tissue; name a label with them, or set data.tissue_map to kmeans, which makes rough ones of the "
            "images"
        )


def _needs(recipe: Recipe, domains: bool, apart: bool) -> Needs:
    """What the recipe's training asks of the tiles: roles that a tile must have together, one such group a member."""
    return task_class(method_class(recipe.method.name), domains).needs(recipe, apart)


def prepare_tiles(opened: OpenRun) -> TileSet:
    """The recipe's tiles: an existing set, or cut now from volumes or a phantom; runs on one storage share them."""
    recipe, result = opened.recipe, opened.result
    with result.phase("tiles"):
        if is_tile_set(recipe):
            assert recipe.data.path is not None
            tiles = TileSet.open(recipe.data.path, recipe.storage.options)
        else:
            storage = opened.run.folder.rsplit("/", 1)[0]
            recipe = with_phantom(recipe, storage)
            sections = {"data": recipe.data.told(), "tiles": recipe.tiles.told()}
            name = hashlib.sha256(json.dumps(sections, sort_keys=True).encode()).hexdigest()[:12]
            tiles = make_tiles(recipe, join(storage, "tiles", name), say)
    result.tiles = tiles.manifest["counts"]
    result.artefacts["tiles"] = tiles.uri
    say("tiles: " + ", ".join(f"{result.tiles[split]} {split}" for split in SPLITS))
    with opened.log() as log:
        rows = result.tiles["train"]
        log.dataset(tiles.name, tiles.uri, tiles.digest, "training", rows)
        for part, share in zip(tiles.parts, tiles.manifest.get("parts", []), strict=True):
            use = "training" if share["train"] else "validation"
            log.dataset(part.name, part.uri, part.digest, use, share["train"])
        log.text(json.dumps(tiles.manifest, indent=1), "tiles/manifest.json")
    return tiles


def with_phantom(recipe: Recipe, storage: str) -> Recipe:
    """The recipe on its phantom, which is drawn below `storage` where it is not there yet; one with a path as it is."""
    if recipe.data.path is not None:
        return recipe
    phantom = recipe.data.phantom
    digest = hashlib.sha256(phantom.model_dump_json(exclude_none=True).encode()).hexdigest()[:8]
    folder = write_phantom(phantom, join(storage, f"phantom-{phantom.modality}-{digest}"), recipe.storage.options)
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": folder})})


def _need(tiles: TileSet, needed: Needs) -> None:
    for roles in needed:
        if (lacking := lacking_role(tiles.held, roles)) is not None:
            domain, role = lacking
            whose = f"the tiles of the domain {domain!r}" if domain else "these tiles"
            raise UserError(
                f"data.{role}: {tiles.uri}: {whose} have no {role} to train on; name one and cut them again"
            )


def pretrain_segmentor(opened: OpenRun) -> None:
    """Tiles, then one segmentor, for itself."""
    start = opened.start(lambda: find_start(_as_segmentor(opened.recipe)))
    tiles = segmented_tiles(prepare_tiles(opened), opened.recipe)
    trained = train_segmentor(opened, tiles, "segmentor", main=True, weights_from=start)
    opened.result.artefacts |= {
        "best_checkpoint": trained.best,
        "last_checkpoint": trained.last,
        "images": trained.images,
        "stopped_early": trained.stopped_early,
    }
    opened.result.resources = trained.resources


def segmented_tiles(tiles: TileSet, recipe: Recipe) -> TileSet:
    """The tiles of the domain that `segmentation.domain` names, as a set of their own; all, where it names none.

    UserError for a domain that they do not have.
    """
    name = segmented_domain(tiles, recipe)
    return tiles if name is None else tiles.of_domain(name)


def segmented_domain(tiles: TileSet, recipe: Recipe) -> str | None:
    """The domain that `segmentation.domain` names, itself or by its role; None where it names none.

    UserError for a domain that the tiles do not have.
    """
    name = recipe.segmentation.domain
    if name is not None and not tiles.domains:
        raise UserError(f"segmentation.domain: {name!r}, but the tiles {tiles.uri} have no domains; leave it out")
    by_role = {{"anatomy": "source", "tumour": "target"}[own["role"]]: domain for domain, own in tiles.domains.items()}
    name = by_role.get(str(name), name) if name not in tiles.domains else name
    if name is not None and name not in tiles.domains:
        known = ", ".join(tiles.domains)
        raise UserError(f"segmentation.domain: {name!r} is no domain of the tiles {tiles.uri}; they have {known}")
    return name


def _as_segmentor(recipe: Recipe) -> Recipe:
    """The recipe of a run that is for the segmentor itself, which then starts from what the recipe says."""
    own = segmentor_recipe(recipe).model_copy(update={"segmentation": recipe.segmentation})
    said = {field: getattr(recipe.training, field) for field in ("start_from", "stages", "stages_from", "shares")}
    return own.model_copy(update={"training": own.training.model_copy(update=said)})


def train_segmentor(
    opened: OpenRun,
    tiles: TileSet,
    role: str,
    part: Part | None = None,
    *,
    main: bool = False,
    weights_from: str | None = None,
) -> Trained:
    """Train a segmentor on the real training tiles; `role` is its name in the run, which is for it where `main`.

    Without a `part` it learns from all of them. The frozen segmentor and the judge of a method learn each from a part
    of their own, that label fidelity may not be what one network says of another's work; on places too few to be parted
    both learn from all, which a line says. `tiles` may be those of one domain, as which the source's judge sees them.
    """
    _need(tiles, [("tumour", "label")])
    recipe = _on_domain(opened.recipe, tiles)
    own = judge_recipe(recipe) if part == "judge" else segmentor_recipe(recipe)
    if main:
        own = _as_segmentor(recipe)
    check_method(own, tiles.shape)
    if part is not None and not all(len(segmentor_rows(tiles, name, recipe.method.judge_share)) for name in PARTS):
        say(f"{role}: the training tiles lie at too few places to keep segmentor and judge apart; all are used")
        part = None
    count, every = len(Segmentation(tiles).drawn(own, part).rows), len(segmentor_rows(tiles))
    chosen = f" of {every}, as {_why_fewer(own)}" if part is None and count < every else ""
    say(f"{role}: training a segmentor ({own.method.segmentor_network}) on {count} tiles{chosen}")
    with opened.result.phase(role):
        assignment = replace(assign(opened, tiles, role, own), part=part, main=main, weights_from=weights_from)
        trained = run_training(assignment, say)
    opened.result.artefacts[role] = trained.best
    if trained.score is not None:
        opened.result.scores[role] = {"dice": trained.score}
        if (advice := unlearned(trained.score)) is not None:
            say(f"{role}: {advice}")
    return trained


def _why_fewer(recipe: Recipe) -> str:
    """What of a segmentor's recipe leaves out training tiles, in words."""
    default = type(recipe.segmentation)()
    chosen = [getattr(recipe.segmentation, name) != getattr(default, name) for name in ("cases", "least_lesion")]
    why = ["the section segmentation"] * any(chosen) + ["training.shares"] * bool(recipe.training.shares)
    return f"{' and '.join(why)} say{'s' * (len(why) == 1)}"


def _on_domain(recipe: Recipe, tiles: TileSet) -> Recipe:
    """The recipe of who sees the tiles of one domain, whose image takes the place of the tumour's."""
    if tiles.domain is None:
        return recipe
    names = {role: tiles.manifest["data"][role] for role in ("anatomy", "tumour")}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=names)})


@dataclass(frozen=True)
class Prepared:
    """What a method is trained with: tiles, the frozen segmentor where it needs one, and the judges that score it.

    There is no judge where no tumour image has a label; one of the source where that is a domain of its own, and
    labelled.
    """

    tiles: TileSet
    segmentor: str | None
    judge: str | None
    judge_source: str | None = None


def prepare_training(opened: OpenRun, with_segmentor: bool) -> Prepared:
    """Cut the tiles and train the segmentors, where the recipe names none; those that it names are looked at first."""
    wanted = _named_segmentors(opened.recipe, with_segmentor)
    tiles = prepare_tiles(opened)
    check_apart(opened.recipe, tuple(tiles.domains))  # the recipe of a phantom does not name them
    domains = bool(tiles.domains)
    _need(tiles, _needs(opened.recipe, domains, opened.recipe.data.unpaired or domains))
    # What is drawn from the tiles is a mistake here before it is one of every worker.
    task_of(method_class(opened.recipe.method.name), tiles).drawn(opened.recipe)
    for line in (never_trained(with_organs(opened.recipe, tiles), tiles), *_unlabelled(tiles)):
        if line:
            say(line)
    if wanted.get("judge", "") is None and not tiles.has("tumour", "label"):
        say("judge: left out, and label fidelity with it: no tumour image has a label")
        del wanted["judge"]
    _check_source_judge(opened.recipe)
    for role in PARTS:
        if role in wanted and wanted[role] is None:
            wanted[role] = train_segmentor(opened, tiles, role, role).best
    return Prepared(tiles, wanted.get("segmentor"), wanted.get("judge"), source_judge(opened, tiles))


def source_judge(opened: OpenRun, tiles: TileSet) -> str | None:
    """The judge of the source domain: the recipe's, or trained on its tiles; None of pairs, and of unlabelled tiles."""
    judged_by = task_class(method_class(opened.recipe.method.name), bool(tiles.domains)).judged_by
    if JUDGE_SOURCE not in judged_by or not tiles.has("anatomy", "label"):
        return None
    own, given = tiles.of_domain(next(iter(tiles.domains))), opened.recipe.method.judge_source
    if given:
        return check_segmentor("method.judge_source", given, _on_domain(opened.recipe, own))
    return train_segmentor(opened, own, JUDGE_SOURCE, "judge").best


def _check_source_judge(recipe: Recipe) -> None:
    """UserError for a judge of the source that is none for the recipe's images, or where there is no source."""
    given, data = recipe.method.judge_source, as_described(recipe.data)
    if not given:
        return
    if not data.domains:
        raise UserError("method.judge_source: these data have no source domain for it to judge; leave it out")
    check_source_judge(given, recipe)


def check_source_judge(uri: str, recipe: Recipe) -> str:
    """`check_segmentor` of a judge of the source, which sees its images in the place of the tumour's."""
    data = as_described(recipe.data)
    seen = recipe.model_copy(update={"data": data.model_copy(update={"tumour": data.anatomy})})
    return check_segmentor("method.judge_source", uri, seen)


def _unlabelled(tiles: TileSet) -> Iterator[str]:
    """A line for each domain without labels."""
    for name, roles in tiles.held.items():
        if "label" not in roles:
            whose = f"the domain {name!r}" if name else "the data set"
            yield f"data.label: {whose} has no labels: its label is background"


def _named_segmentors(recipe: Recipe, with_segmentor: bool) -> dict[str, str | None]:
    """The segmentors that are needed, by role: the recipe's, which must be some, or None for one to be trained."""
    judged_by = task_class(method_class(recipe.method.name), False).judged_by
    wanted = {"segmentor": recipe.method.segmentor} if with_segmentor else {}
    wanted |= {"judge": recipe.method.judge} if "judge" in judged_by else {}
    return {role: check_segmentor(f"method.{role}", uri, recipe) if uri else None for role, uri in wanted.items()}


def train_method(opened: OpenRun) -> None:
    """The work of `train_metgan`: tiles, frozen segmentor, judge, method, and its scores on tiles it never saw."""
    recipe, result = opened.recipe, opened.result
    start, stages = opened.start(lambda: find_start(recipe)), opened.stages(lambda: find_stages(recipe))
    prepared = prepare_training(opened, needs_segmentor(recipe))
    tiles, segmentor = prepared.tiles, prepared.segmentor
    named = {"judge": prepared.judge, JUDGE_SOURCE: prepared.judge_source}
    judges = {role: uri for role, uri in named.items() if uri is not None}
    taken = {"start_from": start, **{f"stages_from.{stage}": uri for stage, uri in stages.items()}}
    for field, uri in taken.items():
        if uri is not None:
            _compare_tiles(f"training.{field}", uri, tiles)
    with result.phase("training"):
        assignment = assign(opened, tiles, recipe.method.name, recipe)
        assignment = replace(
            assignment,
            segmentor=segmentor,
            judge=prepared.judge,
            judge_source=prepared.judge_source,
            weights_from=start,
            stages_from=stages,
        )
        trained = run_training(assignment, say)
    result.artefacts |= {
        "stopped_early": trained.stopped_early,
        **({} if segmentor is None else {"segmentor": segmentor}),
        **judges,
        "best_checkpoint": trained.best,
        "last_checkpoint": trained.last,
        "images": trained.images,
    }
    result.resources = trained.resources
    if trained.score is not None:
        result.scores["validation"] = {Choice.of(recipe).shown: trained.score}
    with result.phase("scores"):
        _score(opened, tiles, trained.best, judges)


def _compare_tiles(field: str, start: str, tiles: TileSet) -> None:
    """Say so where the weights that `field` names are of other tiles' training: they may have seen the test tiles."""
    run = run_of(start, tiles.options) or {"folder": start}
    theirs = (read_result(run["folder"], tiles.options) or {}).get("artefacts", {}).get("tiles")
    if theirs is None or absolute(str(theirs)) != absolute(tiles.uri):
        say(
            f"{field}: {start} was trained on {theirs or 'tiles that are not known'}; scores on test tiles "
            "count only where it saw none of them"
        )


def assign(opened: OpenRun, tiles: TileSet, role: str, recipe: Recipe) -> Assignment:
    """A training of the open run, to be logged there, on all that the run's plan has."""
    assert opened.run.mlflow_run_id is not None
    return Assignment(
        role=role,
        recipe=with_organs(recipe, tiles),
        tiles=tiles.uri,
        domain=tiles.domain,
        run_folder=opened.run.folder,
        plan=opened.plan,
        tracking_uri=opened.tracking_uri,
        mlflow_run_id=opened.run.mlflow_run_id,
        spool=str(opened.spool),
    )


def _score(opened: OpenRun, tiles: TileSet, checkpoint: str, judges: Mapping[str, str]) -> None:
    """Score the best checkpoint where the training ran, on the tiles of `scores.splits`."""
    plan, options, splits = opened.plan, opened.recipe.storage.options, opened.recipe.scores.splits
    arguments = checkpoint, judges, tiles.uri, options, splits, plan.threads_per_worker * plan.workers
    if opened.recipe.scaling.in_process:
        # Loads what a worker loads, which a driver of Ray's workers need not.
        from metgan_dist.training.in_process import left_as_it_was

        with left_as_it_was():
            scores, grids, lines = _scores_and_grids(*arguments)
    else:
        task = ray.remote(num_cpus=plan.cpus_per_worker, num_gpus=plan.gpus_per_worker)(_scores_and_grids)
        scores, grids, lines = ray.get(task.remote(*arguments))
    for line in lines:
        say(line)
    opened.result.scores |= scores
    names = {split: f"grids/{split}.png" for split in grids}
    opened.keep(
        {names[split]: picture for split, picture in grids.items()},
        {name: f"grid_{split}" for split, name in names.items()},
    )
    for name in names.values():
        say(f"pictures: {join(opened.run.folder, name)}")


def _scores_and_grids(
    checkpoint: str,
    judge_uris: Mapping[str, str],
    tiles_uri: str,
    options: dict[str, Any],
    splits: Sequence[str],
    threads: int,
) -> tuple[dict[str, Any], dict[str, bytes], list[str]]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(threads)
    method = load_method(checkpoint, options)[0].to(device)
    judges = {role: load_method(uri, options)[0].to(device) for role, uri in judge_uris.items()}
    tiles = TileSet.open(tiles_uri, options)
    lines: list[str] = []
    task = task_of(method, tiles, judges)
    scores = score_held_out(task, method, device, lines.append, splits)
    grids = {split: task.grid(method, picture_rows(tiles, task.rows(split)), device) for split in scores}
    return scores, grids, lines
