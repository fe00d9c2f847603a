"""A blinded reader sheet, filled in: how often readers told slices with inserted tumours from real ones.

insert_tumours.py writes the slices, a sheet to fill in and, apart from both, the answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import pandas as pd

from metgan_dist.errors import UserError
from metgan_dist.runs.command_line import Command
from metgan_dist.runs.job import say
from metgan_dist.runs.open_run import OpenRun
from metgan_dist.scores.readers import reader_scores
from metgan_dist.storage import Options, absolute, exists, join, parent, read_bytes

READER, SHEET, ANSWERS = "reader", "sheet.csv", "reader-answers.csv"  # folder of the slices, files
SLICE, ANSWER, TRUTH, VOLUME, PATIENT = "slice", "answer", "truth", "volume", "patient"  # columns
INSERTED, REAL = "inserted", "real"
MOST_NAMED = 10


@dataclass(frozen=True)
class Reading:
    """A sheet that can be scored.

    table: slice, truth, volume, patient and answer, a row for each slice that was answered; unread: what is said of
    the others.
    """

    sheet: str
    answers: str
    table: pd.DataFrame
    unread: tuple[str, ...]

    @staticmethod
    def planned(command: Command) -> Reading:
        """The sheet of `--sheet` beside the answers of `--answers`; UserError where they do not go together."""
        options = command.recipe.storage.options
        if command.own["runs"]:
            raise UserError("--runs: a reader sheet is scored by itself; leave it out, or --sheet")
        sheet = _named(command.own, "sheet")
        answers = _named(command.own, "answers") if command.own["answers"] else join(parent(parent(sheet)), ANSWERS)
        if not exists(answers, options):
            raise UserError(f"--answers: {answers}: not found; name the file that insert_tumours.py wrote beside it")
        truth = _read("--answers", answers, (SLICE, TRUTH, VOLUME, PATIENT), options)
        filled = _read("--sheet", sheet, (SLICE, ANSWER), options)
        for column in (filled[SLICE], truth[SLICE]):
            if column.duplicated().any():
                raise UserError(f"--sheet: {sheet}: {column[column.duplicated()].iloc[0]} is there twice")
        if strange := sorted(set(filled[SLICE]) - set(truth[SLICE])):
            raise UserError(f"--sheet: {sheet}: {strange[0]} is no slice of {answers}; name the sheet's own answers")
        table = truth.merge(filled[[SLICE, ANSWER]], how="left", on=SLICE).fillna({ANSWER: ""})
        table[ANSWER] = table[ANSWER].str.strip().str.lower()
        read = table[ANSWER].isin((INSERTED, REAL))
        if not read.any():
            raise UserError(f"--sheet: {sheet}: nothing filled in; write {INSERTED} or {REAL} beside each slice")
        unread = tuple(f"{row[SLICE]} ({row[ANSWER] or 'empty'})" for _, row in table[~read].iterrows())
        return Reading(sheet, answers, table[read].reset_index(drop=True), unread)

    @property
    def tags(self) -> dict[str, str]:
        """For the MLflow run: the sheet."""
        return {"reader.sheet": self.sheet}

    @property
    def scores(self) -> dict[str, Any]:
        """Those of `reader_scores`, with how many slices were read, and of how many patients (volumes, where none are
        named)."""
        truth, said = ((self.table[name] == INSERTED).tolist() for name in (TRUTH, ANSWER))
        people = self.table[PATIENT].where(self.table[PATIENT] != "", self.table[VOLUME])
        return {
            **reader_scores(truth, said),
            "slices": len(self.table),
            "unread": len(self.unread),
            "patients": int(people.nunique()),
        }

    def carry_out(self, opened: OpenRun) -> None:
        """The work of the job: scores into the result, and the table of what was said beside what is."""
        if self.unread:
            more = f" and {len(self.unread) - MOST_NAMED} more" if len(self.unread) > MOST_NAMED else ""
            say(
                f"reader sheet: left out, for they are neither {INSERTED} nor {REAL}: "
                f"{', '.join(self.unread[:MOST_NAMED])}{more}"
            )
        scores = self.scores
        opened.result.scores["reading"] = scores
        opened.result.artefacts |= {"sheet": self.sheet, "answers": self.answers}
        opened.keep({"reading.csv": self.table.to_csv(index=False).encode()}, {"reading.csv": "reading"})
        for name in ("accuracy", "sensitivity", "specificity"):
            one = scores[name]
            say(
                f"{name}: {one['value']:.3f} (95 % {one['low']:.3f} to {one['high']:.3f}), {one['right']} of "
                f"{one['of']} slices"
            )
        say(f"patients: {scores['patients']}; intervals take slices as independent, and those of one patient are not")


def _named(own: Mapping[str, list[str]], flag: str) -> str:
    if len(own[flag]) != 1:
        raise UserError(f"--{flag}: name one file")
    return absolute(own[flag][0])


def _read(flag: str, uri: str, columns: tuple[str, ...], options: Options) -> pd.DataFrame:
    """A CSV of text, whatever its separator; UserError for one that cannot be read or lacks a column."""
    if not exists(uri, options):
        raise UserError(f"{flag}: {uri}: not found")
    try:
        table = pd.read_csv(
            BytesIO(read_bytes(uri, options)), dtype=str, keep_default_na=False, sep=None, engine="python"
        )
    except (ValueError, pd.errors.ParserError) as error:
        raise UserError(f"{flag}: {uri}: no table of comma-separated values ({error})") from error
    if lacking := next((name for name in columns if name not in table), None):
        raise UserError(f"{flag}: {uri}: no column {lacking!r}; it needs {', '.join(columns)}")
    return table
