"""What synthesize.py does: from a trained generator and its tiles to a synthetic set, after checking that they fit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import ray

from metgan_dist.errors import UserError
from metgan_dist.methods import method_class
from metgan_dist.recipe import Recipe, Synthesis
from metgan_dist.recipe.synthesis import COPY_PASTE
from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun, run_recipe
from metgan_dist.storage import join
from metgan_dist.synthesis.brains import BrainSynthesis
from metgan_dist.synthesis.crew import Crew, quiet_pools
from metgan_dist.synthesis.dataset import finish_set
from metgan_dist.synthesis.drawings import Drawing, read_drawings
from metgan_dist.synthesis.gate import KEPT, REJECTED
from metgan_dist.synthesis.generate import Work, generate, part_bytes
from metgan_dist.synthesis.masks import MaskSynthesis
from metgan_dist.synthesis.model import Model, check_gate, find_model
from metgan_dist.synthesis.one_image import OF_ONE_IMAGE, OneImageSynthesis
from metgan_dist.synthesis.plan import Sources, plan_tiles
from metgan_dist.synthesis.summary import lesion_plot, preview, real_lesions, summarise, synthetic_lesions
from metgan_dist.synthesis.translation import VolumeTranslation
from metgan_dist.synthesis.whole_volume import VolumeSynthesis
from metgan_dist.tasks.mask_generation import MaskGeneration
from metgan_dist.tiles.tile_set import TileSet, begin_set, finished_fingerprint
from metgan_dist.trained import checkpoint_digest

# Settings that do not change what is made, and those that the manifest names in sections of their own.
OF_TRANSLATION = ("direction", "region")
OF_COPY_PASTE = ("gain", "border")
OF_VOLUMES = {"volume", "volume_label", "volume_organ", "overlap", "format", *OF_TRANSLATION, *OF_COPY_PASTE}
NOT_CONTENT = {"model", "tiles", "segmentor", "replicas", "pictures", *OF_ONE_IMAGE} | OF_VOLUMES
OF_SINGAN = "is for a generator that has learned one image"
MOST_PART_BYTES = 2**30


def synthesize(command: Command) -> str:
    """The job: tiles, masks, or whole volumes: one that the recipe names, or those of a generator of two domains."""
    quiet_pools(command)
    planned = planned_synthesis(command)
    return run_recipe(command, "synthesize", planned.carry_out, planned.tags)


def planned_synthesis(
    command: Command,
) -> TileSynthesis | VolumeSynthesis | VolumeTranslation | MaskSynthesis | BrainSynthesis | OneImageSynthesis:
    """What is to be made, which the recipe and the tiles of its generator say."""
    recipe, settings, options = command.recipe, command.recipe.synthesis, command.recipe.storage.options
    if settings.model == COPY_PASTE:
        return BrainSynthesis.planned(command, None, _tiles_to_paste_into(recipe))
    if settings.volume is not None:
        _check_default(settings, OF_ONE_IMAGE, OF_SINGAN)
    _check_default(settings, OF_COPY_PASTE, f"is for {COPY_PASTE} as synthesis.model")
    if settings.volume is None:
        model = find_model(settings, options, one_image=True)
        if model.of_one_image:
            return OneImageSynthesis.planned(command, model)
        _check_default(settings, OF_ONE_IMAGE, OF_SINGAN)
        tiles = TileSet.open(settings.tiles or model.own_tiles(), options)
        if method_class(model.recipe.method.name).task == MaskGeneration.name:
            return MaskSynthesis.planned(command, model, tiles)
        if settings.masks is not None:
            return BrainSynthesis.planned(command, model, tiles)
        if tiles.domains:
            return VolumeTranslation.planned(command, model, tiles)
    for name in OF_TRANSLATION:
        if getattr(settings, name) != Synthesis.model_fields[name].default:
            raise UserError(
                f"synthesis.{name}: {getattr(settings, name)} is for volumes of one domain that a generator trained on "
                "two translates into the other; leave it out"
            )
    return VolumeSynthesis.planned(recipe) if settings.volume is not None else TileSynthesis.planned(recipe)


def _check_default(settings: Synthesis, names: Sequence[str], why: str) -> None:
    """UserError for the first of some fields that is not as it is by default."""
    for name in names:
        if getattr(settings, name) != Synthesis.model_fields[name].default:
            raise UserError(f"synthesis.{name}: {why}; leave it out")


def _tiles_to_paste_into(recipe: Recipe) -> TileSet:
    """The tiles that copy-paste takes brains from; UserError where the recipe names none, or no masks."""
    settings = recipe.synthesis
    for name, what in (("tiles", "slices of healthy brains"), ("masks", "a data set of lesion masks")):
        if getattr(settings, name) is None:
            raise UserError(f"synthesis.{name}: none given, and {COPY_PASTE} needs {what}")
    return TileSet.open(str(settings.tiles), recipe.storage.options)


@dataclass(frozen=True)
class TileSynthesis:
    """A synthetic set that can be made: its generator, the tiles that give anatomy and labels, the user's drawings."""

    settings: Synthesis
    model: Model
    tiles: TileSet
    sources: Sources
    drawings: list[Drawing]
    segmentor: str | None
    segmentor_digest: str | None

    @staticmethod
    def planned(recipe: Recipe) -> TileSynthesis:
        """Everything that can be checked before a cluster is touched; UserError in one line for what does not fit."""
        settings, options = recipe.synthesis, recipe.storage.options
        if recipe.data.path is not None:
            raise UserError(
                "data.path: give the tiles as synthesis.tiles; empty, they are those of the generator's run"
            )
        model = find_model(settings, options)
        tiles = TileSet.open(settings.tiles or model.own_tiles(), options)
        model.check_tiles(tiles)
        sources = Sources.of(tiles, settings)
        model.check_held_out(tiles, np.union1d(sources.anatomies.rows, sources.labels.rows), options)
        model.check_organs(tiles.index["organ"].iloc[sources.anatomies.rows], f"synthesis.tiles: {tiles.uri}")
        if (needed := part_bytes(settings, tiles.shape, model.recipe.data.channel_numbers)) > MOST_PART_BYTES:
            most = settings.shard * MOST_PART_BYTES // needed
            raise UserError(
                f"synthesis.shard: {settings.shard} tiles of {tiles.shape} take too much memory; use {most}"
            )
        drawings: list[Drawing] = []
        if settings.drawn:
            assert settings.labels is not None
            drawings = read_drawings(settings.labels, tiles.shape, model.recipe.data.classes, options)
        model.check_generates(tiles.shape, settings)
        segmentor = check_gate(settings, model, options)
        digest = None if segmentor is None else checkpoint_digest(segmentor, options)
        return TileSynthesis(settings, model, tiles, sources, drawings, segmentor, digest)

    @property
    def tags(self) -> dict[str, str]:
        """For the MLflow run: the generator, and the run that trained it."""
        return self.model.tags

    @property
    def facts(self) -> dict[str, Any]:
        """The manifest's section `synthesis`: what the pixels follow from."""
        return {
            "settings": self.settings.model_dump(mode="json", exclude=NOT_CONTENT),
            "model": self.model.facts,
            "tiles": {"uri": self.tiles.uri, "digest": self.tiles.digest},
            "segmentor": None if self.segmentor is None else {"uri": self.segmentor, "sha256": self.segmentor_digest},
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the facts and of the user's drawings."""
        tree = [self.facts, [drawing.source for drawing in self.drawings]]
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()

    def carry_out(self, opened: OpenRun) -> None:
        """The work of the job."""
        result, options = opened.result, opened.recipe.storage.options
        folder = join(opened.run.folder, "tiles")
        with opened.log() as log:
            name = f"tiles-{self.tiles.digest[:8]}"
            log.dataset(name, self.tiles.uri, self.tiles.digest, "source", len(self.sources.anatomies.rows))
        say(
            f"generator: {self.model.recipe.method.name} in {self.model.uri}; anatomy from "
            f"{len(self.sources.anatomies.rows)} tiles, labels from {len(self.sources.labels.rows)} and "
            f"{len(self.drawings)} drawings"
        )
        with result.phase("generation"):
            markers = self._generate(opened, folder)
            made = self._finished(folder, markers, options)
        with result.phase("summary"):
            self._report(opened, made, markers)

    def _generate(self, opened: OpenRun, folder: str) -> dict[str, dict[str, Any]]:
        options = opened.recipe.storage.options
        afresh = f"synthesis: {folder} was begun with another generator or other tiles; it is made afresh"
        begin_set(folder, {"fingerprint": self.fingerprint}, options, lambda: say(afresh))
        with opened.result.phase("plan"):
            plan = self.plan()
        crew = Crew.of(self.settings, opened.plan, ray.available_resources())
        return generate(self.work(folder, opened.recipe.training.precision, options), plan, self.drawings, crew, say)

    def plan(self) -> pd.DataFrame:
        """The table of all tiles."""
        return plan_tiles(self.sources, self.settings, len(self.drawings))

    def work(self, folder: str, precision: str, options: dict[str, Any]) -> Work:
        """What the tasks must know."""
        tiles, channels = self.tiles, self.model.recipe.data.channel_numbers
        own = self.model.uri, self.segmentor
        return Work(tiles.uri, tiles.digest, channels, self.settings, folder, *own, precision, options)

    def _finished(self, folder: str, markers: dict[str, dict[str, Any]], options: dict[str, Any]) -> TileSet:
        if finished_fingerprint(folder, options) == self.fingerprint:
            return TileSet.open(folder, options)
        tumour, gate = self.model.recipe.data.tumour, self.settings.gate
        return finish_set(folder, self.tiles, markers, self.facts, tumour, gate, self.fingerprint, options)

    def _report(self, opened: OpenRun, made: TileSet, markers: dict[str, dict[str, Any]]) -> None:
        """Pictures, summary and records; UserError at the end when the gate let nothing through."""
        counts, result = made.manifest["counts"], opened.result
        result.tiles, result.artefacts["dataset"] = counts, made.uri
        synthetic, real = synthetic_lesions(made, markers), real_lesions(self.tiles)
        summary = summarise(made, synthetic, real)
        files = {"summary.json": json.dumps(summary, indent=1).encode(), "lesions.png": lesion_plot(synthetic, real)}
        for name, split in (("preview.png", KEPT), ("rejected.png", REJECTED)):
            picture = preview(made, split, self.settings.pictures)
            if picture is not None:
                files[name] = picture
        artefacts = {
            "preview.png": "preview",
            "rejected.png": "rejected",
            "summary.json": "summary",
            "lesions.png": "plot",
        }
        with opened.log() as log:
            log.dataset(f"synthetic-{made.digest[:8]}", made.uri, made.digest, "generated", counts[KEPT])
            log.text(json.dumps(made.manifest, indent=1), "tiles/manifest.json")
        opened.keep(files, artefacts)
        result.scores = {"lesions": summary["lesions"], "gate": summary["gate"], "placement": summary["placement"]}
        if not counts[KEPT]:
            best = summary["gate"]["dice"]
            raise UserError(
                f"synthesis.gate: none of {counts['planned']} pairs reached a Dice of {self.settings.gate:g} (mean "
                f"{best['mean']:.3f}, 95 % below {best['p95']:.3f}); lower it, or "
                f"look at {result.artefacts['rejected']}"
            )
        dropped = f", {counts[REJECTED]} dropped by the gate" if self.settings.gate else ""
        say(f"synthesis: {counts[KEPT]} tiles{dropped}; {made.uri}")
        say(f"digest: {made.digest}")
