"""A trained model as others use it: found by its run or checkpoint, loaded, and known by what it was trained on.

The files are those of training/checkpoint.py; everything loads with `weights_only=True`.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import nn

from metgan_dist.errors import DamagedFile, UserError
from metgan_dist.methods import build_method, enter_stage
from metgan_dist.methods.method import Method, Stage
from metgan_dist.methods.segmentor import SegmentorNetwork, segmentor_recipe
from metgan_dist.networks.dimensions import check_edges
from metgan_dist.recipe import Recipe, stored_recipe
from metgan_dist.recipe.mistakes import first_mistake
from metgan_dist.recipe.yaml_file import read_yaml
from metgan_dist.storage import absolute, exists, filesystem, join, one_line, parent, read_bytes, read_json

# <run>/train/<role>/<checkpoint>: how far above a checkpoint its run's folder is.
RUN_ABOVE = 3
# Fields that decide the shapes of networks.
SIZES = {
    "method": (
        "width",
        "backbone",
        "merge_full_resolution",
        "label_norm",
        "latent",
        "global_classes",
        "segmentor_width",
        "segmentor_network",
    ),
    "data": ("classes", "anatomy", "tumour"),
}


def load_method(uri: str, options: dict[str, Any] | None = None) -> tuple[Method, Recipe]:
    """The trained method of a checkpoint folder, in eval mode on the CPU, with the recipe that made it.

    `uri` is a checkpoint, or the folder of a run (then its best checkpoint). The averaged networks are used where the
    run kept them. Raises UserError when there is no checkpoint or its weights are no numbers, DamagedFile when it
    cannot be read or is not as it was written.
    """
    folder = checkpoint_folder(uri, options)
    recipe = checkpoint_recipe(folder, options)
    location = join(folder, "state.pt")
    state = load_tensors(location, options)
    method = build_method(recipe, _blank_segmentor(recipe, state))
    _enter(method, recipe, _stage_of(folder, options))
    for name, network in method.saved().items():
        weights = state["ema"].get(name) or state["networks"].get(name)
        if weights is None:
            raise DamagedFile(f"{location}: has no network {name!r}, which its recipe.yaml has; use another checkpoint")
        if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
            raise UserError(f"{location}: weights of its {name} are NaN or infinite; use another checkpoint")
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise DamagedFile(
                f"{location}: weights of its {name} are of other sizes than recipe.yaml beside it says; use another "
                "checkpoint, or both files as they were written"
            ) from error
    return method.to("cpu").eval().requires_grad_(False), recipe


def load_generator(uri: str, options: dict[str, Any] | None = None) -> Method:
    """A trained method ready to generate: ``load_generator(uri).translate({"anatomy": x, "label": l})``.

    x: (N, C, [D,] H, W) float32 in [-1, 1], with the channels that `data.anatomy` names, in their order; l: (N, [D,] H,
    W) int64; the result: as x, with the channels of `data.tumour`. A generator that was told of several organs
    wants `"organ"`, too: (N,) int64, places in its `organs`. `uri` is a run's folder or one of its checkpoints, on disk
    or in object storage.
    """
    return load_method(uri, options)[0]


def checkpoint_recipe(uri: str, options: dict[str, Any] | None = None) -> Recipe:
    """The recipe that made the checkpoint that `uri` names; UserError where it is of another version."""
    location = join(checkpoint_folder(uri, options), "recipe.yaml")
    try:
        return stored_recipe(read_yaml(location, _read(location, options)))
    except ValidationError as error:
        reason = first_mistake(error, "no such field")
        raise UserError(f"{location}: of another version, cannot be read: {reason}") from error


def checkpoint_digest(uri: str, options: dict[str, Any] | None = None) -> str:
    """SHA-256 (hex) of the `state.pt` of the checkpoint that `uri` names (a checkpoint, or a run's folder)."""
    state = join(checkpoint_folder(uri, options), "state.pt")
    fs, path = filesystem(state, options)
    with fs.open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run_of(uri: str, options: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """The `run.json` of the run whose folder, or one of whose checkpoints, `uri` is; the folder itself as `folder`.

    None for a checkpoint that lies in no run's folder, because it was copied away.
    """
    folder = absolute(uri)
    for _ in range(RUN_ABOVE + 1):
        if (written := read_run(folder, options)) is not None:
            return written
        folder = parent(folder)
    return None


def read_run(folder: str, options: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """The `run.json` of a run's folder, with the folder itself as `folder`; None where there is none."""
    location = join(folder, "run.json")
    return {**read_json(location, options), "folder": folder} if exists(location, options) else None


def read_result(folder: str, options: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """The `result.json` of a run's folder, None while there is none."""
    location = join(folder, "result.json")
    return read_json(location, options) if exists(location, options) else None


def find_start(recipe: Recipe) -> dict[str, Any] | None:
    """The trained model that `training.start_from` names, as runs keep it on record: uri, sha256, method, run.

    It is the name of a run under `storage.path`, the folder of a run, or a checkpoint; `run` is the MLflow run that
    trained it, None where that is not known. None where the recipe names none. Raises UserError naming the field where
    there is no such model, or the first tensor in which its networks differ from the recipe's.
    """
    named = recipe.training.start_from
    return None if named is None else _find("training.start_from", named, recipe)


def find_stages(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The trained models that `training.stages_from` names, by stage, as `find_start` gives one.

    Of each only the networks of the stage's players have to be as the recipe's are. Stages that the method does not
    have are for `check_stages`.
    """
    named = recipe.training.stages_from
    return {stage: _find(f"training.stages_from.{stage}", named[stage], recipe, stage) for stage in named}


def _find(field: str, named: str, recipe: Recipe, stage: str | None = None) -> dict[str, Any]:
    options = recipe.storage.options
    beside = join(recipe.storage.path, named)
    place = absolute(beside if read_run(beside, options) else named)
    try:
        folder = absolute(checkpoint_folder(place, options, recipe.training.start_checkpoint))
        theirs = checkpoint_recipe(folder, options)
        if theirs.method.name != recipe.method.name:
            raise UserError(f"{named}: a model of {theirs.method.name}, method.name is {recipe.method.name}")
        state = load_tensors(join(folder, "state.pt"), options)
        if difference := _first_difference(recipe, theirs, state, stage):
            raise UserError(f"{named}: {difference}")
    except UserError as error:
        raise UserError(f"{field}: {error}") from error
    run = run_of(folder, options) or run_of(place, options) or {}
    digest = checkpoint_digest(folder, options)
    return {"uri": folder, "sha256": digest, "method": theirs.method.name, "run": run.get("mlflow_run_id")}


def _first_difference(recipe: Recipe, theirs: Recipe, state: dict[str, Any], stage: str | None) -> str | None:
    """The first tensor of the recipe's networks that those of `state` lack, have besides, or have in another shape.

    Of the networks that `stage` trains, or of all that are not frozen.
    """
    method = build_method(recipe, _blank_segmentor(recipe, state))
    wanted = (set(method.networks) | set(state["networks"])) - set(method.frozen)
    if stage is not None:
        players = method.playing(_enter(method, recipe, stage))
        wanted = {name for player in players for name in player.networks}
    ours = {
        f"{name}.{key}": tuple(value.shape)
        for name, network in method.saved().items()
        if name in wanted
        for key, value in network.state_dict().items()
    }
    others = {
        f"{name}.{key}": tuple(value.shape)
        for name, tensors in state["networks"].items()
        if name in wanted
        for key, value in tensors.items()
    }
    for tensor in {**ours, **others}:
        mine, other = (shapes.get(tensor, "absent") for shapes in (ours, others))
        if mine != other:
            fields = (("method", theirs.method, recipe.method), ("data", theirs.data, recipe.data))
            changed = (
                f"; {section}.{field} is {getattr(old, field)!r} there, {getattr(new, field)!r} here"
                for section, old, new in fields
                for field in SIZES[section]
                if getattr(old, field, None) != getattr(new, field, None)
            )
            return f"{tensor} is {other} there, {mine} here{next(changed, '')}"
    return None


def _enter(method: Method, recipe: Recipe, name: str | None) -> Stage:
    """Let a method go through its stages to the one of that name, or the first alone without one; the stage reached."""
    stages = method.stages(recipe)
    names = [stage.name for stage in stages]
    reached = 0 if name is None else names.index(name)
    for stage in stages[: reached + 1]:
        enter_stage(method, recipe, stage)
    return stages[reached]


def _stage_of(folder: str, options: dict[str, Any] | None) -> str | None:
    """The stage in which a checkpoint was written; None for one of an earlier version."""
    written = join(folder, "meta.json")
    return read_json(written, options).get("stage") if exists(written, options) else None


def _blank_segmentor(recipe: Recipe, state: dict[str, Any]) -> nn.Module | None:
    """The frozen segmentor travels inside the checkpoint; only its architecture has to be built first."""
    if recipe.method.name == "segmentor" or "segmentor" not in state["networks"]:
        return None
    return build_method(segmentor_recipe(recipe)).networks["segmentor"]


def check_segmentor(field: str, uri: str, recipe: Recipe) -> str:
    """`uri` as workers in other folders find it; UserError naming `field` unless it is a segmentor's checkpoint for the
    recipe's classes, number of tumour channels and tiles."""
    method, theirs = load_method(uri, recipe.storage.options)
    if theirs.method.name != "segmentor":
        raise UserError(f"{field}: {uri}: a checkpoint of {theirs.method.name}, not of a segmentor")
    if theirs.data.classes != recipe.data.classes:
        raise UserError(
            f"{field}: {uri}: trained on {theirs.data.classes} classes, data.classes is {recipe.data.classes}"
        )
    theirs_seen, seen = (one.data.channel_numbers[1] for one in (theirs, recipe))
    if theirs_seen != seen:
        raise UserError(f"{field}: {uri}: trained on images of {theirs_seen} channel(s), data.tumour names {seen}")
    _check_takes(field, uri, method.networks["segmentor"], theirs, recipe)
    return absolute(uri)


def _check_takes(field: str, uri: str, segmentor: nn.Module, theirs: Recipe, recipe: Recipe) -> None:
    """UserError for a trained segmentor of other dimensions than the recipe's tiles, or whose edges do not fit it."""
    assert isinstance(segmentor, SegmentorNetwork)
    if theirs.tiles.dimensions != recipe.tiles.dimensions:
        raise UserError(
            f"{field}: {uri}: trained on {theirs.tiles.dimensions}D tiles, tiles.kind {recipe.tiles.kind} gives "
            f"{recipe.tiles.dimensions}D ones"
        )
    try:
        check_edges(recipe.tiles.shape, segmentor.divisor)
    except ValueError as error:
        raise UserError(f"{field}: {uri}: does not fit the tiles: {error}") from error


def checkpoint_folder(uri: str, options: dict[str, Any] | None = None, which: Literal["best", "last"] = "best") -> str:
    """The folder of the checkpoint that `uri` names: itself, or the best or last of a run; UserError for none."""
    for candidate in (uri, join(uri, which)):
        fs, path = filesystem(join(candidate, "state.pt"), options)
        if fs.exists(path):
            return candidate
    if there := (read_result(uri, options) or {}).get("artefacts", {}).get(f"{which}_checkpoint"):
        return str(there)
    raise UserError(
        f"{uri}: no checkpoint here (no state.pt, no result.json); give a run's folder or one of its checkpoints"
    )


def _read(uri: str, options: dict[str, Any] | None) -> bytes:
    fs, path = filesystem(uri, options)
    try:
        return fs.cat_file(path)
    except FileNotFoundError as error:
        raise UserError(f"{uri}: not found; the checkpoint is not whole, use another one") from error


def digest_file(uri: str) -> str:
    """Where the SHA-256 of a file of tensors is kept: ``state.sha256`` for ``state.pt``."""
    return f"{uri.removesuffix('.pt')}.sha256"


def load_tensors(uri: str, options: dict[str, Any] | None = None, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The content of a .pt file of a checkpoint, once it is found to be what was written.

    Earlier versions kept no digest: theirs are compared with the checksums that torch puts into the file. Raises
    UserError where there is no such file, DamagedFile where it has changed or cannot be read.
    """
    content = _read(uri, options)
    try:
        if exists(digest_file(uri), options):
            written = read_bytes(digest_file(uri), options).decode().split()[0]
            if (found := hashlib.sha256(content).hexdigest()) != written:
                raise ValueError(f"SHA-256 {found[:12]}..., {written[:12]}... when it was written")
        elif damaged := zipfile.ZipFile(io.BytesIO(content)).testzip():
            raise ValueError(f"bad checksum of {damaged}")
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except (RuntimeError, EOFError, ValueError, LookupError, OSError, zipfile.BadZipFile, UnpicklingError) as error:
        raise DamagedFile(f"{uri}: not a readable checkpoint ({one_line(error)[:200]}); use another one") from error
