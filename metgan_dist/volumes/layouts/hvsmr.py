"""HVSMR-2.0, hearts with congenital defects in MR: cropped/pat0_cropped.nii.gz, pat0_cropped_seg.nii.gz."""

from __future__ import annotations

from typing import Any

from metgan_dist.volumes.layouts.folder import Folder

NAME = "HVSMR-2.0"
LABELS = {
    1: "left ventricle",
    2: "right ventricle",
    3: "left atrium",
    4: "right atrium",
    5: "aorta",
    6: "pulmonary artery",
    7: "superior vena cava",
    8: "inferior vena cava",
}
_IMAGE = r"(pat\d+)_cropped\.nii(?:\.gz)?"
_PARTS = ("cropped", "")


def recognises(folder: Folder) -> bool:
    """Cropped images, in their folder or here."""
    return any(folder.matches(_IMAGE, *_PARTS))


def description(folder: Folder) -> dict[str, Any]:
    """One channel, eight regions."""
    volumes = [
        {"id": match[1], "path": {"image": path}, **folder.found("label", path.replace("_cropped.", "_cropped_seg."))}
        for path, match in folder.matches(_IMAGE, *_PARTS)
    ]
    return {"anatomy": "image", "tumour": "", "labels": LABELS, "orientation": "RAS", "volumes": volumes}
