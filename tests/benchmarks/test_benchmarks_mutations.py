"""The benchmark of damaged files finds what it says: of a few damages each is refused or without effect."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "mutations.py"


@pytest.fixture
def mutations(monkeypatch):
    spec = importlib.util.spec_from_file_location("mutations", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mutations", module)
    spec.loader.exec_module(module)
    return module


def test_of_formats_with_checksums_no_damage_passes(mutations):
    for name in ("NIfTI (.nii.gz)", "PNG"):
        found = mutations.outcomes(name, 25, seed=1)
        assert found["refused"] + found["the same"] == 25, found
        assert found["refused"] > 15


def test_a_reader_that_fails_dies_or_hangs_is_found(mutations, tmp_path, monkeypatch):
    """Of a copy of the script that has such readers."""
    script = tmp_path / "mutations.py"
    readers = (
        "def _write(folder):\n    (folder / 'a').write_bytes(b'x' * 100)\n\n\n"
        "def _reads(folder):\n    size = (folder / 'a').stat().st_size\n"
        "    if size == 100:\n        return (folder / 'a').read_bytes()\n"
        "    if size < 30:\n        raise KeyError('no line')\n"
        "    if size < 60:\n        os.abort()\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0.1)\n    while True:\n        pass\n\n\n"
        "FORMATS = {'toy': (_write, _reads)}\n\n\nif __name__ == "
    )
    script.write_text(SCRIPT.read_text().replace("if __name__ == ", readers))
    monkeypatch.setattr(mutations, "__file__", str(script))
    found = mutations.outcomes("toy", 16, seed=0)
    assert sum(found.values()) == 16
    assert found["a crash"] > 0
    assert found["a hang"] > 0
    assert found["an exception"] > 0
    assert found["other values"] > 0


def test_the_table_stands_between_the_marks_of_its_page(mutations, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- mutations -->\nold\n<!-- end -->\nafter\n")
    mutations._replace(page, "| new |")
    assert page.read_text() == "before\n<!-- mutations -->\n| new |\n<!-- end -->\nafter\n"
