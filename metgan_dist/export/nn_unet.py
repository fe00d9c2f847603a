"""The files of an nnU-Net raw data set that are of no single case: dataset.json and splits_final.json."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from metgan_dist.errors import UserError
from metgan_dist.export.case import Case
from metgan_dist.storage import Options, entries, exists

ENDING = ".nii.gz"


def dataset_folder(number: int, name: str) -> str:
    """What nnU-Net calls a data set."""
    return f"Dataset{number:03d}_{name}"


def check_id(folder: str, number: int, name: str, options: Options) -> None:
    """UserError where another data set in a folder has the id, which nnU-Net takes for one and the same."""
    if not exists(folder, options):
        return
    for other in entries(folder, options)[1]:
        found = re.fullmatch(r"Dataset(\d+)_.+", other)
        if found and int(found[1]) == number and other != dataset_folder(number, name):
            raise UserError(f"export.id: {number} is that of {other} in {folder}; take another")


def dataset_json(channels: Sequence[str], classes: Sequence[str], cases: Sequence[Case]) -> bytes:
    """channels: names, in the order of _0000, _0001; classes: names by number, background first."""
    tree = {
        "channel_names": {str(k): name for k, name in enumerate(channels)},
        "labels": {name: k for k, name in enumerate(classes)},
        "numTraining": sum(not case.tested for case in cases),
        "file_ending": ENDING,
    }
    return json.dumps(tree, indent=1).encode()


def splits_final(cases: Sequence[Case]) -> bytes | None:
    """A pair of lists of cases for each fold; None where there are no two sides.

    Cases that the set itself validates on, and trains on in no fold, validate every fold. Synthetic tiles are of no
    fold.
    """
    val = [case.name for case in cases if case.split == "val"]
    trained = [case for case in cases if case.split == "train"]
    folds = sorted({case.fold for case in trained if case.fold >= 0})
    if len(folds) > 1:
        pairs = [
            {
                "train": [case.name for case in trained if case.fold != k],
                "val": [case.name for case in trained if case.fold == k] + val,
            }
            for k in folds
        ]
    elif trained and val:
        pairs = [{"train": [case.name for case in trained], "val": val}]
    else:
        return None
    return json.dumps(pairs, indent=1).encode()
