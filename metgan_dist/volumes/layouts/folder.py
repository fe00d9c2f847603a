"""A folder of somebody's data set as the layouts look at it: names, each part listed once, on disk or in storage."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from tifffile import natural_sorted

from metgan_dist.errors import UserError
from metgan_dist.storage import Options, entries, join, one_line, read_bytes


class Folder:
    """Names in a folder and in its parts; a part that is not there holds nothing."""

    def __init__(self, uri: str, options: Options | None = None) -> None:
        self.uri, self._options = uri, options
        self._listed = cache(self._listing)

    def files(self, part: str = "") -> list[str]:
        """Names of the files in a part, 2 before 10."""
        return self._listed(part)[0]

    def folders(self, part: str = "") -> list[str]:
        """Names of the folders in a part, 2 before 10."""
        return self._listed(part)[1]

    def matches(self, pattern: str, *parts: str) -> Iterator[tuple[str, re.Match[str]]]:
        """Path, and match, of each file in the parts ("" is the folder itself) whose whole name matches."""
        for part in parts:
            for name in self.files(part):
                if match := re.fullmatch(pattern, name):
                    yield (f"{part}/{name}" if part else name), match

    def found(self, field: str, path: str) -> dict[str, str]:
        """A field of an entry with a file's path, or none where the file is not there."""
        part, _, name = path.rpartition("/")
        return {field: path} if name in self.files(part) else {}

    def tree(self, name: str) -> dict[str, Any]:
        """What a JSON file holds; UserError where it cannot be read or is no mapping."""
        uri = join(self.uri, name)
        try:
            tree = json.loads(read_bytes(uri, self._options))
        except ValueError as error:
            raise UserError(f"{uri}: not readable as JSON: {one_line(error)}; correct it") from error
        if not isinstance(tree, dict):
            raise UserError(f"{uri}: a mapping is expected, not {type(tree).__name__}; correct it")
        return tree

    def _listing(self, part: str) -> tuple[list[str], list[str]]:
        try:
            files, folders = entries(join(self.uri, part) if part else self.uri, self._options)
        except (FileNotFoundError, NotADirectoryError):
            return [], []
        return natural_sorted(files), natural_sorted(folders)
