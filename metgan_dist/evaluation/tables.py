"""Tables of methods and scores as Markdown, CSV and LaTeX: best in bold, significance marked, a paper's numbers beside.

A table is data; what is written here is only its form.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from metgan_dist.scores.column import Column

ABSENT = "-"
WORSE, BETTER = "*", "†"
_TICK = "✓"


@dataclass(frozen=True)
class Value:
    """A score of one method, its confidence interval, and whether it differs from the reference's (a mark).

    `spread`: the standard deviation that stands beside it, where a table shows one.
    """

    value: float
    low: float | None = None
    high: float | None = None
    mark: str = ""
    spread: float | None = None


@dataclass(frozen=True)
class Line:
    """One method's line.

    `ticks` are the table's first columns, `paper` what a paper printed for this line, `paper_spread` the standard
    deviations that it printed, `more` further numbers for the CSV, `failed` why there are no scores.
    """

    label: str
    values: Mapping[str, Value] = field(default_factory=dict)
    ticks: Mapping[str, bool | str] = field(default_factory=dict)
    paper: Mapping[str, float] = field(default_factory=dict)
    more: Mapping[str, float | str] = field(default_factory=dict)
    failed: str | None = None
    paper_spread: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A comparison of methods, or of what `subject` says; `notes` say what a reader must know to read the numbers."""

    title: str
    columns: Sequence[Column]
    lines: Sequence[Line]
    notes: Sequence[str] = ()
    subject: str = "Method"

    def best(self, column: Column) -> float | None:
        """The best value of a column as far as it counts, None where it has none."""
        values = [column.capped(line.values[column.name].value) for line in self.lines if column.name in line.values]
        finite = [value for value in values if not math.isnan(value)]
        if not finite:
            return None
        return min(finite) if column.better == "min" else max(finite)

    @property
    def tick_names(self) -> list[str]:
        """Headings of the columns of ticks, in the lines' order of first use."""
        return list(dict.fromkeys(name for line in self.lines for name in line.ticks))

    def markdown(self) -> str:
        """The table under its title, then its notes; columns aligned, so that a terminal shows it as well."""
        rows = [[_markdown(cell) for cell in row] for row in self._cells()]
        text = f"**{self.title}**\n\n{aligned(rows, 1 + len(self.tick_names))}"
        return text + "".join("\n{}\n".format(note.replace("*", r"\*")) for note in self._all_notes())

    def latex(self) -> str:
        """A tabular (booktabs) in a table environment, the notes in its caption."""
        header, *body = [" & ".join(_latex(cell) for cell in row) + r" \\" for row in self._cells()]
        ticks = len(self.tick_names)
        layout = "l" + "c" * ticks + "r" * (len(self._cells()[0]) - 1 - ticks)
        caption = _escaped(" ".join([f"{self.title}.", *self._all_notes()]))
        top = [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}", rf"\begin{{tabular}}{{{layout}}}"]
        end = [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
        return "\n".join([*top, r"\toprule", header, r"\midrule", *body, *end])

    def csv(self) -> str:
        """Every number unrounded: each score with its interval and the paper's, then what lines have `more`."""
        names = [column.name for column in self.columns]
        spread = (
            ("_std",) if any(value.spread is not None for line in self.lines for value in line.values.values()) else ()
        )
        more = list(dict.fromkeys(name for line in self.lines for name in line.more))
        ends = ("", *spread, "_low", "_high", "_paper")
        parts = [f"{name}{end}" for name in names for end in ends]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([self.subject.lower(), *self.tick_names, *parts, *more, "failed"])
        for line in self.lines:
            cells: list[object] = [line.label, *(line.ticks.get(name, "") for name in self.tick_names)]
            for name in names:
                value = line.values.get(name)
                own = [value.value, *([value.spread] if spread else []), value.low, value.high] if value else []
                cells += [*own, *[None] * (len(ends) - 1 - len(own)), line.paper.get(name)]
            writer.writerow([*cells, *(line.more.get(name) for name in more), line.failed or ""])
        return text.getvalue()

    def _cells(self) -> list[list[_Cell]]:
        header = [_Cell(self.subject), *(_Cell(name) for name in self.tick_names)]
        for column in self.columns:
            header.append(_Cell(f"{column.title} {column.arrow}"))
            header += [_Cell("paper")] if column.name in self._in_paper else []
        return [header, *(self._line_cells(line) for line in self.lines)]

    def _line_cells(self, line: Line) -> list[_Cell]:
        ticks = [line.ticks.get(name, "") for name in self.tick_names]
        cells = [_Cell(line.label), *(_Cell(tick if isinstance(tick, str) else _TICK * tick) for tick in ticks)]
        for column in self.columns:
            value = line.values.get(column.name)
            if value is None:
                cells.append(_Cell("failed" if line.failed else ABSENT))
            else:
                best = column.capped(value.value) == self.best(column)
                text = f"{value.value:.{column.digits}f}"
                beside = "" if value.spread is None else f" ± {value.spread:.{column.digits}f}"
                cells.append(_Cell(text + beside, best, value.mark))
            if column.name in self._in_paper:
                printed, around = line.paper.get(column.name), line.paper_spread.get(column.name)
                cells.append(_Cell(ABSENT if printed is None else _printed(printed, around, column.digits)))
        return cells

    @property
    def _in_paper(self) -> set[str]:
        return {name for line in self.lines for name in line.paper}

    def _all_notes(self) -> list[str]:
        return [*self.notes, *(f"{line.label} failed: {line.failed}" for line in self.lines if line.failed)]


def _printed(value: float, spread: float | None, digits: int) -> str:
    return f"{value:g}" if spread is None else f"{value:.{digits}f} ± {spread:.{digits}f}"


@dataclass(frozen=True)
class _Cell:
    text: str
    bold: bool = False
    mark: str = ""


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table of equally wide columns; the first `left` columns to the left, the others to the right."""
    widths = [max(3, *(len(row[k]) for row in rows)) for k in range(len(rows[0]))]

    def line(cells: Sequence[str]) -> str:
        """One row, each cell padded to its column's width."""
        padded = [c.ljust(w) if k < left else c.rjust(w) for k, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |\n"

    rule = ["-" * w if k < left else "-" * (w - 1) + ":" for k, w in enumerate(widths)]
    return line(rows[0]) + line(rule) + "".join(line(row) for row in rows[1:])


def aligned_records(rows: Sequence[Mapping[str, object]]) -> str:
    """`aligned` of rows that have the same keys, which become the titles."""
    return aligned([list(rows[0]), *([str(value) for value in row.values()] for row in rows)])


def _markdown(cell: _Cell) -> str:
    text = cell.text.replace("|", "\\|")
    return (f"**{text}**" if cell.bold else text) + cell.mark.replace("*", "\\*")


def _latex(cell: _Cell) -> str:
    text = _escaped(cell.text)
    mark = {WORSE: "$^{*}$", BETTER: r"$^{\dagger}$"}.get(cell.mark, cell.mark)
    return (rf"\textbf{{{text}}}" if cell.bold else text) + mark


_LATEX = {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{character: rf"\{character}" for character in "&%$#_{}"},
    **{"✓": r"\checkmark{}", "↓": r"$\downarrow$", "↑": r"$\uparrow$", BETTER: r"$\dagger$", "<": "$<$", ">": "$>$"},
}


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
