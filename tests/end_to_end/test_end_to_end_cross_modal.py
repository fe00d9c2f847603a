"""Paper 3's study at a toy size, whole: killed within its SinGAN, continued, its table, tumours and pictures."""

import json
import re
import signal
from contextlib import suppress

import pytest
import yaml
from user import SHARED_CLUSTER, kill_tree, run_here, start

from metgan_dist.recipe.tree import PRESETS
from metgan_dist.studies.study import STUDIES
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.training.snapshot import read_snapshot

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400), pytest.mark.usefixtures("ray_cluster")]

PHANTOM = {"modality": "head", "volumes": 12, "shape": [16, 64, 64], "seed": 0}
SIZES = {
    "heads-small": {"size": 64, "test": 0.34, "val": 0.2},
    "heads-segmentation-small": {"size": [16, 64, 64], "spacing": None, "test": 0.34, "val": 0.2},
    "heads-singan-small": {"size": 64, "test": 0.34, "val": 0.2},
}
SMALL = {
    "tiny": False,
    "recipe": "heads-small",
    "tracking__run": "toy",
    "method__width": 0.05,
    "method__segmentor_width": 0.05,
    "method__segmentor_max_steps": 2,
    "method__segmentor_threshold": 1e-6,  # so that they find something, of which pseudo-labels can be made
    "method__volume": "phantom-3",
    "method__plane": 5,
    "training__max_steps": 12,  # two steps for each of six scales
    "training__checkpoint_every": 1,
    "training__validate_tiles": 2,
    "synthesis__threads": 1,
    "insertion__start_scale": 2,
    "scaling__workers": 0,
}
TUMOUR = "vestibular schwannoma"


def fields(storage, **more):
    """The package's study on presets with smaller volumes."""
    tree = yaml.safe_load((STUDIES / "cross-modal.yaml").read_text())
    for part, preset in tree["presets"]["heads-small"].items():
        recipe = yaml.safe_load((PRESETS / f"{preset}.yaml").read_text())
        recipe["data"]["phantom"] = PHANTOM
        recipe["tiles"].update(SIZES[preset])
        path = storage / f"{preset}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        tree["presets"]["heads-small"][part] = str(path)
    path = storage / "cross-modal.yaml"
    path.write_text(yaml.safe_dump(tree))
    phantom = {f"data__phantom__{name}": PHANTOM[name] for name in ("volumes", "seed")}
    shape = ",".join(map(str, PHANTOM["shape"]))
    return {"study": path, **phantom, "data__phantom__shape": shape, **SMALL, **more}


@pytest.fixture(scope="module")
def study(tmp_path_factory, ray_cluster):
    """(storage, the finished second start) of a study that was killed inside a scale of its SinGAN."""
    storage = tmp_path_factory.mktemp("heads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SHARED_CLUSTER, ray_cluster)
        job = start("run_study", storage, **fields(storage))
    learned = storage / "toy-singan" / "train" / "singan"

    def inside():
        latest = read_snapshot(str(learned), {}).latest if learned.exists() else None
        return latest is not None and latest.metrics["images"] >= 3

    try:
        while not inside():
            assert job.stdout.readline()
    finally:
        with suppress(ProcessLookupError):
            kill_tree(job)
    assert job.returncode == -signal.SIGKILL
    return storage, run_here("run_study", storage, **fields(storage))


def result_of(storage, name):
    return json.loads((storage / f"toy-{name}" / "result.json").read_text())


def test_a_study_that_was_killed_within_a_scale_goes_on_there(study):
    storage, done = study
    assert done.code == 0, done.out + done.err
    assert "segmentor of the source: finished already" in done.out
    assert re.search(r"singan \d/6 scale-\d: continuing from \d+ of \d+ images", done.out)
    results = [json.loads(path.read_text()) for path in storage.glob("toy-*/result.json")]
    assert {result["status"] for result in results} == {"finished"}
    assert len(results) == 24  # 17 steps, 7 rows


def test_pairs_lead_back_to_the_slice_and_nobody_who_is_tested_is_in_them(study):
    storage, _ = study
    crops = TileSet.open(result_of(storage, "crops")["artefacts"]["tiles"])
    tested = set(crops.index["patient"][crops.index["split"] == "test"])
    made = TileSet.open(result_of(storage, "inserted_crops")["artefacts"]["tiles"])
    pairs = TileSet.open(result_of(storage, "pairs")["artefacts"]["tiles"])
    for tiles in (made, pairs):
        assert not set(tiles.index["patient"]) & tested
        assert tiles.index["patient"].nunique() == result_of(storage, "inserted")["scores"]["insertion"]["patients"]
    assert pairs.manifest["data"]["anatomy"] == "t2"
    traced = run_here("lineage", storage, str(storage / "toy-pix2pix_source"), tiny=False)
    assert traced.code == 0, traced.out + traced.err
    for told in ("image: volume phantom-3", "plane 5", "tumour of: volume phantom-", "inserted into: volume phantom-"):
        assert told in traced.out, traced.out


def test_the_table_the_tumours_and_the_pictures_are_there(study):
    storage, done = study
    table = (storage / "toy" / "cross-modal" / "table.md").read_text()
    assert f"Segmentation of {TUMOUR}" in table
    scores = result_of(storage, "inserted")["scores"]["insertion"]
    for name, words in (("contrast_before", "translated into the target"), ("contrast", "harmonised")):
        assert re.search(rf"\| {words} +\| +{scores['volumes']} \| +{scores[name]:.2f} ", table), table
    assert (storage / "toy" / "cross-modal" / "figure-3.png").stat().st_size > 0
    assert (storage / "toy-direct" / "overlays.png").stat().st_size > 0
    assert set(done.result["scores"]["test"])


def test_pseudo_labels_are_of_real_target_volumes_that_are_trained_on(study):
    storage, _ = study
    crops = TileSet.open(result_of(storage, "crops")["artefacts"]["tiles"])
    tested = set(crops.index["volume"][crops.index["split"] == "test"])
    written = yaml.safe_load((storage / "toy-pseudo_labels" / "volumes" / "dataset.yaml").read_text())
    assert {entry["domain"] for entry in written["volumes"]} == {"t2"}
    assert not {entry["id"] for entry in written["volumes"]} & tested
    traced = run_here("lineage", storage, str(storage / "toy-pseudo"), tiny=False)
    assert traced.code == 0, traced.out + traced.err
    for told in ("labelled: volume phantom-", "inserted into: volume phantom-", "image: volume phantom-3"):
        assert told in traced.out, traced.out
