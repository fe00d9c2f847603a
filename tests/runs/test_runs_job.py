"""Exit codes and last lines of a job, without running one."""

import os

import pytest

from metgan_dist.errors import TrainingStopped, UserError, understood
from metgan_dist.runs.job import run_job, say


def job(work, *arguments):
    return run_job("job.py", "A job.", work, list(arguments))


def raising(error):
    def work(_command):
        raise error

    return work


def test_done_is_zero_and_the_last_line_is_the_result(capsys):
    assert job(lambda _command: "/somewhere/result.json") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "result: /somewhere/result.json"


def test_work_goes_on_where_nobody_reads_what_it_says(monkeypatch):
    """`--dry-run | head`: the lines after the first screen have no reader."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        assert job(lambda _command: "/somewhere/result.json") == 0
        say("and on")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("data.path: not found; check it"), 2, "error: data.path: not found; check it"),
        (TrainingStopped("step 3: not finite"), 1, "error: step 3: not finite"),
        (KeyError("x"), 1, "error: KeyError: 'x' (--debug shows the traceback)"),
        (UserError("two\nlines"), 2, "error: two lines"),
    ],
)
def test_errors_are_one_line(capsys, error, code, line):
    assert job(raising(error)) == code
    assert capsys.readouterr().err == line + "\n"


def test_a_mistake_on_a_worker_is_still_the_users_mistake(ray_cluster, capsys):
    import ray

    @ray.remote(num_cpus=0.5)
    def fail():
        raise UserError("/data/a.tif: the file is empty; copy it again")

    assert job(lambda _command: ray.get(fail.remote())) == 2
    assert capsys.readouterr().err == "error: /data/a.tif: the file is empty; copy it again\n"


def test_understood_finds_the_cause_through_wrappings():
    inner = UserError("inner")
    outer = RuntimeError("outer")
    outer.__cause__ = ValueError("middle")
    outer.__cause__.__context__ = inner
    assert understood(outer) is inner
    plain = RuntimeError("plain")
    assert understood(plain) is plain


def test_without_a_mistake_the_first_error_that_is_not_rays_is_told():
    from ray.exceptions import RayTaskError

    cause = ZeroDivisionError("in a worker")
    outer = RayTaskError("task", "Traceback of many lines", cause).as_instanceof_cause()
    assert understood(outer) is cause
    dead = RayTaskError("task", "Traceback", RayTaskError("inner", "Traceback", None))
    assert understood(dead) is dead
