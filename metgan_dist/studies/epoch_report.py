"""Paper 4's table 1 and figures 4 to 8 on one's own data, from rows whose test Dice was noted after each epoch.

A number of the table is the mean, over a window of epochs that is fixed beforehand, of the mean Dice of the test
volumes that have a lesion; beside it the standard deviation over these epochs. No checkpoint is chosen for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from metgan_dist.cluster.progress import duration
from metgan_dist.evaluation.comparison import mark
from metgan_dist.evaluation.notes import TESTS
from metgan_dist.evaluation.tables import ABSENT, BETTER, WORSE, Line, Table, Value, aligned
from metgan_dist.recipe import Recipe, Scores
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun
from metgan_dist.scores.column import Column
from metgan_dist.scores.significance import compare_methods, least_pairs
from metgan_dist.segmentation.epochs import read_epochs
from metgan_dist.segmentation.summary import VOLUME_TITLES
from metgan_dist.studies.epoch_pictures import pictures
from metgan_dist.studies.study import Row, Study
from metgan_dist.studies.works import Works

DICE = Column("dice", "Dice", "max", 1)
PER_CENT = 100


@dataclass(frozen=True)
class Trained:
    """A finished row: its result, its tables by epoch, and the epochs over which its means go.

    curves, volumes: as `segmentation.epochs` writes them; window: first epoch, which does not count, and last one.
    """

    result: dict[str, Any]
    curves: pd.DataFrame
    volumes: pd.DataFrame
    window: tuple[float, float]

    @staticmethod
    def of(row: Row, recipe: Recipe, result: dict[str, Any], share: float) -> Trained:
        """The row with the window that its place in the study gives it: `share` of the study's epochs."""
        curves, volumes = read_epochs(result["artefacts"], recipe.storage.options)
        every = recipe.segmentation.epochs / row.epochs
        last, length = float(curves["epoch"].max()), share * every
        first = last - length if row.after is None else row.after * every
        if row.after is not None and last <= first:  # shorter than planned: what there is, as of the others
            first = last - length
        return Trained(result, curves, volumes, (first, min(last, first + length)))

    def within(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of a table by epoch that lie in the window."""
        first, last = self.window
        return table[(table["epoch"] > first + 1e-9) & (table["epoch"] <= last + 1e-9)]

    @property
    def dice(self) -> np.ndarray:
        """Test Dice in per cent of each epoch (and fold) in the window."""
        return self.within(self.curves)["test_dice"].to_numpy() * PER_CENT

    @property
    def value(self) -> Value:
        """Mean and standard deviation over the window."""
        return Value(float(self.dice.mean()), spread=float(self.dice.std(ddof=1)) if len(self.dice) > 1 else 0.0)

    @property
    def by_patient(self) -> pd.Series:
        """Mean Dice (per cent) over the window and the patient's volumes with a lesion, by patient."""
        own = self.within(self.volumes)
        return own[own["voxels"] > 0].groupby("patient")["dice"].mean() * PER_CENT

    @property
    def epochs(self) -> str:
        """The window in words, e.g. "401-500"."""
        inside = self.within(self.curves)["epoch"]
        return f"{inside.min():.4g}-{inside.max():.4g}"


def report_epochs(
    opened: OpenRun, works: Works, results: Mapping[str, dict[str, Any]], failed: Mapping[str, str], folder: str
) -> None:
    """Table 1 beside the paper's, all rows below it, and the figures; printed, written and logged."""
    study, settings = works.study, opened.recipe.scores
    assert study.epochs is not None
    rows = {
        row.name: Trained.of(row, works.recipes[row.name], results[row.name], study.epochs.window)
        for row in study.rows
        if row.name in results
    }
    tests = _tests(study, rows, settings)
    table = _table(study, rows, failed, tests, settings)
    text = "\n".join([table.markdown(), _all_rows(study, rows, failed), _lesions(study, rows)])
    files = {
        "table.md": text.encode(),
        "table.csv": table.csv().encode(),
        "table.tex": table.latex().encode(),
        "rows.csv": _numbers(study, rows).to_csv(index=False).encode(),
        "epochs.csv": pd.concat([one.curves.assign(row=name) for name, one in rows.items()])
        .to_csv(index=False)
        .encode(),
        **({"significance.csv": tests.to_csv(index=False).encode()} if len(tests) else {}),
    }
    with opened.result.phase("pictures"):
        files |= pictures(opened, works, rows)
    opened.keep({str(PurePosixPath(folder, name)): content for name, content in files.items()})
    opened.result.scores["test"] = {
        name: {"mean": one.value.value, "std": one.value.spread, "max": float(one.dice.max())}
        for name, one in rows.items()
    }
    say(f"\n{text}")


def _tests(study: Study, rows: Mapping[str, Trained], settings: Scores) -> pd.DataFrame:
    """Paired tests of every row against the study's reference, over patients; empty without such a pair."""
    if study.reference not in rows or len(rows) < 2 or len(rows[study.reference].by_patient) < 2:
        return pd.DataFrame()
    table = [
        {"method": name, "tile": patient, DICE.name: dice}
        for name, one in rows.items()
        for patient, dice in one.by_patient.items()
    ]
    how = {"confidence": settings.confidence, "resamples": settings.resamples}
    return compare_methods(pd.DataFrame(table), study.reference, scores=[DICE.name], **how)  # type: ignore[arg-type]


def _table(
    study: Study, rows: Mapping[str, Trained], failed: Mapping[str, str], tests: pd.DataFrame, settings: Scores
) -> Table:
    """The paper's table: a line a data set, a column a translator, each cell a row of the study."""
    assert study.epochs is not None
    titles = list(dict.fromkeys(title for line in study.epochs.table for title in line.cells))
    columns = [Column(title, title, "max", 1) for title in titles]
    lines = []
    for line in study.epochs.table:
        values, paper, spread = {}, {}, {}
        for title, name in line.cells.items():
            printed = study.paper(study.row(name))
            if "epoch_dice" in printed:
                paper[title] = printed["epoch_dice"]
            if "epoch_dice_std" in printed:
                spread[title] = printed["epoch_dice_std"]
            if name in rows:
                own = rows[name].value
                values[title] = Value(own.value, mark=mark(tests, name, DICE, settings), spread=own.spread)
        lines.append(Line(line.label, values, paper=paper, paper_spread=spread))
    # A line is of several rows, which fail one by one.
    lost = [f"{row.label} failed: {failed[row.name]}" for row in study.rows if row.name in failed]
    notes = [*_notes(study, rows, settings), *study.notes, *lost]
    return Table(study.title, columns, lines, notes, subject="data set")


def _notes(study: Study, rows: Mapping[str, Trained], settings: Scores) -> list[str]:
    """On how many patients the numbers rest, and what marks mean."""
    one = next(iter(rows.values()))
    volumes = one.volumes.drop_duplicates("volume")
    ill, level = int((volumes["voxels"] > 0).sum()), 1 - settings.confidence
    patients, least = len(one.by_patient), least_pairs(level)
    notes = [
        f"Test Dice in per cent: the mean over {ill} test volumes with a lesion, of {patients} independent patients, "
        "after each epoch; mean ± standard deviation over a window of epochs that is fixed beforehand (second table), "
        f"without choosing a checkpoint. {len(volumes) - ill} further test volumes have no lesion (DWI-negative) and "
        "are counted by what is found in them."
    ]
    label = study.row(study.reference).label
    if patients < least:
        notes.append(
            f"No differences are marked: fewer than {least} independent patients cannot reach p < {level:.2g} "
            "(Wilcoxon's signed-rank test). Bold: best of a column."
        )
    else:
        notes.append(
            f"{WORSE} worse, {BETTER} better than {label!r}: {TESTS[settings.test]} over {patients} patients, each "
            f"with the mean of the window, Holm-corrected, p < {level:.2g}. Bold: best of a column."
        )
    return notes


def _all_rows(study: Study, rows: Mapping[str, Trained], failed: Mapping[str, str]) -> str:
    """Markdown: every row with mean, deviation, maximum and the paper's, its window, its training."""
    table = [["Row", "what", "Dice", "max", "paper", "max", "epochs", "real", "synthetic", "images", "training"]]
    for row in study.rows:
        printed = study.paper(row)
        paper = f"{printed['epoch_dice']:.1f}" if "epoch_dice" in printed else ABSENT
        paper += f" ± {printed['epoch_dice_std']:.1f}" if "epoch_dice_std" in printed else ""
        most = f"{printed['epoch_dice_max']:.1f}" if "epoch_dice_max" in printed else ABSENT
        one = rows.get(row.name)
        if one is None:
            state = "failed" if row.name in failed else "not trained"
            table.append([row.name, row.label, ABSENT, ABSENT, paper, most, *[ABSENT] * 4, state])
            continue
        value, facts = one.value, one.result["artefacts"]
        own = [f"{value.value:.1f} ± {value.spread:.1f}", f"{one.dice.max():.1f}"]
        used = [f"{facts['samples'][kind]:.4g}" for kind in ("real", "synthetic")]
        cost = [str(facts["images"]), duration(one.result["resources"]["seconds"])]
        table.append([row.name, row.label, *own, paper, most, one.epochs, *used, *cost])
    return aligned(table, left=2)


def _lesions(study: Study, rows: Mapping[str, Trained]) -> str:
    """Markdown: what the checkpoint that the validation tiles chose finds, as ISLES scores it volume by volume."""
    first = next(iter(rows.values())).result["scores"]["test"].get("volumes")
    if first is None:
        return ""
    units = {"volume_difference": f" ({first['unit']})", "false_positive_volume": f" ({first['unit']})"}
    titles = [f"{title}{units.get(name, '')}" for name, title in VOLUME_TITLES.items()]
    table = [["By volume, chosen checkpoint", *titles, "precision", "recall", "negative", "with findings"]]
    for row in study.rows:
        if row.name not in rows:
            continue
        test = rows[row.name].result["scores"]["test"]
        own = test["volumes"]
        shown = [f"{own[name]['mean']:.3f}" if name in own else ABSENT for name in VOLUME_TITLES]
        lesions = [f"{test[name]['mean']:.3f}" for name in ("precision", "recall")]
        table.append([row.label, *shown, *lesions, *map(str, _negative(rows[row.name]))])
    rule = (
        "\nBy volume: means over all test volumes, as ISLES scores them, of the checkpoint with the best Dice on the "
        "fold's validation tiles. Precision and recall: of lesions, pooled. Negative: test volumes without a lesion; "
        "with findings: in how many of them any voxel was found at the end of the training.\n"
    )
    return aligned(table) + rule


def _negative(row: Trained) -> tuple[int, int]:
    """Test volumes without a lesion, and in how many of them anything was found after the last epoch."""
    last = row.volumes[row.volumes["images"] == row.volumes.groupby("fold")["images"].transform("max")]
    negative = last[last["voxels"] == 0].groupby("volume")["found"].max()
    return len(negative), int((negative > 0).sum())


def _numbers(study: Study, rows: Mapping[str, Trained]) -> pd.DataFrame:
    """A line a row, unrounded."""
    lines = []
    for row in study.rows:
        if row.name not in rows:
            continue
        one = rows[row.name]
        negative, findings = _negative(one)
        own = {"mean": one.value.value, "std": one.value.spread, "max": float(one.dice.max()), "epochs": one.epochs}
        paper = {f"paper_{name}": value for name, value in study.paper(row).items()}
        volumes = one.result["scores"]["test"].get("volumes", {})
        isles = {name: volumes[name]["mean"] for name in VOLUME_TITLES if name in volumes}
        lines.append(
            {
                "row": row.name,
                "label": row.label,
                **own,
                "negative": negative,
                "with_findings": findings,
                **isles,
                **paper,
            }
        )
    return pd.DataFrame(lines)
