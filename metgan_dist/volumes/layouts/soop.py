"""SOOP, stroke outcome (OpenNeuro ds004889), in BIDS: sub-N/dwi/sub-N_rec-TRACE_dwi.nii.gz and ..._rec-ADC_dwi.nii.gz;
masks in derivatives/lesion_masks/sub-N/dwi/. Subjects that lack one of the three are left out. A map of tissues
(..._dseg.nii.gz) beside a mask is a second label."""

from __future__ import annotations

from typing import Any

from metgan_dist.volumes.layouts.bids import check_derivatives, described, label_files
from metgan_dist.volumes.layouts.folder import Folder

NAME = "SOOP"
_MASKS = "derivatives/lesion_masks"


def recognises(folder: Folder) -> bool:
    """The folder of masks with subjects, or a first subject with a trace image."""
    if any(name.startswith("sub-") for name in folder.folders(_MASKS)):
        return True
    subject = _first(folder)
    return subject is not None and _trace(subject) in folder.files(f"{subject}/dwi")


def description(folder: Folder) -> dict[str, Any]:
    """See `bids.described`, the trace image being the diffusion-weighted one; UserError without the masks."""
    check_derivatives(folder, NAME, _first(folder) or "sub-N", _MASKS)
    volumes = []
    for subject in folder.folders(_MASKS):
        place = f"{_MASKS}/{subject}/dwi"
        images, masks = folder.files(f"{subject}/dwi"), folder.files(place)
        adc, trace = f"{subject}_rec-ADC_dwi.nii.gz", _trace(subject)
        mask = f"{subject}_space-TRACE_desc-lesion_mask.nii.gz"
        if adc in images and trace in images and mask in masks:
            path = {"adc": f"{subject}/dwi/{adc}", "dwi": f"{subject}/dwi/{trace}"}
            volumes.append({"id": subject, "path": path, **label_files(folder, f"{place}/{mask}", place)})
    return described(volumes)


def _first(folder: Folder) -> str | None:
    return next((name for name in folder.folders() if name.startswith("sub-")), None)


def _trace(subject: str) -> str:
    return f"{subject}_rec-TRACE_dwi.nii.gz"
