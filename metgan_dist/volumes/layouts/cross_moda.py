"""crossMoDA 2021 to 2023, vestibular schwannoma: labelled contrast-enhanced T1 (source), unlabelled T2 (target).

2021: source_training/crossmoda_1_ceT1.nii.gz and ..._Label.nii.gz, target_training/crossmoda_106_hrT2.nii.gz; 2022:
training_source, training_target; 2023: TrainingSource, TrainingTarget. Images for validation, whose labels are not
public, are left out.
"""

from __future__ import annotations

from typing import Any

from metgan_dist.volumes.layouts.folder import Folder

NAME = "crossMoDA"
_SOURCE = ("source_training", "training_source", "TrainingSource")
_TARGET = ("target_training", "training_target", "TrainingTarget")
_T1 = r"(crossmoda.*)_ceT1\.nii(?:\.gz)?"
_T2 = r"(crossmoda.*)_(?:hr)?T2\.nii(?:\.gz)?"


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
    labels = {1: "vestibular schwannoma", 2: "cochlea"}
    return {"anatomy": "image", "tumour": "", "labels": labels, "orientation": "RAS", "volumes": volumes}
