"""Whether synthetic tiles, or a run, may be scored on test tiles: nothing behind them has seen those."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from metgan_dist.errors import UserError
from metgan_dist.lineage.records import (
    INSERTED_INTO,
    LABELLED,
    MASKS,
    MEASURED,
    PARTS,
    SYNTHESIS,
    TRANSLATOR,
    VOXELS,
    Records,
    starts,
)
from metgan_dist.lineage.tissue import Tissue, is_of_volumes, is_translated, learned_from, meetings, people
from metgan_dist.lineage.volumes import extent, known_volumes
from metgan_dist.lineage.walk import label_origins
from metgan_dist.tiles.splits import group_of
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.tracking import LoggedRun

HELD_OUT = ("test", "unseen")
TRAINED_ON = ("train", "val")


@dataclass(frozen=True)
class Use:
    """Tiles that went into a synthetic set, and `how`; `own`: into its images and labels, not into its generator."""

    how: str
    tissue: Tissue
    own: bool = False


def check_untouched(
    field: str, test: TileSet, synthetic: TileSet, tracking_uri: str | None = None
) -> tuple[Tissue, ...]:
    """Refuse synthetic tiles behind which anything has seen the test or unseen tiles of `test`.

    What must not touch them: the anatomy of the synthetic tiles (dropped ones too), the tiles that gave labels (of
    tiles cut from translated volumes instead: the patients of their originals, which are of another domain), and the
    training and validation tiles of the generator and of a model that it started from; through mixed and synthetic
    sets that these were trained on, theirs. Touching is told by `tissue.meetings`. A segmentor of the generator, of the
    gate or a judge is no reason, whatever it was trained on; nor is a label from a file, which lies in no volume.

    Every link is verified on the way: manifests and indices against the digests that MLflow has, the checkpoint's
    SHA-256, the runs that made both.

    Args:
        field: of the recipe, or flag, that named the set; begins the message.
        test: the set whose test tiles give the scores.
        synthetic: what `synthesize.py` wrote.
        tracking_uri: MLflow store to ask; the stores that runs on disk name are asked after it.

    Returns what the generator was trained on. Raises UserError in one line that names the link.
    """
    records = Records([tracking_uri] if tracking_uri else [], synthetic.options)
    held_out, trained_on = _held_out(test), []
    try:
        for use in _uses_of_synthesis(synthetic, records):
            if not use.own:
                trained_on.append(use.tissue)
            if touched := _touched(use.tissue, held_out):
                raise UserError(
                    f"{use.how} show test tiles of {test.uri}: {touched}; synthesise with a generator and tiles "
                    "that share these test tiles"
                )
        if is_translated(synthetic):
            _check_people(synthetic, test)
    except UserError as error:
        raise UserError(f"{field}: {error}") from error
    return tuple(trained_on)


def check_starts(field: str, test: TileSet, folder: str, name: str, tracking_uri: str | None = None) -> None:
    """Refuse a trained run, of this name and folder, with weights from another that has seen the test or unseen tiles.

    Its own training tiles are no part of this: they are of the set whose test tiles these are. Links are verified as in
    `check_untouched`. Raises UserError in one line that begins with `field` and names the link.
    """
    records = Records([tracking_uri] if tracking_uri else [], test.options)
    held_out, link = _held_out(test), f"run {name}"
    try:
        for use in _uses_of_starts(records.read_run(folder) or {}, link, records):
            if touched := _touched(use.tissue, held_out):
                raise UserError(
                    f"{use.how} show test tiles of {test.uri}: {touched}; what {link} began with has seen them, so its "
                    "scores on them say nothing"
                )
    except UserError as error:
        raise UserError(f"{field}: {error}") from error


def check_start(field: str, test: TileSet, start: Mapping[str, Any], tracking_uri: str | None = None) -> None:
    """Refuse a model to start from, as `find_start` gives it, that has seen the test or unseen tiles of `test`.

    Through what it started from itself and the synthetic sets that it learned from, too. Links are verified as in
    `check_untouched`. Raises UserError in one line that begins with `field` and names the link.
    """
    records = Records([tracking_uri] if tracking_uri else [], test.options)
    held_out, link = _held_out(test), "model to start from"
    try:
        for use in _uses_of_start(start, link, records):
            if touched := _touched(use.tissue, held_out):
                raise UserError(
                    f"{use.how} show test tiles of {test.uri}: {touched}; start from a model that has seen none of them"
                )
    except UserError as error:
        raise UserError(f"{field}: {error}") from error


def _held_out(test: TileSet) -> Tissue:
    return Tissue(test.index[test.index["split"].isin(HELD_OUT)], known_volumes(test.manifest))


def _uses_of_synthesis(synthetic: TileSet, records: Records) -> Iterator[Use]:
    """Tiles behind a synthetic set, its own before the generator's; UserError where a link does not hold."""
    name = f"synthetic tiles {synthetic.uri}"
    if SYNTHESIS not in synthetic.manifest:
        raise UserError(f"{synthetic.uri}: tiles that were not synthesised; name a folder that synthesize.py wrote")
    made = synthetic.manifest[SYNTHESIS]
    records.tiles(synthetic.uri, synthetic.digest, name)
    records.generated_by(synthetic, name)
    if LABELLED in made:  # images that may be real
        trained = synthetic.index[synthetic.index["split"].isin(TRAINED_ON)]
        yield Use(f"volumes of {name}", Tissue(trained, known_volumes(synthetic.manifest)), own=True)
    if is_of_volumes(made):
        yield from _uses_of_volumes(made, name, records)
        return
    yield from _uses_of_making(made, name, records, synthetic)


def _uses_of_volumes(made: Mapping[str, Any], name: str, records: Records) -> Iterator[Use]:
    """What the models have seen that brought tumours into volumes or labelled them, and what made these volumes and
    tumours, where they are synthetic; whose they are the patients say."""
    for role, model in (("generator", made["model"]), (TRANSLATOR, made.get(TRANSLATOR))):
        if model is not None and model["uri"] is not None:
            yield from _uses_of_generator(model, f"{role} of {name}", records)
    for key, what in ((INSERTED_INTO, "volumes"), (LABELLED, "volumes"), (MASKS, "tumours")):
        if key not in made or made[key][VOXELS] is None:
            continue
        place = str(made[key]["uri"])
        before = records.translated_at(place)
        if before is None or before[VOXELS] != made[key][VOXELS]:
            raise UserError(f"{what} of {name}: {place}: not the data set that it was, or gone")
        if is_of_volumes(before):
            yield from _uses_of_volumes(before, f"{what} of {name}", records)
        else:
            yield from _uses_of_making(before, f"{what} of {name}", records)


def _uses_of_making(
    made: Mapping[str, Any], name: str, records: Records, synthetic: TileSet | None = None
) -> Iterator[Use]:
    """Tiles behind what a generator made of tiles; of synthetic tiles that are no translated volumes' their own."""
    source = records.tiles(made["tiles"]["uri"], made["tiles"]["digest"], f"source of {name}")
    if synthetic is not None and not is_translated(synthetic):
        volumes = known_volumes(source.manifest)
        yield Use(f"anatomies of {name}", Tissue(synthetic.index, volumes), own=True)
        rows, _ = label_origins(synthetic)
        yield Use(f"labels of {name}", Tissue(source.index.iloc[sorted(set(rows))], volumes), own=True)
    if made["model"]["uri"] is None:  # copy-paste
        measured = source.index["volume"].isin(made.get(MEASURED, {}).get("volumes", ()))
        yield Use(f"lesions measured for {name}", Tissue(source.index[measured], known_volumes(source.manifest)))
        return
    yield from _uses_of_generator(made["model"], f"generator of {name}", records)


def _uses_of_generator(model: Mapping[str, Any], link: str, records: Records) -> Iterator[Use]:
    """Tiles that a generator's training has seen; of one that has learned a single image that one."""
    records.checkpoint(model["uri"], model["sha256"], link)
    for use in _uses_of_model(records.trained_by(model["uri"], model["run"], link), link, records):
        if (image := model.get("image")) is not None:
            tissue = replace(use.tissue, rows=use.tissue.rows.loc[use.tissue.rows.index == image["tile"]])
            yield replace(use, tissue=tissue, own=False)
        else:
            yield replace(use, own=False)  # what a synthetic set that it was trained on was made of, too


def _uses_of_model(run: LoggedRun, link: str, records: Records) -> Iterator[Use]:
    """Tiles that a model's training has seen, and those behind the weights that it started from."""
    yield from _uses_of_starts(records.folder_of(run, link) or {}, f"the {link}", records)
    for logged in records.training_data(run, link):
        data = f"training data of run {run.name} ({run.id}), the {link},"
        yield from _uses_of_training(records.tiles(logged.uri, logged.digest, data), data, records)


def _uses_of_starts(written: Mapping[str, Any], link: str, records: Records) -> Iterator[Use]:
    """Tiles behind the weights that a run began with, as its `run.json` says."""
    for stage, start in starts(written):
        before = f"start of {link}" if stage is None else f"stage {stage} of {link}"
        yield from _uses_of_start(start, before, records)


def _uses_of_start(start: Mapping[str, Any], link: str, records: Records) -> Iterator[Use]:
    """Tiles behind a model to start from, whose checkpoint must be the one on record."""
    records.checkpoint(start["uri"], start["sha256"], link)
    yield from _uses_of_model(records.trained_by(start["uri"], start["run"], link), link, records)


def _uses_of_training(tiles: TileSet, how: str, records: Records) -> Iterator[Use]:
    """Tiles that a training on a set has seen, of whatever kind the set is."""
    trained = tiles.index[tiles.index["split"].isin(TRAINED_ON)]
    if SYNTHESIS in tiles.manifest:
        yield from _uses_of_synthesis(tiles, records)
        return
    for number, part in enumerate(tiles.manifest.get(PARTS, [])):
        own = records.tiles(part["uri"], part["digest"], f"part of mixed tiles {tiles.uri}")
        if SYNTHESIS in own.manifest:
            yield from _uses_of_synthesis(own, records)
        else:
            yield Use(how, Tissue(trained[trained["part"] == number], known_volumes(own.manifest)))
    if PARTS not in tiles.manifest:
        yield Use(how, Tissue(trained, known_volumes(tiles.manifest)))


def _check_people(translated: TileSet, test: TileSet) -> None:
    """UserError where an original of translated volumes is of a patient whom test tiles show in another domain.

    Also where such a patient's masks are among those that the generator of drawn masks learned from, whatever the data
    set.
    """
    held_out = group_of(test.index[test.index["split"].isin(HELD_OUT)])
    shared = sorted(set(people(translated)) & set(held_out))
    if shared:
        raise UserError(
            f"originals of synthetic tiles {translated.uri} are of {shared[0]}, whom test tiles of {test.uri} show; "
            "translate volumes of other patients"
        )
    if known := sorted(learned_from(translated) & set(held_out)):
        raise UserError(
            f"lesions of {known[0]}, whom test tiles of {test.uri} show, are in synthetic tiles {translated.uri}, or "
            "what made these learned from them; take masks of others, and tiles that hold them out"
        )


def _touched(tissue: Tissue, held_out: Tissue) -> str:
    """Where tiles show what is held out, in words; "" where they do not."""
    meeting = next(meetings(tissue, held_out), None)
    if meeting is None:
        return ""
    alias = "" if meeting.mine.id == meeting.other else f" ({meeting.other!r} there)"
    where = extent(tissue.rows.iloc[meeting.places]) if meeting.comparable else "on another grid"
    return f"volume {meeting.mine.id!r}{alias}, {where}"
