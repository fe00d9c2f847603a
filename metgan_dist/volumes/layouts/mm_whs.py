"""MM-WHS, whole hearts in CT and MR: ct_train/ct_train_1001_image.nii.gz, ..._label.nii.gz, and mr_train likewise.

The files may also lie in one folder. Orientations differ from case to case. Labels of the test cases are not public.
"""

from __future__ import annotations

from typing import Any

from metgan_dist.volumes.layouts.folder import Folder

NAME = "MM-WHS"
LABELS = {
    500: "left ventricle",
    600: "right ventricle",
    420: "left atrium",
    421: "left atrium",  # as some MR labels have it
    550: "right atrium",
    205: "myocardium",
    820: "ascending aorta",
    850: "pulmonary artery",
}
_IMAGE = r"((ct|mr)_(?:train|test)_\d+)_image\.nii(?:\.gz)?"
_PARTS = ("", "ct_train", "ct_test", "mr_train", "mr_test")


def recognises(folder: Folder) -> bool:
    """Files named as those of the challenge."""
    return any(folder.matches(_IMAGE, *_PARTS))


def description(folder: Folder) -> dict[str, Any]:
    """Two domains, ct and mr, of different patients; seven regions."""
    volumes: list[dict[str, Any]] = []
    for path, match in folder.matches(_IMAGE, *_PARTS):
        label = folder.found("label", path.replace("_image.", "_label."))
        if label or "_train_" in match[1]:
            volumes.append({"id": match[1], "domain": match[2], "path": {"image": path}, **label})
    volumes.sort(key=lambda volume: str(volume["domain"]))
    return {"anatomy": "image", "tumour": "", "labels": LABELS, "orientation": "RAS", "volumes": volumes}
