"""ISLES'22, ischaemic stroke, in BIDS: sub-strokecase0001/ses-0001/dwi/..._dwi.nii.gz and ..._adc.nii.gz, masks below
derivatives/. A variant has the subjects below rawdata/. FLAIR, which lies on another grid, is left out."""

from __future__ import annotations

from typing import Any

from metgan_dist.volumes.layouts.folder import Folder

NAME = "ISLES'22"
_SUBJECT = "sub-strokecase"
_IMAGE = r"(?i).+_{}\.nii(\.gz)?"
_MASK = r".+_msk\.nii(\.gz)?"


def recognises(folder: Folder) -> bool:
    """Subjects of the challenge, and the folder of their masks."""
    return "derivatives" in folder.folders() and any(name.startswith(_SUBJECT) for name in folder.folders(_raw(folder)))


def description(folder: Folder) -> dict[str, Any]:
    """The diffusion-weighted image is generated from the diffusion coefficient; one class."""
    raw, volumes = _raw(folder), []
    for subject in folder.folders(raw):
        for session in folder.folders(f"{raw}{subject}") if subject.startswith(_SUBJECT) else ():
            place = f"{raw}{subject}/{session}/dwi"
            path = {name: found for name in ("adc", "dwi") for found, _ in folder.matches(_IMAGE.format(name), place)}
            masks = [found for found, _ in folder.matches(_MASK, f"derivatives/{subject}/{session}")]
            label = {"label": masks[0]} if masks else {}
            volumes.append({"id": f"{subject}_{session}", "patient": subject, "path": path, **label})
    return {"anatomy": "adc", "tumour": "dwi", "labels": {1: "lesion"}, "orientation": "RAS", "volumes": volumes}


def _raw(folder: Folder) -> str:
    return "rawdata/" if "rawdata" in folder.folders() else ""
