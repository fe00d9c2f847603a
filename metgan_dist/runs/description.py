"""What a run is, how it ended and what it reached, in Markdown: the description on its page in MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import Result
from metgan_dist.runs.run_folder import Run

TAG = "mlflow.note.content"
# Columns of a table of scores, where there are such: what was made, beside what costs nothing, and what is the most.
FIRST = ("generated", "identity", "affine", "real")
MOST_ROWS = 12
# Others, such as an evaluation, are of trained runs or volumes, of which the sections of their recipe say nothing.
_JOBS_OF_DATA = {"train_metgan", "train_segmentor", "make_tiles", "tune_loss_weights", "segment_folds", "run_study"}
_WORDS = {
    "finished": "Finished.",
    "failed": "Failed: {reason}.",
    "stopped": "It was {reason}; the same command under `--tracking.run {name}` goes on.",
}


def begun(run: Run, command: Command) -> str:
    """Of a run that is going on: its job, what it is of, and where its files lie."""
    what = _of_data(command) if run.job in _JOBS_OF_DATA else ""
    return f"**{run.job}**{what}. Files: `{run.folder}`; the whole recipe: `recipe.yaml` among the artifacts."


def _of_data(command: Command) -> str:
    """The method, the recipe and the data of a job that makes tiles or trains on them."""
    recipe = command.recipe
    data = recipe.data.path or f"phantom volumes ({recipe.data.phantom.modality})"
    tiles = f"{recipe.tiles.kind}, {' x '.join(map(str, recipe.tiles.shape))} pixels"
    return f" with `{recipe.method.name}`, recipe `{command.recipe_name}`, on {data}; tiles: {tiles}"


def ended(run: Run, command: Command, status: str, reason: str | None, result: Result) -> str:
    """The same of a run that is over, with its scores in tables, its checkpoint and its pictures."""
    parts = [begun(run, command), _WORDS[status].format(reason=reason, name=run.name)]
    parts += [table for name, group in result.scores.items() for table in _tables(name, group)]
    if checkpoint := result.artefacts.get("best_checkpoint"):
        parts.append(f"Checkpoint: `{checkpoint}`")
    grids = [str(uri) for name, uri in result.artefacts.items() if name.startswith("grid_")]
    if grids:
        inside = ", ".join(f"`{uri.removeprefix(run.folder).lstrip('/')}`" for uri in grids)
        parts.append(f"Pictures, among the artifacts: {inside}")
    return "\n\n".join(parts)


def _tables(name: str, group: Any) -> Iterator[str]:
    """A table of numbers, or of models and their scores; parts of a score (of a region, of a unit) are left out."""
    if not isinstance(group, Mapping):
        return
    models = {model: _numbers(scores) for model, scores in group.items() if isinstance(scores, Mapping)}
    models = {model: models[model] for model in (*FIRST, *models) if models.get(model)}
    own = _numbers(group)
    rows = list(dict.fromkeys(score for scores in models.values() for score in scores))[:MOST_ROWS]
    if own:
        yield _markdown([name, ""], [[score, f"{value:.4g}"] for score, value in list(own.items())[:MOST_ROWS]])
    if rows:
        cells = [
            [score, *(f"{scores[score]:.4g}" if score in scores else "" for scores in models.values())]
            for score in rows
        ]
        yield _markdown([name, *models], cells)


def _numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    numbers = {name: value for name, value in scores.items() if isinstance(value, int | float)}
    return {name: float(value) for name, value in numbers.items() if "/" not in name and not name.endswith("_std")}


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
