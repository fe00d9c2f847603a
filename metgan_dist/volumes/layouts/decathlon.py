"""The Medical Segmentation Decathlon: imagesTr/CASE.nii.gz with channels as fourth axis, labelsTr/CASE.nii.gz,
dataset.json. The labels of imagesTs are not public."""

from __future__ import annotations

from typing import Any

from metgan_dist.volumes.layouts.dataset_json import CONTENTS, channels_of, common, labels_of
from metgan_dist.volumes.layouts.folder import Folder

NAME = "Medical Segmentation Decathlon"


def recognises(folder: Folder) -> bool:
    """A dataset.json beside images and labels of the same names."""
    return CONTENTS in folder.files() and bool(set(folder.files("imagesTr")) & set(folder.files("labelsTr")))


def description(folder: Folder) -> dict[str, Any]:
    """Channels and classes by their names; the first channel is the anatomy, a second one the tumour."""
    contents = folder.tree(CONTENTS)
    channels = channels_of(contents)
    volumes = [
        {"id": match[1], "path": path, "channels": channels, **folder.found("label", f"labelsTr/{match[0]}")}
        for path, match in folder.matches(r"(.+?)\.nii(\.gz)?", "imagesTr")
    ]
    return common(channels, labels_of(contents), ".nii.gz") | {"volumes": volumes}
