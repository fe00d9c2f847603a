"""Which code made a result: its commit, and whether it was changed before the process began."""

import subprocess

import pytest

from metgan_dist import __version__
from metgan_dist import code_version as module
from metgan_dist.code_version import code_version


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the package is taken to lie, by a process that has not asked yet."""
    monkeypatch.setattr(module, "__file__", str(tmp_path / "code_version.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    code_version.cache_clear()
    yield tmp_path
    code_version.cache_clear()


def git(folder, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_it_is_the_commit_that_the_process_began_with(folder):
    (folder / "code.py").write_text("a = 1\n")
    git(folder, "init")
    git(folder, "add", "code.py")
    git(folder, "commit", "--message", "first")
    commit = git(folder, "rev-parse", "--short=12", "HEAD")
    assert code_version() == commit
    (folder / "code.py").write_text("a = 2\n")
    assert code_version() == commit  # the process still runs what it has loaded
    code_version.cache_clear()
    assert code_version() == f"{commit}-dirty"


def test_without_a_commit_it_is_the_version_of_the_package(folder):
    assert code_version() == __version__
