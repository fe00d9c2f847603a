"""SOOP, stroke outcome (OpenNeuro ds004889), in BIDS: sub-N/dwi/sub-N_rec-TRACE_dwi.nii.gz and ..._rec-ADC_dwi.nii.gz;
masks in derivatives/lesion_masks/sub-N/dwi/. Subjects that lack one of the three are left out."""

from __future__ import annotations

from typing import Any

from metgan_dist.volumes.layouts.folder import Folder

NAME = "SOOP"
_MASKS = "derivatives/lesion_masks"


def recognises(folder: Folder) -> bool:
    """The folder of masks, and subjects beside it."""
    return "derivatives" in folder.folders() and any(name.startswith("sub-") for name in folder.folders(_MASKS))


def description(folder: Folder) -> dict[str, Any]:
    """The trace image is generated from the diffusion coefficient; one class."""
    volumes = []
    for subject in folder.folders(_MASKS):
        images, masks = folder.files(f"{subject}/dwi"), folder.files(f"{_MASKS}/{subject}/dwi")
        adc, trace = (f"{subject}_rec-{name}_dwi.nii.gz" for name in ("ADC", "TRACE"))
        mask = f"{subject}_space-TRACE_desc-lesion_mask.nii.gz"
        if adc in images and trace in images and mask in masks:
            path = {"adc": f"{subject}/dwi/{adc}", "dwi": f"{subject}/dwi/{trace}"}
            volumes.append({"id": subject, "path": path, "label": f"{_MASKS}/{subject}/dwi/{mask}"})
    return {"anatomy": "adc", "tumour": "dwi", "labels": {1: "lesion"}, "orientation": "RAS", "volumes": volumes}
