"""The queue on disk: nothing lost by a kill, nothing sent by two, nothing read by halves."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from metgan_dist.tracking.journal import Journal


def numbers(journal: Journal, limit: int = 100) -> list[int]:
    return [entry["n"] for entry, _ in journal.pending(limit)]


def test_entries_come_out_in_order_and_leave_when_acknowledged(tmp_path):
    journal = Journal.create(tmp_path)
    for n in range(5):
        journal.append({"n": n})
    assert numbers(journal, limit=3) == [0, 1, 2]
    journal.acknowledge(journal.pending(2))
    assert numbers(journal) == [2, 3, 4]
    assert journal.unsent == 3
    journal.acknowledge(journal.pending(3))
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_killed_process_leaves_its_entries_to_one_heir(tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from metgan_dist.tracking.journal import Journal
journal = Journal.create(Path({str(tmp_path)!r}))
for n in range(4): journal.append({{"n": n}})
journal.acknowledge(journal.pending(1))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    [heir] = Journal.abandoned(tmp_path)
    assert list(Journal.abandoned(tmp_path)) == []  # the heir holds it
    assert numbers(heir) == [1, 2, 3]
    assert heir.unsent == 3
    heir.close()
    [next_heir] = Journal.abandoned(tmp_path)
    assert numbers(next_heir) == [1, 2, 3]


def test_journal_of_a_living_logger_is_not_taken(tmp_path):
    journal = Journal.create(tmp_path)
    journal.append({"n": 1})
    assert list(Journal.abandoned(tmp_path)) == []
    journal.close()


def test_line_cut_short_by_a_kill_does_not_spoil_the_next(tmp_path):
    journal = Journal.create(tmp_path)
    journal.append({"n": 0})
    journal.close()
    [entries] = tmp_path.glob("*/entries.jsonl")
    with entries.open("ab") as file:
        file.write(b'{"n": 1, "half')
    [heir] = Journal.abandoned(tmp_path)
    heir.append({"n": 2})
    assert numbers(heir) == [0, 2]


def test_full_disk_is_an_error_and_the_entries_before_and_after_stay_whole(tmp_path):
    journal = Journal.create(tmp_path)
    journal.append({"n": 0})

    class FullDisk:
        def write(self, line):
            return real.write(line[:4])

        def seek(self, position):
            return real.seek(position)

        def truncate(self, size):
            return real.truncate(size)

    real, journal._writer = journal._writer, FullDisk()
    with pytest.raises(OSError, match="no space left"):
        journal.append({"n": 1})
    journal._writer = real
    journal.append({"n": 2})
    assert numbers(journal) == [0, 2]


def test_file_is_kept_as_it_was_when_logged_and_goes_when_sent(tmp_path):
    original = tmp_path / "result.json"
    original.write_text("first")
    journal = Journal.create(tmp_path / "spool")
    kept = [journal.keep(original, "result.json")]
    original.write_text("second")
    kept.append(journal.keep(original, "result.json"))
    original.unlink()
    for path in kept:
        journal.append({"path": path})
    assert [(journal.folder / path).read_text() for path in kept] == ["first", "second"]
    assert {Path(path).name for path in kept} == {"result.json"}
    journal.acknowledge(journal.pending(1))
    assert [(journal.folder / path).exists() for path in kept] == [False, True]
