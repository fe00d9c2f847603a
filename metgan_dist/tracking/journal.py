"""A queue on disk: what is to be logged is written here first and sent from here.

One mechanism then serves an absent server (the queue grows on disk, not in memory), a killed process (the next one
finds the queue) and a job that ends before the server is back.

    <parent>/<time>-<pid>/entries.jsonl    one entry a line, in the order of logging; locked while its owner lives
    <parent>/<time>-<pid>/sent             how many bytes of it have been delivered
    <parent>/<time>-<pid>/files/<n>/<name> copies of the files that entries name
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


class Journal:
    """An ordered queue of JSON entries in a folder of its own; one thread may read while others append."""

    def __init__(self, folder: Path, writer: FileIO) -> None:
        self.folder = folder
        self._writer = writer
        self._lock = threading.Lock()
        self._reader = (folder / "entries.jsonl").open("rb")
        sent = folder / "sent"
        self._sent = int(sent.read_text()) if sent.exists() else 0
        # A line cut short by the death of its writer is dropped, so that the next entry starts on a line of its own.
        written = (folder / "entries.jsonl").read_bytes()
        self._end = written.rfind(b"\n") + 1
        self._writer.truncate(self._end)
        self.unsent = written.count(b"\n", self._sent)
        self._copies = 0

    @classmethod
    def create(cls, parent: Path) -> Journal:
        """Start an empty journal in a new folder under `parent`."""
        name = f"{time.time_ns()}-{os.getpid()}"
        hidden = parent / f".{name}"
        hidden.mkdir(parents=True)
        writer = FileIO(hidden / "entries.jsonl", "a")
        fcntl.flock(writer, fcntl.LOCK_EX)
        # Only now does it get the name that others look for: nobody takes a journal before its owner holds it.
        return cls(hidden.rename(parent / name), writer)

    @classmethod
    def abandoned(cls, parent: Path) -> Iterator[Journal]:
        """The journals under `parent` whose owners are gone, oldest first; each is held by the caller from then on."""
        for folder in sorted(parent.glob("[0-9]*-*")):
            # Another heir may hold it, or may have just delivered and removed it.
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                writer = FileIO(folder / "entries.jsonl", "r+")
                try:
                    fcntl.flock(writer, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    journal = cls(folder, writer)
                except BaseException:
                    writer.close()
                    raise
                yield journal

    @property
    def removed(self) -> bool:
        """Whether its folder was taken away, by its owner when all of it was sent, or by somebody else."""
        return not (self.folder / "entries.jsonl").exists()

    def append(self, entry: Entry) -> None:
        """Add an entry; when this returns it survives the death of the process."""
        line = json.dumps(entry).encode() + b"\n"
        with self._lock:
            self._writer.seek(self._end)
            if self._writer.write(line) != len(line):
                self._writer.truncate(self._end)  # the next entry must not continue half a line
                raise OSError(errno.ENOSPC, "no space left for the tracking journal", str(self.folder))
            self._end += len(line)
            self.unsent += 1

    def keep(self, source: Path | bytes, name: str) -> str:
        """Copy a file, or write bytes, beside the entries; returns its path relative to the journal's folder.

        The copy is what was logged, whatever becomes of the original before it is sent.
        """
        with self._lock:
            self._copies += 1
            path = Path("files") / f"{time.time_ns()}-{self._copies}" / name
        target = self.folder / path
        target.parent.mkdir(parents=True)
        if isinstance(source, bytes):
            target.write_bytes(source)
        else:
            shutil.copyfile(source, target)
        return path.as_posix()

    def pending(self, limit: int) -> list[tuple[Entry, int]]:
        """The next unsent entries, at most `limit`, each with the position that `acknowledge` takes for it."""
        self._reader.seek(self._sent)
        entries: list[tuple[Entry, int]] = []
        position = self._sent
        for line in self._reader:
            if not line.endswith(b"\n") or len(entries) == limit:
                break
            position += len(line)
            entries.append((json.loads(line), position))
        return entries

    def acknowledge(self, entries: list[tuple[Entry, int]]) -> None:
        """Note that these entries, the next ones in order, need not be sent any more; their files are removed."""
        self._sent = entries[-1][1]
        fresh = self.folder / "sent.new"
        with contextlib.suppress(FileNotFoundError):  # a journal that was removed has no heir to be told
            fresh.write_text(str(self._sent))
            fresh.replace(self.folder / "sent")
        with self._lock:
            self.unsent -= len(entries)
        for entry, _ in entries:
            if "path" in entry:
                shutil.rmtree((self.folder / entry["path"]).parent, ignore_errors=True)

    def close(self) -> None:
        """Give the journal up; its folder goes when all of it was sent, and waits for an heir otherwise."""
        with self._lock:
            if self.unsent == 0:
                shutil.rmtree(self.folder, ignore_errors=True)
            self._reader.close()
            self._writer.close()
