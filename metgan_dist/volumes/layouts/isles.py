"""ISLES'22, ischaemic stroke, in BIDS: sub-strokecase0001/ses-0001/dwi/..._dwi.nii.gz and ..._adc.nii.gz, masks below
derivatives/. A variant has the subjects below rawdata/. FLAIR, which lies on another grid, is left out. A map of
tissues (..._dseg.nii.gz) beside a mask is a second label."""

from __future__ import annotations

from typing import Any

from metgan_dist.volumes.layouts.bids import check_derivatives, described, label_files
from metgan_dist.volumes.layouts.folder import Folder

NAME = "ISLES'22"
_SUBJECT = "sub-strokecase"
_IMAGE = r"(?i).+_{}\.nii(\.gz)?"
_MASK = r".+_msk\.nii(\.gz)?"


def recognises(folder: Folder) -> bool:
    """Subjects of the challenge."""
    return bool(_subjects(folder))


def description(folder: Folder) -> dict[str, Any]:
    """See `bids.described`; UserError without the masks."""
    raw, volumes = _raw(folder), []
    check_derivatives(folder, NAME, _subjects(folder)[0], "derivatives")
    for subject in _subjects(folder):
        for session in folder.folders(f"{raw}{subject}"):
            place, masks_at = f"{raw}{subject}/{session}/dwi", f"derivatives/{subject}/{session}"
            path = {name: found for name in ("adc", "dwi") for found, _ in folder.matches(_IMAGE.format(name), place)}
            mask = next((found for found, _ in folder.matches(_MASK, masks_at)), None)
            label = label_files(folder, mask, masks_at)
            volumes.append({"id": f"{subject}_{session}", "patient": subject, "path": path, **label})
    return described(volumes)


def _subjects(folder: Folder) -> list[str]:
    return [name for name in folder.folders(_raw(folder)) if name.startswith(_SUBJECT)]


def _raw(folder: Folder) -> str:
    return "rawdata/" if "rawdata" in folder.folders() else ""
