"""A table of how the scores of single patients lie, row by row, as Sallé et al. (2021) print it (table 1).

Of one region of the labels: Dice and average symmetric surface distance with mean, standard deviation and quartiles,
how many patients have a higher Dice than a limit, and a paired test of the Dice over the patients that two rows share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from metgan_dist.evaluation.notes import TESTS
from metgan_dist.evaluation.tables import ABSENT, aligned
from metgan_dist.recipe import Scores
from metgan_dist.scores.insertion import LOST
from metgan_dist.scores.significance import compare_methods, least_pairs
from metgan_dist.scores.spread import Spread, above
from metgan_dist.studies.shown import CaseReport, PaperCases
from metgan_dist.studies.study import Study
from metgan_dist.synthesis.insertion_scores import OF_REAL
from metgan_dist.tasks.shapes import PER_UNIT, SEGMENTED

STEPS = {
    "contrast_of_donor": "in the source, as they are",
    "contrast_before": "translated into the target",
    "naive_contrast": "pasted into that",
    "contrast": "harmonised",
}
Results = Mapping[str, dict[str, Any]]
TITLES = ("Segmentation of", "", "n", "Dice (25/50/75 %)", "ASSD, mm (25/50/75 %)", "not found")


def case_table(study: Study, results: Results, settings: Scores) -> str:
    """Markdown of the table and its test, or why there is none; nothing for a study without one."""
    report = study.cases
    if report is None:
        return ""
    units = {row.name: _units(results[row.name], report) for row in study.rows if row.name in results}
    units = {name: table for name, table in units.items() if len(table)}
    if not units:
        return f"No row has a score of the region {report.region!r}: the data set's labels do not name it.\n"
    rows = [[f"{TITLES[0]} {report.region}", *TITLES[1:], f"Dice > {report.least:g}", "p"]]
    p = _significance(study, units, settings)
    for row in study.rows:
        if row.name in units:
            rows.append([row.label, "ours", *_ours(units[row.name], report), p.get(row.name, ABSENT)])
        if (printed := report.paper.get(row.name)) is not None:
            rows.append([row.label, "paper", *_papers(printed), ABSENT])
    return f"{aligned(rows, left=2)}\n{_note(study, settings)}\n"


def tumour_table(scores: Mapping[str, Any]) -> str:
    """Markdown of how far tumours stand out at each step of their insertion, and how many are lost.

    scores: of a run of insert_tumours, as its result has them under `insertion`.
    """
    rows = [["Tumours of volumes that are trained on", "n", "contrast", "lost"]]
    steps = [(name, words, scores["volumes"]) for name, words in STEPS.items()]
    for name, words, count in [*steps, (OF_REAL, "real ones of the target", scores.get("real_tumours"))]:
        if name in scores:
            rows.append([words, str(count), f"{scores[name]:.2f}", str(scores[f"lost_{name}"])])
    note = (
        "Contrast: mean of a tumour less that of the tissue within five pixels around it, in their pooled standard "
        f"deviation; lost: within {LOST:g} of 0."
    )
    return f"{aligned(rows, left=1)}\n{note}\n"


def _units(result: Mapping[str, Any], report: CaseReport) -> pd.DataFrame:
    """A row a patient, the columns dice and assd (NaN for none), of the region."""
    own = result["scores"].get("test", {}).get(PER_UNIT, {}).get(SEGMENTED, {})
    found = {
        unit: [scores.get(f"{score}_target/{report.region}", float("nan")) for score in ("dice", "assd")]
        for unit, scores in own.items()
    }
    table = pd.DataFrame.from_dict(found, orient="index", columns=["dice", "assd"])
    return table[table["dice"].notna()]


def _ours(table: pd.DataFrame, report: CaseReport) -> Iterator[str]:
    yield str(len(table))
    yield Spread.of(table["dice"]).text(2)
    yield Spread.of(table["assd"]).text(1, falling=True) if table["assd"].notna().any() else ABSENT
    yield str(int(table["assd"].isna().sum()))
    yield f"{above(table['dice'], report.least)}"


def _papers(printed: PaperCases) -> Iterator[str]:
    yield str(printed.patients)
    for digits, (mean, std, *quartiles) in ((2, printed.dice), (1, printed.assd)):
        shown = ", ".join(f"{value:.{digits}f}" for value in quartiles)
        yield f"{mean:.{digits}f} ± {std:.{digits}f} ({shown})"
    yield ABSENT
    yield str(printed.above)


def _significance(study: Study, units: Mapping[str, pd.DataFrame], settings: Scores) -> dict[str, str]:
    """Holm-corrected p of each row's Dice against the reference's, with the number of patients that both have."""
    if study.reference not in units or len(units) < 2:
        return {}
    frames = [table.assign(method=name, tile=table.index) for name, table in units.items()]
    shared = set(units[study.reference].index)
    frames = [frame for frame in frames if len(shared & set(frame["tile"])) > 1]
    if len(frames) < 2:
        return {}
    tests = compare_methods(
        pd.concat(frames, ignore_index=True),
        study.reference,
        scores=["dice"],
        confidence=settings.confidence,
        resamples=settings.resamples,
    )
    column = {"t": "p_t_holm", "wilcoxon": "p_wilcoxon_holm"}[settings.test]
    return {str(test["method"]): f"{test[column]:.2g} (n = {test['count']})" for _, test in tests.iterrows()}


def _note(study: Study, settings: Scores) -> str:
    reference, least = study.row(study.reference).label, least_pairs(1 - settings.confidence)
    return (
        "Mean ± standard deviation (quartiles; of distances from the longest to the shortest, as the paper has them) "
        "over patients of whole test volumes. Distances are of patients in whom anything was found. p: "
        f"{TESTS[settings.test]} of the Dice against {reference}, Holm-corrected; below {least} patients none can be "
        "significant."
    )
