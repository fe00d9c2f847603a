"""Stroke phantoms as a data set: a folder of NIfTI files for each patient, and the `dataset.yaml` that lists them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from metgan_dist.errors import UserError
from metgan_dist.recipe import LESION, Phantom
from metgan_dist.storage import Options, exists, filesystem, join, read_bytes, storage_errors, write_whole
from metgan_dist.volumes.nifti_writer import write_nifti
from metgan_dist.volumes.phantoms.dwi_signal import TISSUES
from metgan_dist.volumes.phantoms.stroke import Plan, StrokeBrains, plans_of

_DRAWING = 1  # raise it when the cases look different, so that those on disk are drawn anew
_RECORD = "case.json"  # written last: who finds it finds the whole patient
AT_ONCE = 8


def stale_cases(brains: StrokeBrains, folder: str, options: Options | None) -> list[int]:
    """Numbers of the patients that are not there yet, or were drawn from something else."""
    plans = brains.plans
    return [plan.number for plan in plans if _recorded(folder, plan, options) != _record(brains.phantom, plan)]


def write_cases(brains: StrokeBrains, folder: str, numbers: Sequence[int], options: Options | None) -> None:
    """Draw and write patients, several at once; UserError as `StrokeBrains.draw` has it."""
    with ThreadPoolExecutor(min(AT_ONCE, os.cpu_count() or 1)) as pool:
        waiting = [pool.submit(write_case, brains, folder, number, options) for number in numbers]
        try:
            for one in waiting:
                one.result()
        except UserError:
            pool.shutdown(cancel_futures=True)  # the others would only be waited for
            raise


def write_case(brains: StrokeBrains, folder: str, number: int, options: Options | None = None) -> None:
    """Draw patient `number` and write its files, whatever others are there: a task by itself."""
    plan, case = brains.plans[number], brains.draw(number)
    record = join(folder, f"{plan.id}/{_RECORD}")
    if exists(record, options):
        fs, path = filesystem(record, options)
        with storage_errors(record):
            fs.rm_file(path)
    files: dict[str, np.ndarray] = {"dwi": case.dwi, "tissue": case.tissue}
    if case.lesion is not None:
        files[LESION] = case.lesion
    for name, voxels in files.items():
        write_nifti(join(folder, f"{plan.id}/{name}.nii.gz"), voxels, case.affine, "RAS", None, options, effort=1)
    write_whole(record, json.dumps(_record(brains.phantom, plan)).encode(), options)


def cases_description(phantom: Phantom, options: Options | None = None) -> dict[str, Any]:
    """What the dataset.yaml of stroke phantoms holds, whether they are drawn already or not."""
    return {
        "anatomy": "",
        "tumour": "dwi",
        "labels": {"tissue": dict(enumerate(TISSUES[1:], 1)), LESION: {1: LESION}},
        "orientation": "RAS",
        "volumes": [_entry(plan) for plan in plans_of(phantom, options)],
    }


def _entry(plan: Plan) -> dict[str, Any]:
    label = {"tissue": f"{plan.id}/tissue.nii.gz"} | ({} if plan.healthy else {LESION: f"{plan.id}/{LESION}.nii.gz"})
    entry = {"id": plan.id, "path": {"dwi": f"{plan.id}/dwi.nii.gz"}, "label": label, "patient": plan.id}
    return entry | ({"healthy": True} if plan.healthy else {}) | ({} if plan.split == "auto" else {"split": plan.split})


def _record(phantom: Phantom, plan: Plan) -> dict[str, Any]:
    """What a patient is drawn from; not how many others there are."""
    told = {name: value for name, value in phantom.told().items() if name != "volumes"}
    return {"metgan_phantom": _DRAWING, "number": plan.number, **told}


def _recorded(folder: str, plan: Plan, options: Options | None) -> dict[str, Any] | None:
    """What the patient that is there was drawn from, None where none is."""
    record = join(folder, f"{plan.id}/{_RECORD}")
    if exists(record, options):
        found = json.loads(read_bytes(record, options))
        return found if isinstance(found, dict) else None
    return None
