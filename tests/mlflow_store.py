"""MLflow's tables in a SQLite file, made once for many stores because that takes seconds."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path


@functools.cache
def _empty() -> Path:
    from metgan_dist.tracking import check_server

    folder = tempfile.mkdtemp(prefix="metgan-mlflow-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    check_server(f"sqlite:///{folder}/empty.db")
    return Path(folder) / "empty.db"


def make_store(path: Path) -> str:
    """A store without runs at `path`, unless there is one; its address."""
    if not path.exists():
        shutil.copyfile(_empty(), path)
    return f"sqlite:///{path}"
