"""Masks without images the whole way: trained on, drawn as a data set, compared; and what is refused in one line."""

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from mask_sets import SHAPE, ellipsoids, write_masks
from user import refused, run_here

from metgan_dist.tiles.tile_set import TileSet

pytestmark = pytest.mark.usefixtures("ray_cluster")

FIELDS = {
    "tiny": False,
    "tiles__kind": "crop",
    "tiles__size": "8,16,24",
    "tiles__edge": "drop",
    "tiles__gap": 0,
    "method__name": "lesion_wgan",
    "method__width": 1 / 16,
    "method__critic_moves": 2,
    "training__augment": "none",
    "training__batch_size": 4,
    "training__max_steps": 4,
    "training__validate_tiles": 4,
    "scaling__workers": 0,
}


def test_masks_are_trained_on_drawn_and_compared(tmp_path):
    folder, out = write_masks(tmp_path / "masks", 16), tmp_path / "out"
    done = run_here("train_metgan", out, data__path=folder, **FIELDS)
    assert done.code == 0, done.out + done.err
    assert "judge" not in done.out
    scores = done.result["scores"]["test"]
    assert scores["tiles"] == 3
    assert {"mask_distance", "place_p", "coverage", "nearest", "copies"} <= set(scores["generated"])
    assert Path(done.result["artefacts"]["grid_test"]).stat().st_size > 0
    tiles = TileSet.open(done.result["artefacts"]["tiles"])
    name = re.search(r"run: (\S+) in", done.out)[1]
    asked = {"tiny": False, "synthesis__model": out / name, "synthesis__count": 5, "synthesis__batch_size": 2}
    drawn = [run_here("synthesize", out, **asked, tracking__run=run) for run in ("one", "two")]
    assert all(one.code == 0 for one in drawn), drawn[0].out + drawn[0].err
    made, again = (one.result["artefacts"] for one in drawn)
    assert made["voxels_sha256"] == again["voxels_sha256"]
    described = yaml.safe_load(Path(made["dataset"], "dataset.yaml").read_text())
    known = tiles.index[tiles.index["split"].isin(["train", "val"])]
    assert described["synthesis"]["seen"]["patients"] == sorted(known["patient"])
    assert len(list(Path(made["dataset"]).glob("mask-*.nii.gz"))) == len(described["volumes"]) == 5
    told = run_here("lineage", out, made["dataset"], tiny=False)
    assert told.code == 0, told.out + told.err
    assert "learned from" in told.out
    assert "broken" not in told.out.lower()
    compared = run_here("evaluate", out, "--runs", name, tiny=False, scaling__workers=0)
    assert compared.code == 0, compared.out + compared.err
    assert "Mask distance" in compared.out
    assert "none has a true one" in compared.out
    images = {"tiny": False, "tiles__kind": "crop", "tiles__size": "8,16,24", "data__path": tiles.uri}
    refused(run_here("train_segmentor", out, **images), "data.tumour", "these tiles have no tumour to train on")


def changed(folder, number, mask):
    nibabel.save(nibabel.Nifti1Image(mask.T, np.eye(4)), folder / f"m{number:02d}.nii.gz")
    return folder


def test_masks_of_mixed_grids_and_empty_ones_are_refused(tmp_path):
    out, mixed = tmp_path / "out", changed(write_masks(tmp_path / "mixed", 6), 3, ellipsoids(3, (10, 20, 26)))
    refused(run_here("train_metgan", out, data__path=mixed, **FIELDS), "data.volumes", "m03.nii.gz", "in one space")
    nothing = write_masks(tmp_path / "empty", 6, dict.fromkeys(range(6), np.zeros(SHAPE, np.uint8)))
    for job in ("make_tiles", "train_metgan"):
        refused(run_here(job, out, data__path=nothing, **FIELDS), "data.label", "holds a labelled pixel")


@pytest.mark.parametrize(
    ("method", "role"), [("metgan", "anatomy"), ("cyclegan", "anatomy"), ("sifa", "anatomy"), ("redgan", "tumour")]
)
def test_methods_of_images_refuse_masks(tmp_path, method, role):
    """Those that draw images from labels need no anatomy, but the images."""
    fields = {**FIELDS, "tiles__kind": "slice", "tiles__size": "16", "method__name": method, "tiles__resize": 64}
    del fields["method__critic_moves"]
    line = refused(run_here("train_metgan", tmp_path, data__path=write_masks(tmp_path / "masks", 6), **fields))
    assert f"data.{role}: volume 'm00' has no {role} to train on" in line


def test_segmentors_refuse_masks_and_flips_take_them_out_of_their_place(tmp_path):
    folder = write_masks(tmp_path / "masks", 6)
    fields = {"tiny": False, "tiles__kind": "crop", "tiles__size": "8,16,24", "data__path": folder}
    refused(run_here("train_segmentor", tmp_path, **fields), "data.tumour: volume 'm00' has no tumour")
    flipped = {**FIELDS, "training__augment": "flips", "data__path": folder}
    refused(run_here("train_metgan", tmp_path, **flipped), "training.augment", "set it to none")
