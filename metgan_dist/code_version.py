"""Which code made a result."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from metgan_dist import __version__


@cache
def code_version() -> str:
    """Git commit of the code with `-dirty` where it was changed, else the package's version.

    As it was when this process first asked: what is changed later, it does not run. And each checkpoint asks.
    """
    here = Path(__file__).resolve().parent
    try:
        text = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return __version__
    return text.stdout.strip()
