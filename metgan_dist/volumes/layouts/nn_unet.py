"""nnU-Net's raw data: imagesTr/CASE_0000.nii.gz, a file for each channel, labelsTr/CASE.nii.gz, dataset.json.

Of version 2, and of version 1, whose dataset.json names channels `modality`. Cases of imagesTs are part of the set, for
the scores alone, where labelsTs holds their labels.
"""

from __future__ import annotations

import re
from typing import Any

from metgan_dist.volumes.layouts.dataset_json import CONTENTS, channels_of, common, labels_of
from metgan_dist.volumes.layouts.folder import Folder

NAME = "nnU-Net raw data"


def recognises(folder: Folder) -> bool:
    """A dataset.json beside images that are numbered by channel."""
    return CONTENTS in folder.files() and any(folder.matches(r".+_\d{4}\.(nii(\.gz)?|tiff?)", "imagesTr"))


def description(folder: Folder) -> dict[str, Any]:
    """Channels and classes by their names; the first channel is the anatomy, a second one the tumour."""
    contents = folder.tree(CONTENTS)
    ending = contents.get("file_ending", ".nii.gz")
    names = channels_of(contents)
    volumes = []
    for case, path in _cases(folder, "imagesTr", ending, names).items():
        volumes.append({"id": case, "path": path, **folder.found("label", f"labelsTr/{case}{ending}")})
    for case, path in _cases(folder, "imagesTs", ending, names).items():
        if label := folder.found("label", f"labelsTs/{case}{ending}"):
            volumes.append({"id": case, "path": path, **label, "split": "test"})
    return common(names, labels_of(contents), ending) | {"volumes": volumes}


def _cases(folder: Folder, part: str, ending: str, names: list[str]) -> dict[str, dict[str, str]]:
    """The files of each case by the names of their channels."""
    cases: dict[str, dict[str, str]] = {}
    for path, match in folder.matches(rf"(.+)_(\d{{4}}){re.escape(ending)}", part):
        cases.setdefault(match[1], {})[names[int(match[2])]] = path
    return cases
