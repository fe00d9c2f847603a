"""What `ray job submit --working-dir .` carries to a cluster."""

import zipfile
from pathlib import Path

import pytest
from open_ports import ROOT
from ray._private.runtime_env.packaging import create_package

LARGEST = 3 * 2**20  # bytes; Ray refuses 500 MiB, but each driver unpacks it


@pytest.fixture(scope="module")
def carried(tmp_path_factory):
    """(names, size) of the archive that Ray makes of the repository."""
    archive = tmp_path_factory.mktemp("package") / "working_dir.zip"
    create_package(str(ROOT), archive, include_gitignore=True)
    with zipfile.ZipFile(archive) as packed:
        return [name for name in packed.namelist() if not name.endswith("/")], archive.stat().st_size


def test_it_is_small(carried):
    names, size = carried
    assert size < LARGEST
    assert len(names) < 500


def test_it_has_all_that_a_job_needs_and_nothing_else(carried):
    names = set(carried[0])
    code = {str(p.relative_to(ROOT)) for folder in ("jobs", "metgan_dist") for p in (ROOT / folder).rglob("*.py")}
    settings = {str(p.relative_to(ROOT)) for p in (ROOT / "metgan_dist").rglob("*.yaml")}
    assert code | settings <= names
    folders = {Path(name).parts[0] for name in names if len(Path(name).parts) > 1}
    assert folders == {"jobs", "metgan_dist"}
    assert not [name for name in names if name.endswith((".pyc", ".png", ".db", ".zip"))]
