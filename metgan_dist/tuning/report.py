"""The end of a sweep: tables of the best trials and of those that were stopped, plots, and the best as a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from metgan_dist.cluster.progress import duration
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun
from metgan_dist.storage import join
from metgan_dist.tuning.figures import importance_bars, learning_curves, parallel_coordinates, pareto_front
from metgan_dist.tuning.findings import Findings
from metgan_dist.tuning.ledger import TrialRecord
from metgan_dist.tuning.space import shown

SHOWN = 10


def report_sweep(opened: OpenRun, findings: Findings) -> None:
    """Print the tables, and write and log them with the plots and the best recipe; fill the result."""
    text = markdown(findings, opened.run.name)
    say(text)
    plots = {f"plots/{name}.png": picture for name, picture in _plots(findings).items()}
    files = {"sweep.md": text.encode(), **plots, **_recipes(findings)}
    opened.keep(files, {path: path.rpartition(".")[0] for path in files})
    result, ranked = opened.result, findings.ranked
    outcomes = [record.outcome for record in findings.records]
    result.scores["sweep"] = {
        "images": findings.images,
        "images_in_full": findings.images_in_full,
        "images_ratio": round(findings.ratio, 4),
        **{outcome: outcomes.count(outcome) for outcome in ("whole", "stopped", "failed")},
    }
    result.artefacts["trials"] = {record.name: _described(findings, record) for record in findings.records}
    if not ranked:
        return
    result.artefacts["best_trial"] = ranked[0].name
    result.scores["best"] = findings.values(ranked[0])
    if findings.own in ranked:
        result.scores["own"] = findings.values(findings.own)
    say(f"the best as a recipe: train_metgan.py --recipe {join(opened.run.folder, 'best.yaml')}")


def _recipes(findings: Findings) -> dict[str, bytes]:
    """The best trial as a recipe, and every trial of the front where there are two objectives."""
    front = findings.front if len(findings.objectives) > 1 else []
    chosen = {"best": findings.ranked[0]} if findings.ranked else {}
    chosen |= {f"front/{record.name}": record for record in front}
    return {f"{name}.yaml": findings.best_recipe(record).to_yaml().encode() for name, record in chosen.items()}


def _described(findings: Findings, record: TrialRecord) -> dict[str, Any]:
    return {
        "values": record.point,
        "scores": findings.values(record),
        "images": record.images,
        "processed": record.processed,
        "seconds": round(record.seconds, 1),
        "outcome": record.outcome,
        "reason": record.reason,
    }


def _plots(findings: Findings) -> dict[str, bytes]:
    """Those that the trials have enough for."""
    plots, best = {}, next(iter(findings.ranked), None)
    for objective in findings.objectives:
        if any(record.score(objective) is not None for record in findings.records):
            plots[f"parallel-coordinates-{objective.name}"] = parallel_coordinates(
                findings.records, findings.space, objective
            )
            plots[f"learning-curves-{objective.name}"] = learning_curves(findings.records, objective, best)
        if importance := findings.importance(objective):
            plots[f"importance-{objective.name}"] = importance_bars(importance, objective)
    trade = findings.trade
    if trade.whole:
        plots["pareto-front"] = pareto_front(findings.records, trade.objectives, trade.front)
    return plots


def markdown(findings: Findings, name: str) -> str:
    """The sweep in tables: the best trials, those that did not run to their end, and what that saved."""
    tuning, own, ranked = findings.recipe.tuning, findings.own, findings.ranked
    ended = sorted((r for r in findings.records if r.outcome != "whole"), key=lambda record: record.name)
    goals = " and ".join(f"{one.name} ({one.mode})" for one in findings.objectives)
    lines = [
        f"## Sweep {name}",
        "",
        f"{len(findings.records)} trials of {findings.recipe.method.name}, {findings.total} images each if run to the "
        f"end; search {tuning.search}, scheduler {tuning.scheduler}; objective: validation {goals}. The first trial "
        "has the recipe's own values.",
        "",
        f"Best trials, all of {findings.total} images:",
        "",
        *_table(findings, ranked[:SHOWN], []),
    ]
    if own in ranked[SHOWN:]:
        lines += ["", "The recipe's own values:", "", *_table(findings, [own], [])]
    if ended:
        lines += ["", "Ended before their length:", "", *_table(findings, ended, ["images", "why"])]
    lines += ["", _saved(findings, len(ended))]
    if own in ranked and len(findings.objectives) == 1:
        lines += ["", _against_own(findings, ranked[0], own)]
    return "\n".join(lines) + "\n"


def _saved(findings: Findings, ended: int) -> str:
    less = max(0.0, findings.seconds_in_full - findings.seconds)
    return (
        f"Images: {findings.images} of the {findings.images_in_full} that all trials in full have (ratio "
        f"{findings.ratio:.3f}); {ended} of {len(findings.records)} trials ended early. "
        f"Training took {duration(findings.seconds)}, about {duration(less)} less than in full."
    )


def _against_own(findings: Findings, best: TrialRecord, own: TrialRecord) -> str:
    objective = findings.objectives[0]
    mine, theirs = best.score(objective) or 0.0, own.score(objective) or 0.0
    if best is own:
        return f"At equal budget no trial was better than the recipe's own values ({objective.name} {theirs:.4f})."
    change = f"{100 * (mine - theirs) / abs(theirs):+.1f} %" if theirs else "from 0"
    return f"{objective.name} at equal budget: {mine:.4f} in {best.name}, {theirs:.4f} by the recipe's own ({change})."


def _table(findings: Findings, records: Sequence[TrialRecord], more: Sequence[str]) -> list[str]:
    fields = [field.partition(".")[2] for field in findings.space]
    scores = list(dict.fromkeys((*findings.objectives, *findings.trade.objectives)))
    head = ["trial", *fields, *(one.name for one in scores), *more]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for record in records:
        reached = [record.score(one) for one in scores]
        about = {"images": str(record.images), "why": record.reason.replace("|", "/")}
        cells = [
            record.name.removeprefix("trial-") + (" (own)" if record.is_own else ""),
            *(shown(record.point[field]) for field in findings.space),
            *("-" if score is None else f"{score:.4f}" for score in reached),
            *(about[column] for column in more),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
