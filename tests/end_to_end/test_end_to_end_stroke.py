"""Stroke volumes by copy-paste the whole way, without a translator."""

import re
from pathlib import Path

import pytest
import yaml
from brain_sets import cut_brains, lesion_at
from mask_sets import write_masks
from user import run_here

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
