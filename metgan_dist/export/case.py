"""A case that is exported, and on which side of a split it lies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from metgan_dist.errors import UserError
from metgan_dist.recipe import Tiles
from metgan_dist.tiles.splits import assign_splits, group_of
from metgan_dist.volumes.labelled import VolumeRef

TESTED = ("test", "unseen")  # what nobody trains on


@dataclass(frozen=True)
class Case:
    """A tile or a volume.

    name: of its files; split: train, val, test or unseen; fold: of those that are trained on, -1 for none; origin: what
    is behind it, as JSON has it; source: row of a tile set, or the reference to a volume; labelled: whether a label is
    written.
    """

    name: str
    volume: str
    patient: str
    organ: str
    split: str
    fold: int
    labelled: bool
    source: int | VolumeRef
    origin: dict[str, Any] = field(default_factory=dict)

    @property
    def tested(self) -> bool:
        """Whether it is held out from training."""
        return self.split in TESTED

    @property
    def row(self) -> dict[str, Any]:
        """Of the table of all cases."""
        return {
            "case": self.name,
            "volume": self.volume,
            "patient": self.patient,
            "organ": self.organ,
            "split": self.split,
            "fold": self.fold,
            "labelled": self.labelled,
        }


def volume_cases(refs: Sequence[VolumeRef], tiles: Tiles) -> list[Case]:
    """Volumes on the sides that the data set fixes, the others held out and dealt to folds as whole patients.

    By the rules for tiles (`tiles.test`, `tiles.val`, `tiles.folds`), each volume being one. UserError for ids that
    make the same file name.
    """
    index = pd.DataFrame(
        [
            {
                "volume": ref.id,
                "patient": ref.patient or "",
                "organ": ref.organ or "",
                "fixed": ref.split,
                "foreground": int(ref.labelled),
                **{f"{axis}{end}": end for axis in "zyx" for end in (0, 1)},
                "stacked": False,
            }
            for ref in refs
        ]
    )
    split = assign_splits(index, tiles.model_copy(update={"split_by": "volume", "gap": 0}))
    names = [re.sub(r"[^A-Za-z0-9.-]", "_", ref.id) for ref in refs]
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"data.volumes: two ids make the file name {doubled!r}; give each its own letters and digits")
    return [
        Case(name, ref.id, ref.patient or "", ref.organ or "", row.split, int(row.fold), ref.labelled, ref)
        for name, ref, row in zip(names, refs, split.itertuples(), strict=True)
    ]


def check_whole_patients(cases: Sequence[Case], splits: str) -> None:
    """UserError where splits or folds part a patient (a volume, where no patients are known)."""
    if splits != "patients":
        return
    table = pd.DataFrame([case.row for case in cases])
    table["side"] = [
        "test" if case.tested else f"fold {case.fold}" if case.split == "train" else "val" for case in cases
    ]
    for group, rows in table.groupby(group_of(table)):
        if len(sides := sorted(set(rows["side"]))) > 1:
            raise UserError(
                f"export.splits: {group} is on several sides ({', '.join(sides)}), since the set was split by slabs; "
                "say `own` to take these as they are, or `none` to train on all cases"
            )
