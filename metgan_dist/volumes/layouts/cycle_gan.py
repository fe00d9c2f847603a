"""CycleGAN's folders of images of two domains: trainA, trainB, and for the scores testA, testB."""

from __future__ import annotations

from typing import Any

from metgan_dist.volumes.layouts.folder import Folder

NAME = "CycleGAN's folders"


def recognises(folder: Folder) -> bool:
    """Both folders to train on."""
    return {"trainA", "trainB"} <= set(folder.folders())


def description(folder: Folder) -> dict[str, Any]:
    """Two domains, A and B, of separate images that are no pairs; without labels."""
    volumes = [
        {"id": f"{side}{domain}", "domain": domain, "path": {"image": f"{side}{domain}"}, "axes": "nyx", "split": split}
        for domain in "AB"
        for side, split in (("train", "auto"), ("test", "test"))
        if f"{side}{domain}" in folder.folders()
    ]
    return {"anatomy": "image", "tumour": "", "volumes": volumes}
