"""Slices for blinded readers: real ones and ones with inserted tumours in a drawn order, a sheet, and the answers."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from metgan_dist.evaluation.reading import (
    ANSWER,
    ANSWERS,
    INSERTED,
    PATIENT,
    READER,
    REAL,
    SHEET,
    SLICE,
    TRUTH,
    VOLUME,
)
from metgan_dist.synthesis.inserting import Case, Inserting, Source, moved_image, moved_label
from metgan_dist.synthesis.pasting import Range
from metgan_dist.volumes.labelled import VolumeRef


@dataclass(frozen=True)
class Shown:
    """A slice that readers get: what it is, and its levels (H, W) in [0, 1]."""

    truth: str
    source: Source
    plane: int
    levels: np.ndarray


def reader_slices(
    cases: Sequence[Case],
    made: Sequence[Mapping[str, Any]],
    real: Sequence[Source],
    written: Mapping[str, VolumeRef],
    job: Inserting,
) -> list[Shown]:
    """At most `insertion.readers` slices in a drawn order, half of them real; of each volume one, the fullest.

    Real ones are of other volumes than those with inserted tumours as far as there are enough, and show a volume's own
    tumour; where no volume has one (`real` is empty), they are slices as they were before, at the places of the
    inserted ones. written: the data set that was made, by id.
    """
    random, half = np.random.default_rng([job.settings.seed, 0, 2]), job.settings.readers // 2
    firsts = {case.target.ref.id: k for k, case in reversed(list(enumerate(cases)))}
    order = [list(firsts)[k] for k in random.permutation(len(firsts))]
    candidates = {source.ref.id: source for source in real} or {name: cases[firsts[name]].target for name in order}
    half = min(half, len(order), len(candidates))
    chosen = order[:half]
    others = [name for name in (*order[half:], *chosen) if name in candidates][:half]
    shown = [_inserted(cases[k], made[k], written, job) for k in (firsts[name] for name in chosen)]
    for name in others:
        image = moved_image(candidates[name], job.axis)
        label = moved_label(candidates[name], job.axis) if real else None
        plane = int(made[firsts[name]]["largest"]) if label is None else int((label > 0).sum(axis=(1, 2)).argmax())
        shown.append(_shown(REAL, candidates[name], plane, image, image))
    return [shown[k] for k in random.permutation(len(shown))]


def sheet_files(shown: Sequence[Shown]) -> dict[str, bytes]:
    """PNGs and an empty sheet in the folder for readers, and the answers outside of it; contents by path."""
    files, rows = {}, []
    for number, one in enumerate(shown, start=1):
        name = f"slice-{number:03d}.png"
        packed = io.BytesIO()
        Image.fromarray(np.rint(255 * one.levels).astype(np.uint8)).save(packed, format="png")
        files[f"{READER}/{name}"] = packed.getvalue()
        facts = {VOLUME: one.source.ref.id, PATIENT: one.source.ref.patient or "", "plane": one.plane}
        rows.append({SLICE: name, TRUTH: one.truth, **facts})
    answers = pd.DataFrame(rows)
    sheet = answers[[SLICE]].assign(**{ANSWER: ""})
    return {
        **files,
        f"{READER}/{SHEET}": sheet.to_csv(index=False).encode(),
        ANSWERS: answers.to_csv(index=False).encode(),
    }


def _inserted(case: Case, made: Mapping[str, Any], written: Mapping[str, VolumeRef], job: Inserting) -> Shown:
    """A slice as it was written, with the grey values that the volume had before."""
    own = moved_image(Source(written[case.name], 0, case.target.rules, ""), job.axis)
    return _shown(INSERTED, case.target, int(made["largest"]), own, moved_image(case.target, job.axis))


def _shown(truth: str, source: Source, plane: int, image: np.ndarray, before: np.ndarray) -> Shown:
    own = Range.of(before, source.rules).part(slice(plane, plane + 1))
    return Shown(truth, source, plane, own.levels(image[:, plane : plane + 1])[:, 0].mean(axis=0))
