"""How a damaged input is opened and read to its end as a job would do it, and what every refusal has in common."""

import hashlib
import re
from pathlib import Path

import pytest

from metgan_dist.errors import UserError
from metgan_dist.volumes.open import open_volume

LONGEST = 500


def contents(place):
    """The SHA-256 of every file at a path, by name; what a refusal must leave as it was."""
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_all(path, **how):
    """Every voxel of every channel of a volume."""
    volume = open_volume(str(path), **how)
    return {name: volume.read(name, tuple((0, edge) for edge in volume.shape)) for name in volume.channels}


def refused(place, said, work=read_all, **how):
    """That `work` on a file or folder is one line, which names it and says what `said` (a pattern) does."""
    place = Path(place)
    before = contents(place)
    with pytest.raises(UserError) as error:
        work(place, **how)
    line = str(error.value)
    assert "\n" not in line
    assert len(line) < LONGEST + len(str(place))
    assert str(place) in line
    assert re.search(said, line.replace(str(place), "PLACE")), line
    assert contents(place) == before
