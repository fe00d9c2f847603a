"""`--help` is a page for each job, a section, or all of it."""

from pathlib import Path

import pytest

from metgan_dist.errors import UserError
from metgan_dist.recipe import Recipe
from metgan_dist.runs.command_line import parse_command
from metgan_dist.runs.help_page import _EVERYWHERE, _MATTERS

JOBS = sorted(path.stem for path in (Path(__file__).parents[2] / "jobs").glob("*.py"))


def page(capsys, *arguments, job="train_metgan.py"):
    with pytest.raises(SystemExit) as end:
        parse_command(job, "A job.", arguments)
    assert end.value.code == 0
    return capsys.readouterr().out


def flags(text):
    return {line.split()[0] for line in text.splitlines() if line.startswith("  --")}


@pytest.mark.parametrize("job", JOBS)
def test_a_page_has_what_matters_for_the_job_and_no_more(capsys, job):
    text = page(capsys, "--help", job=f"{job}.py")
    wanted = {f"--{field}" for field in (*_EVERYWHERE, *_MATTERS[job])}
    assert flags(text) == {*wanted, "--recipe", "--dry-run", "--debug"}
    assert len(text.splitlines()) < 160
    assert "--help all" in text


@pytest.mark.parametrize("job", JOBS)
def test_what_matters_are_fields_of_the_recipe(job, capsys):
    known = flags(page(capsys, "-h", "all"))
    assert {f"--{field}" for field in _MATTERS[job]} <= known


@pytest.mark.parametrize("arguments", [("--help", "tiles"), ("--help=tiles",), ("-h", "tiles")])
def test_a_section_is_shown_alone_and_whole(capsys, arguments):
    text = page(capsys, *arguments)
    assert flags(text) - {"--recipe", "--dry-run", "--debug"} == {
        f"--tiles.{field}" for field in Recipe.model_fields["tiles"].annotation.model_fields
    }
    assert "training options" not in text


def test_a_section_of_a_method_has_that_methods_fields(capsys):
    text = page(capsys, "--method.name", "redgan", "--help", "method")
    assert "--method.organs" in text
    assert "--method.alpha1" not in text


def test_a_job_that_is_not_known_shows_all(capsys):
    assert flags(page(capsys, "--help", job="mine.py")) == flags(page(capsys, "--help", "all", job="mine.py"))


def test_a_section_that_is_none_is_a_line():
    with pytest.raises(UserError, match=r"--help tile: none of all, data, tiles, .*storage"):
        parse_command("train_metgan.py", "", ("--help", "tile"))
