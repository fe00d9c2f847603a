"""What a reader must know to read a table: tiles, units, judge, trivial predictions, what was left out and why."""

from __future__ import annotations

from metgan_dist.evaluation.comparison import Comparison
from metgan_dist.evaluation.runs import TrainedRun
from metgan_dist.evaluation.subject import Subject
from metgan_dist.evaluation.tables import BETTER, WORSE
from metgan_dist.recipe import Scores
from metgan_dist.scores.fidelity import doubt
from metgan_dist.scores.significance import least_pairs

TESTS = {"t": "paired t-test", "wilcoxon": "Wilcoxon's signed-rank test"}
SMALL_FOR_FID = 2048


def notes_on(comparison: Comparison, subject: Subject, first: TrainedRun) -> list[str]:
    """What stands below the table of a comparison; `first`: the run whose trivial predictions are told."""
    settings, count = subject.settings, len(subject.rows)
    volumes = subject.task.tiles.index["volume"].iloc[subject.rows].nunique()
    notes = [f"{count} test tiles of {volumes} volume(s); images in [-1, 1], so the data range of the scores is 2."]
    notes += subject.task.notes("test")
    if comparison.columns:
        notes += significance_notes(comparison, settings)
    if comparison.ceiling is not None and subject.judge is not None:
        notes.append(
            "Label fidelity: pooled Dice of one judge, a segmentor that no training used, against the imposed labels; "
            f"on the real images it reaches {comparison.ceiling:.3f}, beyond which all are equally good. The judge: "
            f"{_shown(subject.judge)}."
        )
    judged = subject.judge is not None and "label_fidelity" in settings.names
    if judged and (reason := doubt(comparison.ceiling)) is not None:
        notes.append(f"{reason[0].upper()}{reason[1:]}.")
    trivial = first.result.get("scores", {}).get("test", {})
    if "affine" in trivial and "mae" in settings.names:
        itself = f"{trivial['identity']['mae']:.4f} for the anatomy image itself, " if "identity" in trivial else ""
        notes.append(
            f"Trivial predictions: MAE {itself}{trivial['affine']['mae']:.4f} for its best affine intensity map."
        )
    if any(column.name.startswith("fid") for column in comparison.columns) and count < SMALL_FOR_FID:
        notes.append(f"FID of {count} tiles is biased upwards: compare it within this table alone; KID is unbiased.")
    notes += [f"{name} left out: {reason}." for name, reason in subject.skipped.items()]
    return notes


def significance_notes(comparison: Comparison, settings: Scores) -> list[str]:
    """On how many independent units marks rest, or why there are none; nothing of a single method."""
    level, units = 1 - settings.confidence, comparison.units
    least = least_pairs(level)
    if len(comparison.values) < 2:
        return []
    if units.count < least:
        return [
            f"No differences are marked: the tiles are of {units}, and fewer than {least} independent pairs cannot "
            f"reach p < {level:.2g} (Wilcoxon's signed-rank test). Bold: best. Intervals: table.csv."
        ]
    if not len(comparison.tests):
        return []
    notes = [
        f"{WORSE} worse, {BETTER} better than {comparison.reference}: {TESTS[settings.test]} over {units}, "
        f"Holm-corrected, p < {level:.2g}. Bold: best. Intervals and effect sizes: table.csv."
    ]
    if comparison.labelled_units is not None and comparison.labelled_units < least:
        notes.append(
            f"Label fidelity is not marked: labels lie in {comparison.labelled_units} of them alone, too few to tell."
        )
    return notes


def _shown(checkpoint: str) -> str:
    """A checkpoint as <run>/train/<role>/<name>: tables are read on other machines."""
    return "/".join(checkpoint.rstrip("/").split("/")[-4:])
