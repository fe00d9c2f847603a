"""Tumours put into volumes as a user does it: SinGAN, data set, tiles, lineage, readers; killed and continued."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from insertion_sets import read, write_donors, write_targets
from servers import wait_until
from user import kill_tree, refused, run_here, start

from metgan_dist.errors import UserError
from metgan_dist.lineage import check_untouched
from metgan_dist.tiles.tile_set import TileSet

pytestmark = pytest.mark.usefixtures("ray_cluster")

IMAGE = {"tiny": False, "data__label": "", "data__classes": 2, "tiles__size": "40,36"}
SINGAN = {**IMAGE, "method__plane": 3, "method__volume": "b0", "method__width": 1 / 8, "training__max_steps": 4}
CUT = {
    **IMAGE,
    "tiles__kind": "slice",
    "tiles__step": 1,
    "tiles__gap": 0,
    "tiles__split_by": "volume",
    "tiles__min_foreground": 0,
}


@pytest.fixture(scope="module")
def storage(tmp_path_factory, ray_cluster):
    """A folder with targets, donors, and a SinGAN that took a step at each scale, called `slice`."""
    folder = tmp_path_factory.mktemp("insert")
    write_targets(folder / "b")
    write_donors(folder / "a")
    fields = {**SINGAN, "data__path": folder / "b", "scaling__workers": 0, "tracking__run": "slice"}
    done = run_here("train_metgan", folder, "--recipe", "singan-small", **fields)
    assert done.code == 0, done.out + done.err
    return folder


def insert(storage, **fields):
    given = {
        "tiny": False,
        "data__path": storage / "b",
        "data__label": "",
        "insertion__model": storage / "slice",
        "insertion__start_scale": 1,
        "insertion__masks": storage / "a",
    }
    return run_here("insert_tumours", storage, **{**given, **fields})


@pytest.fixture(scope="module")
def inserted(storage):
    done = insert(storage, insertion__readers=2, tracking__run="inserted")
    assert done.code == 0, done.out + done.err
    return done


def test_volumes_scores_preview_and_reader_sheet_are_written(storage, inserted):
    result, folder = inserted.result, storage / "inserted"
    scores = result["scores"]["insertion"]
    assert scores["background_difference"] == 0
    assert (scores["volumes"], scores["patients"], scores["voxels"]) == (3, 3, 60)
    assert {"border_ratio", "seam_ratio", "naive_border_ratio"} <= set(scores)
    assert "intensity_distance" not in scores  # no volume has a tumour of its own
    assert len(pd.read_csv(result["artefacts"]["scores"])) == 3
    for name in ("preview.png", "reader/slice-002.png", "reader/sheet.csv", "reader-answers.csv"):
        assert (folder / name).stat().st_size > 0
    assert "left out, because they are held out: held" in inserted.out
    source, _ = read(storage / "b", "b1")
    image, _ = read(folder / "volumes", "b1-inserted-t2")
    mask, _ = read(folder / "volumes", "b1-inserted-label")
    assert (image[mask > 0] != source[mask > 0]).any()
    assert (image[[0, 5]] == source[[0, 5]]).all()


def test_the_same_again_is_there_already(storage, inserted):
    again = insert(storage, insertion__readers=2, tracking__run="inserted")
    assert again.code == 0, again.out + again.err
    assert "insertion: 3 of 3 volumes are there already" in again.out
    assert again.result["artefacts"]["voxels_sha256"] == inserted.result["artefacts"]["voxels_sha256"]


def test_a_filled_in_sheet_is_scored(storage, inserted):
    truth = pd.read_csv(storage / "inserted" / "reader-answers.csv")
    sheet = storage / "inserted" / "reader" / "sheet.csv"
    filled = pd.read_csv(sheet).assign(answer=truth["truth"])
    filled.to_csv(storage / "filled.csv", index=False)
    answers = storage / "inserted" / "reader-answers.csv"
    flags = ("--sheet", str(storage / "filled.csv"), "--answers", str(answers))
    done = run_here("evaluate", storage, *flags, tiny=False, tracking__run="read")
    assert done.code == 0, done.out + done.err
    assert done.result["scores"]["reading"]["accuracy"] == {
        "value": 1.0,
        "low": pytest.approx(0.025**0.5),
        "high": 1.0,
        "right": 2,
        "of": 2,
    }
    refused(run_here("evaluate", storage, "--sheet", str(sheet), tiny=False), "--sheet", "nothing filled in")


def test_tiles_cut_from_the_volumes_are_synthetic_and_lead_back_to_slice_volumes_and_masks(storage, inserted):
    made = run_here("make_tiles", storage, data__path=storage / "inserted" / "volumes", **CUT, tracking__run="cut")
    assert made.code == 0, made.out + made.err
    tiles = TileSet.open(made.result["artefacts"]["tiles"])
    assert set(tiles.index["split"]) == {"train"}
    assert tiles.index["foreground"].sum() == 3 * 60
    traced = run_here("lineage", storage, tiles.uri, tiny=False)
    assert traced.code == 0, traced.out + traced.err
    for told in ("image: volume b0, patient p0, view z, plane 3", "inserted into: volume b1", "tumour of: volume a1"):
        assert told in traced.out, traced.out
    assert str(storage / "a" / "a1-label.nii.gz") in traced.out
    digest = json.loads((storage / "inserted" / "run.json").read_text())
    assert digest["job"] == "insert_tumours"
    real = run_here(
        "make_tiles", storage, data__path=storage / "b", **CUT, tiles__test=0, tiles__val=0, tracking__run="real"
    )
    assert real.code == 0, real.out + real.err
    test = TileSet.open(real.result["artefacts"]["tiles"])
    check_untouched("tiles", test, tiles, f"sqlite:///{storage}/mlflow.db")
    test.index.loc[test.index["volume"] == "b2", "split"] = "test"
    with pytest.raises(UserError, match="are of patient p2, whom test tiles"):
        check_untouched("tiles", test, tiles, f"sqlite:///{storage}/mlflow.db")


def test_a_mask_that_changed_is_a_broken_link(storage):
    write_donors(storage / "other")
    done = insert(storage, insertion__masks=storage / "other", insertion__volumes="b0", tracking__run="broken")
    assert done.code == 0, done.out + done.err
    (storage / "other" / "a0-label.nii.gz").unlink()
    refused(run_here("lineage", storage, "broken", tiny=False), "broken link", "a0-label.nii.gz: not here any more")


@pytest.mark.parametrize(
    ("fields", "culprits"),
    [
        ({"insertion__start_scale": 7}, ("insertion.start_scale", "scales 1 to")),
        ({"insertion__centre": "5,20,20"}, ("insertion.centre", "reaches outside of volume 'b0'")),
        ({"insertion__volumes": "held"}, ("insertion.volumes", "is held out (test)")),
        ({"insertion__model": "naive"}, ("insertion", "start_scale is a scale of a singan")),
    ],
)
def test_mistakes_are_one_line(storage, fields, culprits):
    refused(insert(storage, **fields), *culprits)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_job_that_is_killed_in_the_middle_ends_with_the_same_voxels(storage, shared_cluster):
    fields = {
        "tiny": False,
        "data__path": storage / "b",
        "data__label": "",
        "insertion__model": storage / "slice",
        "insertion__start_scale": 1,
        "insertion__masks": storage / "a",
        "insertion__pairs": "drawn",
        "insertion__place": "tissue",
        "insertion__count": 60,
        "insertion__replicas": 1,
    }
    job = start("insert_tumours", storage, **fields, tracking__run="killed")
    markers = storage / "killed" / "inserted"

    def done():
        return len(list(markers.glob("*-inserted*.json")))

    try:
        wait_until(done, process=job)
    finally:
        kill_tree(job)
    assert 0 < done() < 60
    again = run_here("insert_tumours", storage, **fields, tracking__run="killed")
    assert again.code == 0, again.out + again.err
    assert re.search(r"insertion: \d+ of 60 volumes are there already", again.out)
    whole = run_here("insert_tumours", storage, **{**fields, "insertion__replicas": 2}, tracking__run="whole")
    digests = {
        Path(run.result["artefacts"]["dataset"]).parent.name: run.result["artefacts"]["voxels_sha256"]
        for run in (again, whole)
    }
    assert digests["killed"] == digests["whole"]
