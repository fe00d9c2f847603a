"""MLflow's tables in a SQLite file, made once for many stores because that takes seconds."""

import atexit
import functools
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from metgan_dist.tracking import server


@functools.cache
def _empty() -> Path:
    folder = tempfile.mkdtemp(prefix="metgan-mlflow-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    server.connect(f"sqlite:///{folder}/empty.db").search_experiments(max_results=1)
    return Path(folder) / "empty.db"


def ready_tables(patch: pytest.MonkeyPatch) -> None:
    """Until `patch` is undone, who asks for a new SQLite file finds a store without runs there."""
    ask = server._ask

    def copied(uri: str) -> None:
        if uri.startswith("sqlite:///"):
            path = Path(uri.removeprefix("sqlite:///"))
            with suppress(OSError):  # of which it is for `ask` to tell
                path.parent.mkdir(parents=True, exist_ok=True)
                make_store(path)
        ask(uri)

    patch.setattr(server, "_ask", copied)


def make_store(path: Path) -> str:
    """A store without runs at `path`, unless there is one; its address."""
    if not path.exists():
        shutil.copyfile(_empty(), path)
    return f"sqlite:///{path}"
