"""Logging to a run without ever waiting for the tracking server."""

from __future__ import annotations

import json
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Literal

from metgan_dist.tracking.delivery import METRICS_PER_BATCH, Delivery, RefusedError
from metgan_dist.tracking.journal import Entry, Journal
from metgan_dist.tracking.redaction import redact, redact_value
from metgan_dist.tracking.runs import MAX_TAG_LENGTH
from metgan_dist.tracking.server import short_reason
from metgan_dist.tracking.system import system_sample

SYSTEM_SECONDS = 10.0
GATHER_SECONDS = 1.0  # one call a second for all that was logged, not one a step: a SQLite commit costs a step's time
FIRST_WAIT, LONGEST_WAIT, LONGEST_WAIT_AT_CLOSE = 0.5, 15.0, 1.0
ENTRIES_AT_ONCE = 500
MAX_NAME_LENGTH, MAX_PARAM_LENGTH, MAX_DIGEST_LENGTH = 250, 6000, 36

Status = Literal["FINISHED", "FAILED", "SCHEDULED"]
# Of a run that someone stopped: it goes on when it is started again. MLflow's pages show KILLED, which it might be
# called, as they show FAILED: as a red cross.
STOPPED: Status = "SCHEDULED"


class RunLogger:
    """Logs to an existing run from any process: nothing here waits for MLflow, and nothing is lost when it is away.

    Every call writes to a journal under `spool` and returns; a background thread sends what the journal holds, in order
    and with the times of logging, and tries again with growing pauses while the server is away. At its start it first
    sends what earlier loggers of the same run left behind, for example in a worker that was killed.

    Args:
        uri: tracking URI, as `tracking_uri` gives it.
        run_id: the run, created by the driver's `start_run`.
        spool: local folder for journals; several loggers, runs and processes may share it.
        patience: seconds that `close` waits for an absent server before it leaves the rest in the spool.
        system_metrics: sample CPU, memory and GPU of this machine every 10 s under ``system/``.
        ended: the run is over and this only delivers what is left of it. Otherwise an end that an earlier logger could
            not deliver is dropped, because the run goes on.
        report: takes the few lines worth telling a person: server away, server back, entries left in the spool.
    """

    def __init__(
        self,
        uri: str,
        run_id: str,
        spool: Path,
        patience: float = 120.0,
        *,
        system_metrics: bool = False,
        ended: bool = False,
        report: Callable[[str], None] = print,
    ) -> None:
        self._uri = redact(uri)
        self._patience = patience
        self._ended = ended
        self._report = report
        self._folder = spool / run_id
        self._journal = Journal.create(self._folder)
        self._inherited = list(Journal.abandoned(self._folder))
        self._delivery = Delivery(uri, run_id)
        self._closing = threading.Event()
        self._given_up = threading.Event()
        self._last_error = "no answer yet"
        self._sender = threading.Thread(target=self._send_all, name="tracking", daemon=True)
        self._sender.start()
        self._sampling_over = threading.Event()
        self._sampler = threading.Thread(target=self._sample_system, name="system-metrics", daemon=True)
        if system_metrics:
            self._sampler.start()

    def metrics(self, values: Mapping[str, float], step: int, prefix: str = "") -> None:
        """Log numbers of one step under ``<prefix><name>``; NaN and infinite values are allowed.

        Characters that MLflow does not allow in names become ``_``.
        """
        named = {_name(prefix + name): float(value) for name, value in values.items()}
        self._put("metrics", values=named, step=int(step))

    def params(self, values: Mapping[str, object]) -> None:
        """Log settings by flat name; those whose name says that they are secret are hidden.

        MLflow writes a parameter once: when a continued run has another value, the tag ``changed.<name>`` holds it.
        """
        named = {_name(name): redact_value(name, value)[:MAX_PARAM_LENGTH] for name, value in values.items()}
        self._put("params", values=named)

    def tags(self, values: Mapping[str, object]) -> None:
        """Set tags, over those that the run has; ``mlflow.note.content`` describes it on its page, in Markdown."""
        self._put("tags", values={name: redact_value(name, value)[:MAX_TAG_LENGTH] for name, value in values.items()})

    def text(self, text: str, name: str) -> None:
        """Log a text as the artefact `name`, e.g. ``recipe.yaml``, with credentials hidden."""
        self._keep(redact(text).encode(), name)

    def png(self, png: bytes, name: str) -> None:
        """Log a picture as the artefact `name`, e.g. ``grids/step-000500.png``."""
        self._keep(png, name)

    def content(self, content: bytes, name: str) -> None:
        """Log what would be a file as the artefact `name`, as it is, e.g. ``scores.parquet``."""
        self._keep(content, name)

    def file(self, local_path: Path, folder: str = "") -> None:
        """Log a file as it is now under the artefact folder `folder`.

        It is copied before this returns: for results and tables. Log the URI of what is large, such as a checkpoint.

        Raises FileNotFoundError.
        """
        self._keep(local_path, str(PurePosixPath(folder) / local_path.name))

    def dataset(self, name: str, uri: str, digest: str, context: str, rows: int) -> None:
        """Log a data set as an input of the run.

        ``search_runs(filter_string="dataset.digest = '...'")`` then finds every run that used it.

        Args:
            name: of the data set.
            uri: its manifest.
            digest: the manifest's SHA-256; the first 36 characters, MLflow's limit, are logged.
            context: ``training``, ``validation`` or ``generated``.
            rows: number of tiles.
        """
        self._put("dataset", name=name, uri=redact(uri), digest=digest[:MAX_DIGEST_LENGTH], context=context, rows=rows)

    def close(self) -> bool:
        """Send the rest, for at most `patience` seconds; True when nothing is left in the spool.

        What could not be sent stays in the spool, is told in one line, and goes out at the next start of the run or by
        `replay`.
        """
        self._sampling_over.set()
        if self._sampler.is_alive():
            self._sampler.join()
        self._closing.set()
        self._sender.join(self._patience)
        self._given_up.set()
        left = sum(journal.unsent for journal in [*self._inherited, self._journal])
        if left and self._journal.removed:
            self._report(f"tracking: {self._folder} was removed while it was in use; {left} entries are lost")
        elif left:
            self._report(
                f"tracking: {left} entries could not be sent to {self._uri} ({self._last_error}); "
                f"they are kept in {self._folder} and sent when the run is started again"
            )
        return left == 0

    def __enter__(self) -> RunLogger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _keep(self, source: Path | bytes, name: str) -> None:
        place = PurePosixPath(name)
        folder = "" if place.parent == PurePosixPath(".") else str(place.parent)
        self._put("file", path=self._journal.keep(source, place.name), folder=folder)

    def _put(self, kind: str, **content: object) -> None:
        self._journal.append({"kind": kind, "time": int(time.time() * 1000), **content})

    def _sample_system(self) -> None:
        sample = 0
        while not self._sampling_over.wait(SYSTEM_SECONDS):
            self.metrics(system_sample(), step=sample, prefix="system/")
            sample += 1

    def _send_all(self) -> None:
        for journal in [*self._inherited, self._journal]:
            self._send_journal(journal)
            journal.close()

    def _send_journal(self, journal: Journal) -> None:
        """Send a journal to its end; the own journal ends when the logger closes."""
        own = journal is self._journal
        while not self._given_up.is_set():
            # Asked first: an entry written between the two lines below is then seen in the next round, not missed.
            last_round = not own or self._closing.is_set()
            entries = journal.pending(ENTRIES_AT_ONCE)
            for group in _groups(entries):
                if not self._send_group(journal, group, own):
                    return
            if last_round and not entries:
                return
            if own and len(entries) < ENTRIES_AT_ONCE:
                self._closing.wait(GATHER_SECONDS)

    def _send_group(self, journal: Journal, group: list[tuple[Entry, int]], own: bool) -> bool:
        """Send entries of one kind until they arrive or are refused; False when the logger gave up."""
        wait, away = FIRST_WAIT, False
        stale = group[0][0]["kind"] == "end" and not own and not self._ended
        while not self._given_up.is_set():
            try:
                if not stale:
                    self._delivery.send([entry for entry, _ in group], journal.folder)
            except RefusedError as refusal:
                if len(group) > 1:
                    return all(self._send_group(journal, [each], own) for each in group)
                self._set_aside(group[0][0], str(refusal))
            except Exception as error:  # a training run outlives whatever its bookkeeping runs into
                self._last_error = short_reason(error)
                if journal.removed and self._closing.is_set():  # with its run, whose records nobody waits for
                    return False
                if not (away or journal.removed):
                    self._report(f"tracking: {self._uri} does not answer ({self._last_error}); logging goes on to disk")
                away = True
                if self._closing.is_set():
                    self._given_up.wait(min(wait, LONGEST_WAIT_AT_CLOSE))
                else:
                    self._closing.wait(wait)
                wait = min(2 * wait, LONGEST_WAIT)
                continue
            journal.acknowledge(group)
            if away:
                self._report(f"tracking: {self._uri} answers again")
            return True
        return False

    def _set_aside(self, entry: Entry, reason: str) -> None:
        if self._journal.removed:
            self._report(
                f"tracking: {entry['kind']} is lost ({reason}): {self._folder} was removed while it was in use"
            )
            return
        with (self._folder / "refused.jsonl").open("a") as file:
            file.write(json.dumps({**entry, "refused": reason}) + "\n")
        self._report(f"tracking: MLflow refused {entry['kind']} ({reason}); kept in {file.name}")


def end_run(
    uri: str,
    run_id: str,
    status: Status,
    reason: str | None = None,
    *,
    spool: Path | None = None,
    patience: float = 120.0,
    report: Callable[[str], None] = print,
) -> bool:
    """Mark a run as ended, with the reason of a failure in its tag ``failure``; to be called by the driver at the end.

    The reason why a run was `STOPPED` is in its tag ``stopped``.

    What loggers of this run left in the same `spool` (default: the machine's temporary folder) is sent before. Returns
    False when the server stayed away for `patience` seconds; the end then waits in the spool for `replay`.
    """
    spool = spool or Path(tempfile.gettempdir()) / "metgan-tracking"
    logger = RunLogger(uri, run_id, spool, patience, report=report)
    logger._put("end", status=status, reason=redact(reason or ""))
    return logger.close()


def replay(
    uri: str, run_id: str, spool: Path, *, patience: float = 120.0, report: Callable[[str], None] = print
) -> bool:
    """Deliver what the loggers of an ended run left in `spool`, its end included; True when nothing is left.

    A run that is started again needs no call: its first logger does the same.
    """
    return RunLogger(uri, run_id, spool, patience, ended=True, report=report).close()


def _name(name: str) -> str:
    return re.sub(r"[^\w/.\- :]", "_", name)[:MAX_NAME_LENGTH]


def _groups(entries: list[tuple[Entry, int]]) -> Iterator[list[tuple[Entry, int]]]:
    """Cut a list into what one call sends: neighbours of one kind, a thousand numbers at most, files one by one."""
    group: list[tuple[Entry, int]] = []
    numbers = 0
    for entry, position in entries:
        kind, size = entry["kind"], len(entry.get("values", ()))
        if group and (kind != group[0][0]["kind"] or kind == "file" or numbers + size > METRICS_PER_BATCH):
            yield group
            group, numbers = [], 0
        group.append((entry, position))
        numbers += size
    if group:
        yield group
