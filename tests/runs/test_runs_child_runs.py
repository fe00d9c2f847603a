"""Jobs under an open run: as processes on its cluster, or in its own process where they train there."""

import os
import re

import pytest

from metgan_dist.recipe import Recipe, Scaling, Training
from metgan_dist.runs.child_runs import ChildJob, child_job, run_jobs

JOB = """
import os, sys
from metgan_dist.errors import UserError
from metgan_dist.runs.job import run_job, say

PURPOSE = "Says where it runs; seed 1 is a mistake."

def work(command):
    if command.recipe.training.seed == 1:
        raise UserError("data.path: gone")
    say(f"process {os.getpid()} on {os.environ.get('RAY_ADDRESS')}")
    return "here"

if __name__ == "__main__":
    sys.exit(run_job("stub.py", PURPOSE, work))
"""


@pytest.mark.parametrize("in_process", [True, False])
def test_a_failed_child_stops_no_other_and_lines_have_labels(in_process, ray_cluster, tmp_path, capsys):
    script = tmp_path / "stub.py"
    script.write_text(JOB)
    scaling = Scaling(workers=0 if in_process else 1)
    recipes = {name: Recipe(training=Training(seed=seed), scaling=scaling) for seed, name in enumerate("abc")}
    jobs = {name: child_job(script, name.upper(), recipe) for name, recipe in recipes.items()}
    failed = run_jobs(jobs, 2, here=in_process)
    assert failed == {"b": "data.path: gone"}
    lines = re.findall(r"^\[([A-C])\] process (\d+) on (\S+)$", capsys.readouterr().out, re.MULTILINE)
    assert sorted(label for label, _, _ in lines) == ["A", "C"]
    own = {str(os.getpid())}
    if in_process:
        assert {process for _, process, _ in lines} == own
    else:
        assert not {process for _, process, _ in lines} & own
        assert {address for _, _, address in lines} == {ray_cluster}


def test_an_interrupt_ends_the_job_and_its_children_in_process(ray_cluster, tmp_path):
    script = tmp_path / "stub.py"
    script.write_text("PURPOSE = ''\ndef work(command):\n    raise KeyboardInterrupt\n")
    recipes = {name: Recipe(scaling=Scaling(workers=0)) for name in "ab"}
    with pytest.raises(KeyboardInterrupt):
        run_jobs({name: child_job(script, name, recipe) for name, recipe in recipes.items()}, 1, here=True)


@pytest.mark.parametrize("here", [True, False])
def test_a_recipe_is_asked_for_once_what_the_child_needs_is_done(here, ray_cluster, tmp_path, capsys):
    script = tmp_path / "stub.py"
    script.write_text(JOB)

    def job(name, seed=0, needs=(), done=False):
        def recipe():
            asked.append(name)
            return None if done else Recipe(training=Training(seed=seed), scaling=Scaling(workers=0 if here else 1))

        return ChildJob(script, name.upper(), recipe, needs)

    asked = []
    jobs = {"c": job("c", needs=("a",)), "a": job("a"), "done": job("done", done=True), "b": job("b", seed=1)}
    failed = run_jobs({**jobs, "d": job("d", needs=("b",)), "e": job("e", needs=("done",))}, 1, here=here)
    assert failed == {"b": "data.path: gone", "d": "b, which it needs, failed"}
    assert sorted(asked) == ["a", "b", "c", "done", "e"]
    assert asked.index("a") < asked.index("c")
    said = re.findall(r"^\[([A-E]+)\] process", capsys.readouterr().out, re.MULTILINE)
    assert sorted(said) == ["A", "C", "E"]
