"""``--help``: a page with the flags that matter for a job, one section of the recipe, or every field."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

ALL = "all"
_FLAGS = ("-h", "--help")

_EVERYWHERE = ("data.path", "storage.path", "tracking.run", "tracking.uri", "scaling.workers", "scaling.cluster")
_TILES = (
    *("data.anatomy", "data.tumour", "data.label", "data.classes"),
    *("tiles.kind", "tiles.size", "tiles.resize", "tiles.stride", "tiles.spacing", "tiles.test"),
)
_TRAINING = (
    *("method.name", "method.width", "training.epochs", "training.max_steps", "training.batch_size"),
    *("training.learning_rate", "training.precision", "training.augment", "training.start_from"),
)
_SEGMENTOR = (
    *("method.segmentor_network", "method.segmentor_loss", "method.segmentor_epochs", "method.segmentor_batch_size"),
    "method.segmentor_learning_rate",
)
_FOLDS = ("segmentation.network", "segmentation.loss", "segmentation.epochs", "segmentation.folds")
# Of each job, beside what matters everywhere; a job that is not here shows every field.
_MATTERS: dict[str, tuple[str, ...]] = {
    "describe_data": ("data.label", "data.labels", "data.unmapped"),
    "evaluate": ("scores.names", "scores.splits", "scores.reference", "scores.missing_weights"),
    "export": ("export.format", "export.folder", "export.name", "export.id", "export.splits", "export.values"),
    "insert_tumours": (
        *("insertion.model", "insertion.start_scale", "insertion.masks", "insertion.contrast", "insertion.pairs"),
        *("insertion.place", "insertion.count", "insertion.seed", "insertion.format", "insertion.readers"),
    ),
    "lineage": (),
    "make_tiles": _TILES,
    "run_study": (
        "training.max_steps",
        "training.epochs",
        "scaling.trainings",
        "scaling.cpus_per_worker",
        "scores.names",
    ),
    "segment_folds": (*_FOLDS, "segmentation.real", "segmentation.synthetic", "segmentation.datasets"),
    "segment_volumes": (
        *("segmentation.segmentor", "segmentation.translator", "segmentation.volumes", "segmentation.overlap"),
        *("segmentation.format", "segmentation.replicas", "segmentation.threads"),
    ),
    "synthesize": (
        *("synthesis.model", "synthesis.tiles", "synthesis.count", "synthesis.seed", "synthesis.real"),
        *("synthesis.merged", "synthesis.drawn", "synthesis.labels", "synthesis.gate", "synthesis.volume"),
        *("synthesis.direction", "synthesis.format"),
    ),
    "train_metgan": (*_TILES, *_TRAINING, "method.segmentor", "method.judge", "scores.names"),
    "train_segmentor": (*_TILES, *_SEGMENTOR, "training.precision", "training.augment"),
    "tune_loss_weights": (
        *(*_TRAINING, "tuning.trials", "tuning.search", "tuning.scheduler", "tuning.space", "tuning.objectives"),
        *("tuning.images", "tuning.concurrent"),
    ),
}


def is_asked(texts: Sequence[str]) -> bool:
    """Whether a command line asks for help."""
    return any(text.partition("=")[0] in _FLAGS for text in texts)


def add_help(parser: argparse.ArgumentParser) -> None:
    """The flag itself, of a parser without one."""
    what = f"this page; `{ALL}`: every field of the recipe; or a section: --help tiles"
    parser.add_argument(*_FLAGS, nargs="?", const="", action=_Help, metavar=f"{ALL}|SECTION", help=what)


class _Help(argparse.Action):
    """Prints what is asked for, and ends the job."""

    def __call__(
        self, parser: argparse.ArgumentParser, given: argparse.Namespace, value: Any, flag: str | None = None
    ) -> None:
        """SystemExit of 0; a mistake where there is no such section."""
        actions = [action for action in parser._actions if "." in action.dest]
        sections = list(dict.fromkeys(action.dest.partition(".")[0] for action in actions))
        job = PurePath(parser.prog).stem
        if value in sections:
            shown = {action.dest for action in actions if action.dest.startswith(f"{value}.")}
        elif value == ALL or (not value and job not in _MATTERS):
            shown = {action.dest for action in actions}
        elif not value:
            shown = {*_EVERYWHERE, *_MATTERS[job]}
        else:
            parser.error(f"{flag} {value}: none of {ALL}, {', '.join(sections)}")
        _leave(parser, shown)
        parser.print_help()
        parser.exit()


def _leave(parser: argparse.ArgumentParser, shown: set[str]) -> None:
    """Take from the help the fields that are not shown, and the headings under which none is left."""
    for action in parser._actions:
        if "." in action.dest and action.dest not in shown:
            action.help = argparse.SUPPRESS
    for group in list(parser._action_groups):
        if all(action.help == argparse.SUPPRESS for action in group._group_actions):
            parser._action_groups.remove(group)
