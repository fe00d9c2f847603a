"""What layouts of stroke data in BIDS have in common: a diffusion-weighted image, a mask, perhaps a map of tissues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from metgan_dist.errors import UserError
from metgan_dist.volumes.layouts.folder import Folder

_TISSUE = r".+_dseg\.nii(\.gz)?"  # BIDS's name of a segmentation with numbers


def label_files(folder: Folder, mask: str | None, place: str) -> dict[str, Any]:
    """The field `label` of an entry: the mask, beside a map of tissues where one lies in the mask's folder, `place`."""
    tissue = next((found for found, _ in folder.matches(_TISSUE, place)), None)
    files = {name: path for name, path in (("tissue", tissue), ("lesion", mask)) if path}
    if tissue:
        return {"label": files}
    return {"label": mask} if mask else {}


def described(volumes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The diffusion-weighted image is generated from the diffusion coefficient; lesions lie over tissues, if any.

    Tissues have FreeSurfer's numbers.
    """
    images = {"anatomy": "adc", "tumour": "dwi", "orientation": "RAS"}
    lesion: dict[int, str] = {1: "lesion"}
    if not any(isinstance(entry.get("label"), dict) for entry in volumes):
        return {**images, "labels": lesion, "volumes": list(volumes)}
    named = [
        {**entry, "label": {"lesion": entry["label"]}} if isinstance(entry.get("label"), str) else entry
        for entry in volumes
    ]
    labels = {"tissue": "freesurfer", "lesion": lesion}
    return {**images, "labels": labels, "unmapped": "background", "volumes": named}


def check_derivatives(folder: Folder, name: str, subject: str, part: str) -> None:
    """UserError for subjects of a data set whose masks were not put beside them."""
    if not folder.folders(part):
        raise UserError(
            f"{folder.uri}: subjects of {name} ({subject}, ...), but no folder {part}/, where its lesion masks are; "
            "put it there, or write a dataset.yaml that says where they are"
        )
