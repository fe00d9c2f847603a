"""What a chain is made of, verified as it is fetched: runs in MLflow and their folders, tile sets, checkpoints.

Everything here raises UserError in one line that begins with the link, so that a broken chain says where it broke.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metgan_dist import tracking
from metgan_dist.errors import UserError
from metgan_dist.recipe.yaml_file import read_yaml
from metgan_dist.storage import Options, absolute, entries, exists, join, read_bytes, read_json
from metgan_dist.tiles.tile_set import MANIFEST, TileSet
from metgan_dist.tracking import LoggedDataset, LoggedRun
from metgan_dist.tracking.redaction import redact
from metgan_dist.trained import checkpoint_digest, read_result, read_run, run_of
from metgan_dist.volumes.dataset import DESCRIPTION

SYNTHESIS, PARTS = "synthesis", "parts"  # sections of the manifests of synthetic and of mixed sets
GENERATED = "generated"
SEEN = "seen"  # of drawn masks: volumes and patients that their generator learned from
MEASURED = "measured"  # of copy-paste: volumes and patients whose lesions said how bright others become
COMPARED = "evaluated."  # begins tags of an evaluation: the runs that it compared, or whose models it scored
MASKS = "masks"  # of stroke volumes: whose lesions are in them
INSERTED_INTO = "inserted_into"  # of inserted tumours: the data set of the volumes that got them
LABELLED = "labelled"  # of labels that a segmentor found: the data set of the volumes that it looked at
TRANSLATOR = "translator"  # what translated them for it
VOXELS = "voxels_sha256"  # digest of synthetic volumes
ZARR, VOLUME_ATTRIBUTE = "zarr.json", "metgan_dist"  # where a synthetic volume says how it was made


def starts(written: Mapping[str, Any]) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """The models in the `run.json` of a run from which it has weights: by stage, None for all of its networks."""
    if written.get("start_from") is not None:
        yield None, written["start_from"]
    yield from written.get("stages_from", {}).items()


class Records:
    """The records of runs: MLflow stores, and the run folders that name more of them.

    Args:
        stores: tracking URIs to ask, in this order; those that runs on disk name are asked after them.
        options: fsspec options of the storage.
    """

    def __init__(self, stores: Iterable[str], options: Options | None) -> None:
        self.stores, self.options = list(stores), options

    def run(self, run_id: str, link: str) -> LoggedRun:
        """A run that MLflow has and that was not deleted."""
        found = self._ask(lambda store: [run] if (run := tracking.logged_run(store, run_id)) else [])
        if not found:
            raise UserError(f"{link}: MLflow has no run {run_id}; {self._looked()}")
        return _not_deleted(found, link)

    def folder_of(self, run: LoggedRun, link: str) -> dict[str, Any] | None:
        """The `run.json` of a run's folder, with that folder under "folder"; None for a run without a folder.

        A nested run may lie in the folder of its parent.
        """
        if run.folder is None:
            return None
        written = self.read_run(run.folder)
        if written is None:
            raise UserError(f"{link}: run {run.name} ({run.id}): its folder {run.folder} holds no run.json")
        if written.get("mlflow_run_id") not in (run.id, run.parent):
            raise UserError(
                f"{link}: run {run.name} ({run.id}): its folder {run.folder} belongs to run "
                f"{written.get('mlflow_run_id')}"
            )
        return written

    def tiles(self, uri: str, digest: str, link: str) -> TileSet:
        """The tile set at `uri`, after checking that its manifest, its index and its shards are those of `digest`.

        `digest` is the manifest's SHA-256, whole or as MLflow has it. The pixels are not read.
        """
        manifest = join(absolute(uri), MANIFEST)
        if not exists(manifest, self.options):
            raise UserError(f"{link}: {uri}: no tiles here any more ({MANIFEST} is missing)")
        found = hashlib.sha256(read_bytes(manifest, self.options)).hexdigest()
        if not digest or not found.startswith(digest):
            raise UserError(
                f"{link}: {manifest} has SHA-256 {found[:12]}..., recorded is {digest[:12] or 'none'}...: "
                "it was changed afterwards"
            )
        try:
            tiles = TileSet.open(uri, self.options)
        except (UserError, OSError, ValueError, KeyError) as error:
            raise UserError(f"{link}: {error if isinstance(error, UserError) else f'{uri}: {error!r}'}") from error
        self._check_shards(tiles, link)
        return tiles

    def digest_at(self, uri: str) -> str | None:
        """What a data set is known by: a tile set's manifest's SHA-256, that of synthetic volumes' voxels, or None."""
        if exists(join(uri, MANIFEST), self.options):
            return hashlib.sha256(read_bytes(join(uri, MANIFEST), self.options)).hexdigest()
        made = self.volume_at(uri) or self.translated_at(uri)
        return None if made is None else str(made["voxels_sha256"])

    def volume_at(self, uri: str) -> dict[str, Any] | None:
        """What a synthetic volume says of its making; None for everything else."""
        if not exists(join(uri, ZARR), self.options):
            return None
        attributes = read_json(join(uri, ZARR), self.options).get("attributes", {})
        made: dict[str, Any] | None = attributes.get(VOLUME_ATTRIBUTE)
        return made

    def translated_at(self, uri: str) -> dict[str, Any] | None:
        """What a data set of translated volumes says of their making; None for everything else."""
        written = join(uri, DESCRIPTION)
        if not exists(written, self.options):
            return None
        made: dict[str, Any] | None = (read_yaml(written, read_bytes(written, self.options)) or {}).get(SYNTHESIS)
        return made

    def _check_shards(self, tiles: TileSet, link: str) -> None:
        if PARTS in tiles.manifest:  # the parts are links of their own
            return
        folder, needed = join(tiles.uri, "shards"), {f"{name}.zarr" for name in tiles.index["shard"].unique()}
        there = set(entries(folder, self.options)[1]) if exists(folder, self.options) else set()
        if missing := sorted(needed - there):
            raise UserError(f"{link}: {folder}: {len(missing)} of {len(needed)} shards are missing, first {missing[0]}")

    def checkpoint(self, uri: str, sha256: str, link: str) -> None:
        """Check that the `state.pt` of a checkpoint is the recorded one."""
        try:
            found = checkpoint_digest(uri, self.options)
        except UserError as error:
            raise UserError(f"{link}: {error}") from error
        if found != sha256:
            raise UserError(
                f"{link}: state.pt of checkpoint {uri} has SHA-256 {found[:12]}..., recorded is {sha256[:12]}...: "
                "it was replaced afterwards"
            )

    def trained_by(self, uri: str, recorded: str | None, link: str) -> LoggedRun:
        """The run that trained a checkpoint: the one of the folder above it, which must be the `recorded` one."""
        written = run_of(uri, self.options)
        if written is None and recorded is None:
            raise UserError(f"{link}: checkpoint {uri}: no run is known that trained it")
        if written is not None:
            self._learn(written["folder"])
            found = written.get("mlflow_run_id")
            if recorded is not None and found != recorded:
                raise UserError(f"{link}: checkpoint {uri} lies in the folder of run {found}, recorded is {recorded}")
            recorded = found
        return self.run(str(recorded), link)

    def generated_by(self, tiles: TileSet, link: str) -> LoggedRun:
        """The run that generated a synthetic set, or the volumes that it was cut from, found by their digest."""
        above = run_of(tiles.uri, self.options)
        if above is not None:
            self._learn(above["folder"])
        digest = tiles.manifest[SYNTHESIS].get(VOXELS, tiles.digest)
        found = self.runs_with(digest, GENERATED)
        if found:
            return _not_deleted(found, link)
        if above and above.get("mlflow_run_id"):
            run = self.run(above["mlflow_run_id"], link)
            for logged in run.datasets:
                if logged.context == GENERATED and logged.uri == tiles.uri:
                    raise UserError(
                        f"{link}: {join(tiles.uri, MANIFEST)} has SHA-256 {tiles.digest[:12]}..., run {run.name} "
                        f"({run.id}) logged {logged.digest[:12]}...: it was changed afterwards"
                    )
        raise UserError(
            f"{link}: {tiles.uri}: no run generated a set of its SHA-256 {digest[:12]}...; {self._looked()}"
        )

    def training_data(self, run: LoggedRun, link: str) -> list[LoggedDataset]:
        """The data sets that a run was trained on, of which there must be one."""
        used = [logged for logged in run.datasets if logged.context == "training"]
        if not used:
            raise UserError(f"{link}: run {run.name} ({run.id}) has no data set logged that it was trained on")
        return used

    def runs_with(self, digest: str, context: str | None = None) -> list[LoggedRun]:
        """Runs that logged a data set, deleted ones among them."""
        return self._ask(lambda store: tracking.runs_with_dataset(store, digest, context))

    def nested(self, run: LoggedRun) -> list[LoggedRun]:
        """Runs shown under another, such as the folds of a study."""
        return self._ask(lambda store: tracking.nested_runs(store, run.id))

    def _ask(self, question: Callable[[str], list[LoggedRun]]) -> list[LoggedRun]:
        """The answers of the first store that has some; a database file that does not exist has none."""
        for store in self.stores:
            if store.startswith("sqlite:///") and not Path(store.removeprefix("sqlite:///")).exists():
                continue
            if answer := question(store):
                return answer
        return []

    def _looked(self) -> str:
        stores = ", ".join(map(redact, self.stores))
        return f"looked in {stores}" if stores else "no MLflow store is known; set tracking.uri"

    def read_run(self, folder: str) -> dict[str, Any] | None:
        """The `run.json` of a folder, with the folder under "folder"; None where there is none."""
        written = read_run(folder, self.options)
        if written is not None:
            self._learn(folder)
        return written

    def _learn(self, folder: str) -> None:
        """Add the MLflow store that a run says it was logged to."""
        store = (read_result(folder, self.options) or {}).get("tracking_uri")
        if store and store not in self.stores:
            self.stores.append(store)


def _not_deleted(runs: Sequence[LoggedRun], link: str) -> LoggedRun:
    for run in runs:
        if not run.deleted:
            return run
    raise UserError(
        f"{link}: run {runs[0].name} ({runs[0].id}) was deleted in MLflow; "
        f"restore it (mlflow runs restore --run-id {runs[0].id})"
    )
