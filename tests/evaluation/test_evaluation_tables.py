"""A table says the same in Markdown, CSV and LaTeX: the best in bold, significance marked, the paper beside."""

import csv
import io

import pytest

from metgan_dist.evaluation.tables import BETTER, WORSE, Line, Table, Value, aligned
from metgan_dist.scores.column import COLUMNS


@pytest.fixture
def table():
    lines = [
        Line(
            "Pix2Pix", {"mae": Value(0.123456, 0.11, 0.13, WORSE), "ssim": Value(0.7)}, {"Pair": True}, {"mae": 0.122}
        ),
        Line("A_B 50%", {"mae": Value(0.1, mark=BETTER), "ssim": Value(0.5)}, {"Pair": False}, more={"run": "r"}),
        Line("Broken", ticks={"Pair": True}, failed="step 3: not finite"),
    ]
    columns = [COLUMNS["mae"], COLUMNS["ssim"], COLUMNS["fid"]]
    return Table("Methods", columns, lines, ["* worse than < 3"])


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_markdown_has_the_lowest_mae_and_the_highest_ssim_in_bold(table):
    text = table.markdown().splitlines()
    assert text[0] == "**Methods**"
    header, _, first, second, third = (cells(line) for line in text[2:7])
    assert header == ["Method", "Pair", "MAE ↓", "paper", "SSIM ↑", "FID ↓"]
    assert first == ["Pix2Pix", "✓", r"0.1235\*", "0.122", "**0.700**", "-"]
    assert second == ["A_B 50%", "", "**0.1000**†", "-", "0.500", "-"]
    assert third == ["Broken", "✓", "failed", "-", "failed", "failed"]
    assert r"\* worse than < 3" in text
    assert "Broken failed: step 3: not finite" in text


def test_csv_has_every_number_unrounded_with_interval_and_paper(table):
    first, second, third = csv.DictReader(io.StringIO(table.csv()))
    assert (first["mae"], first["mae_low"], first["mae_high"], first["mae_paper"]) == (
        "0.123456",
        "0.11",
        "0.13",
        "0.122",
    )
    assert (first["Pair"], first["fid"], first["run"]) == ("True", "", "")
    assert (second["mae_low"], second["run"]) == ("", "r")
    assert third["failed"] == "step 3: not finite"


def test_latex_escapes_what_latex_would_read(table):
    text = table.latex()
    assert r"A\_B 50\% &  & \textbf{0.1000}$^{\dagger}$ & - & 0.500 & - \\" in text
    assert r"Pix2Pix & \checkmark{} & 0.1235$^{*}$ & 0.122 & \textbf{0.700} & - \\" in text
    assert r"MAE $\downarrow$" in text
    assert "worse than $<$ 3" in text
    assert r"\begin{tabular}{lcrrrr}" in text
    assert text.count("{") == text.count("}")


def test_a_score_that_no_method_has_has_no_best(table):
    assert table.best(COLUMNS["fid"]) is None
    assert Table("", [COLUMNS["mae"]], [Line("a", {"mae": Value(float("nan"))})]).best(COLUMNS["mae"]) is None


def test_columns_are_as_wide_as_their_widest_cell():
    lines = aligned([["a", "b"], ["long name", "1"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "| --------- | --: |"


def test_a_standard_deviation_stands_beside_its_mean_and_the_papers_beside_that():
    lines = [
        Line("a", {"mae": Value(0.5, 0.4, 0.6, spread=0.25)}, paper={"mae": 0.4}, paper_spread={"mae": 0.1}),
        Line("b", {"mae": Value(0.75)}, paper={"mae": 0.3}),
        Line("c"),
    ]
    table = Table("T", [COLUMNS["mae"]], lines)
    first, second, third = (cells(line) for line in table.markdown().splitlines()[4:7])
    assert first == ["a", "**0.5000 ± 0.2500**", "0.4000 ± 0.1000"]
    assert second == ["b", "0.7500", "0.3"]
    assert third == ["c", "-", "-"]
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    assert list(rows[0]) == ["method", "mae", "mae_std", "mae_low", "mae_high", "mae_paper", "failed"]
    assert [list(row.values())[1:6] for row in rows] == [
        ["0.5", "0.25", "0.4", "0.6", "0.4"],
        ["0.75", "", "", "", "0.3"],
        ["", "", "", "", ""],
    ]
