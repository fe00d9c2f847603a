"""crossMoDA 2021 to 2023, vestibular schwannoma: labelled contrast-enhanced T1 (source), unlabelled T2 (target).

2021: source_training/crossmoda_1_ceT1.nii.gz and ..._Label.nii.gz, target_training/crossmoda_106_hrT2.nii.gz; 2022:
training_source, training_target; 2023: TrainingSource, TrainingTarget, whose labels tell the tumour within the auditory
canal from the rest: here it is one. Images for validation, whose labels are not public, are left out.
"""

from __future__ import annotations

from typing import Any

from metgan_dist.volumes.layouts.folder import Folder

NAME = "crossMoDA"
_SOURCE = ("source_training", "training_source", "TrainingSource")
_TARGET = ("target_training", "training_target", "TrainingTarget")
_T1 = r"(crossmoda.*)_ceT1\.nii(?:\.gz)?"
_T2 = r"(crossmoda.*)_(?:hr)?T2\.nii(?:\.gz)?"
_TUMOUR, _COCHLEA = "vestibular schwannoma", "cochlea"
_LABELS = {1: _TUMOUR, 2: _COCHLEA}
_IN_TWO_PARTS = {1: _TUMOUR, 2: _TUMOUR, 3: _COCHLEA}  # in the canal, beyond it


def recognises(folder: Folder) -> bool:
    """T1 images in the folder of the source."""
    return any(folder.matches(_T1, *_SOURCE))


def description(folder: Folder) -> dict[str, Any]:
    """Two domains, T1 with labels and T2 without, of different patients."""
    volumes: list[dict[str, Any]] = []
    for path, match in folder.matches(_T1, *_SOURCE):
        label = folder.found("label", path.replace("_ceT1.", "_Label."))
        volumes.append({"id": match[1], "domain": "T1", "path": {"image": path}, **label})
    for path, match in folder.matches(_T2, *_TARGET):
        volumes.append({"id": match[1], "domain": "T2", "path": {"image": path}})
    labels = _IN_TWO_PARTS if any(str(one["id"]).startswith("crossmoda2023") for one in volumes) else _LABELS
    return {"anatomy": "image", "tumour": "", "labels": labels, "orientation": "RAS", "volumes": volumes}
