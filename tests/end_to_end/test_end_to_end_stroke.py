"""Stroke volumes by copy-paste the whole way, without a translator; and what is refused in one line."""

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from brain_sets import GRID, cut_brains, lesion_at, recipe_of, write_brains
from mask_sets import write_masks
from two_domains import cut_here
from user import refused, run_here

pytestmark = pytest.mark.usefixtures("ray_cluster")


def written(folder, masks=None, **changes):
    """A folder with brains, their tiles and masks."""
    tiles = cut_brains(folder, bright=2, **changes)
    write_masks(folder / "masks", 2, masks or {0: lesion_at(1, 6, 6), 1: lesion_at(4, 20, 7)})
    return tiles


def pasted(folder, tiles, **fields):
    """What synthesize.py has to say."""
    asked = {"synthesis__model": "copy-paste", "synthesis__tiles": tiles.uri, "synthesis__masks": folder / "masks"}
    asked |= {"data__path": folder / "brains", "synthesis__count": 4, "tiny": False, **fields}
    return run_here("synthesize", folder / "out", **asked)


def test_brains_are_pasted_into_listed_and_traced_and_a_stopped_run_goes_on(tmp_path):
    tiles = written(tmp_path)
    done = pasted(tmp_path, tiles, tracking__run="one")
    assert done.code == 0, done.out + done.err
    assert re.search(r"lesions of 1 of 1 stroke case\(s\) are (1\.9|2\.0)\d times as bright", done.out)
    made = Path(done.result["artefacts"]["dataset"])
    assert Path(done.result["artefacts"]["preview"]).stat().st_size > 0
    described = yaml.safe_load((made / "dataset.yaml").read_text())
    assert described["synthesis"]["measured"] == {"volumes": ["s0"], "patients": ["q0"]}
    assert len(described["volumes"]) == 4
    assert done.result["scores"]["ratio"]["median"] == pytest.approx(2, abs=0.1)
    told = run_here("lineage", tmp_path / "out", str(made), tiny=False)
    assert told.code == 0, told.out + told.err
    assert "made by: copy-paste" in told.out
    assert "broken" not in told.out.lower()
    # A volume that is lost is made again, the same; the others stay.
    digest = done.result["artefacts"]["voxels_sha256"]
    (tmp_path / "out/one/painted/stroke-000002.json").unlink()
    (made / "stroke-000002.nii.gz").unlink()
    again = pasted(tmp_path, tiles, tracking__run="one")
    assert "3 of 4 volumes are there already" in again.out
    assert again.result["artefacts"]["voxels_sha256"] == digest
    assert (made / "stroke-000002.nii.gz").exists()


def test_masks_on_several_grids_are_refused_before_any_work(tmp_path):
    tiles = written(tmp_path, {0: lesion_at(1, 6, 6), 1: np.ones((8, 32, 30), np.uint8)})
    refused(pasted(tmp_path, tiles), "synthesis.masks", "m01.nii.gz", "must lie in one space")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*/volumes"))


def test_masks_without_a_lesion_are_refused(tmp_path):
    tiles = written(tmp_path, dict.fromkeys((0, 1), np.zeros(GRID, np.uint8)))
    refused(pasted(tmp_path, tiles), "synthesis.masks", "all 2 masks that were tried are empty")


def test_a_lesion_that_never_fits_says_how_many_were_tried_and_by_which_limits(tmp_path):
    tiles = written(tmp_path, dict.fromkeys((0, 1), lesion_at(3, 13, 13)))
    line = refused(pasted(tmp_path, tiles, synthesis__tries=1, synthesis__least_lesion=30), "fits nowhere")
    assert "of 1 mask(s) tried (synthesis.tries: 1) none leaves 30 voxels (synthesis.least_lesion)" in line


def test_label_maps_without_parenchyma_are_refused(tmp_path):
    folder = write_brains(tmp_path / "brains")
    described = (folder / "dataset.yaml").read_text().replace("white matter", "skull")
    (folder / "dataset.yaml").write_text(described)
    tiles = cut_here(recipe_of(folder), tmp_path / "tiles")
    write_masks(tmp_path / "masks", 1, {0: lesion_at(1, 6, 6)})
    refused(pasted(tmp_path, tiles), "data.parenchyma", "(skull, csf, lesion)", "name the tissue")


def test_a_brain_whose_map_has_no_parenchyma_is_named(tmp_path):
    folder = write_brains(tmp_path / "brains")
    image = nibabel.load(folder / "h1tissue.nii.gz")
    only_fluid = np.where(np.asarray(image.dataobj) > 0, 2, 0).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(only_fluid, image.affine), folder / "h1tissue.nii.gz")
    tiles = cut_here(recipe_of(folder), tmp_path / "tiles")
    write_masks(tmp_path / "masks", 1, {0: lesion_at(1, 6, 6)})
    line = refused(pasted(tmp_path, tiles, synthesis__gain="1.5,2"), "h1: 0 voxels of parenchyma (data.parenchyma)")
    assert "fewer than the 20 of a lesion" in line
