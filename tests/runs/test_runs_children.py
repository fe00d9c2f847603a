"""Jobs as children: so many at once, heard line by line, and gone when their parent is."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress

import psutil
import pytest

from metgan_dist.errors import UserError
from metgan_dist.runs import children
from metgan_dist.runs.children import run_children, termination_as_interrupt
from metgan_dist.runs.job import ENDS_WITH_PARENT


def python(code):
    return [sys.executable, "-c", textwrap.dedent(code)]


def test_lines_are_passed_on_and_failures_do_not_stop_others():
    heard = []
    failed = run_children(
        {
            "good": python("print('one\\n'); print('two')"),
            "mistake": python(
                "import sys; print('error: data.path: gone', file=sys.stderr); print('bye'); sys.exit(2)"
            ),
            "crash": python("print('last words'); import os; os._exit(3)"),
            "later": python("print('three')"),
        },
        1,
        os.environ,
        lambda name, line: heard.append((name, line)),
    )
    assert failed == {"mistake": "data.path: gone", "crash": "ended with exit code 3 (last words)"}
    assert [pair for pair in heard if pair[0] in ("good", "later")] == [
        ("good", "one"),
        ("good", "two"),
        ("later", "three"),
    ]


def test_no_more_at_once_than_asked_for(tmp_path):
    code = f"""
        import time, pathlib, os
        mark = pathlib.Path({str(tmp_path)!r}, str(os.getpid()))
        mark.touch(); time.sleep(0.4)
        print(len(list(mark.parent.iterdir()))); mark.unlink()
    """
    counts = []
    names = "abcde"
    assert (
        run_children(dict.fromkeys(names, python(code)), 2, os.environ, lambda _, line: counts.append(int(line))) == {}
    )
    assert len(counts) == 5
    assert max(counts) == 2


SLEEPER = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
STUBBORN = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER.removeprefix(
    "import os, "
)


@pytest.mark.parametrize("code", [SLEEPER, STUBBORN])
def test_an_interrupted_parent_leaves_no_child_behind(monkeypatch, code):
    monkeypatch.setattr(children, "GRACE_SECONDS", 1.0)
    started = []

    def hear(_name, line):
        started.append(int(line))
        if len(started) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), termination_as_interrupt():
        run_children({"a": python(code), "b": python(code)}, 2, os.environ, hear)
    assert signal.getsignal(signal.SIGTERM) == before
    assert len(started) == 2
    assert not any(psutil.pid_exists(pid) for pid in started)


def test_a_job_ends_with_a_parent_that_was_killed(tmp_path):
    """The parent starts a job that would work for a minute, and is killed without a chance to end it."""
    job = tmp_path / "job.py"
    job.write_text(
        "import os, sys, time\nfrom metgan_dist.runs.job import run_job\n"
        "def work(command):\n    print(os.getpid(), flush=True); time.sleep(60); return ''\n"
        "sys.exit(run_job('job.py', 'A job.', work, []))\n"
    )
    parent = subprocess.Popen(
        python(f"""
            import os, sys
            from metgan_dist.runs.children import run_children
            job = [sys.executable, {str(job)!r}]
            run_children({{"a": job}}, 1, os.environ, lambda _, line: print(line, flush=True))
        """),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    try:
        parent.kill()
        parent.wait()
        child.wait(timeout=20)
    finally:
        with suppress(psutil.NoSuchProcess):
            child.kill()


def test_a_job_started_by_hand_does_not_watch_its_input(monkeypatch):
    from metgan_dist.runs.job import run_job

    monkeypatch.delenv(ENDS_WITH_PARENT, raising=False)
    before = threading.active_count()
    assert run_job("job.py", "A job.", lambda command: time.sleep(0) or "", []) == 0
    assert threading.active_count() == before


def test_a_command_waits_for_what_it_needs_and_fails_where_that_did():
    heard, made = [], []

    def late():
        made.append(list(heard))
        return python("print('second')")

    def impossible():
        raise UserError("synthesis.model: gone")

    failed = run_children(
        {
            "second": late,
            "first": python("import time; time.sleep(0.5); print('first')"),
            "done": lambda: None,
            "broken": impossible,
            "lost": python("print('never')"),
            "lost too": python("print('never')"),
        },
        4,
        os.environ,
        lambda name, line: heard.append(line),
        {"second": ["first", "done"], "lost": ["first", "broken"], "lost too": ["lost"]},
    )
    assert heard == ["first", "second"]
    assert made == [["first"]]  # asked for when what it needs had ended
    assert failed == {
        "broken": "synthesis.model: gone",
        "lost": "broken, which it needs, failed",
        "lost too": "lost, which it needs, failed",
    }
