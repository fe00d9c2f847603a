"""Jobs on data of two domains: a whole training, what is refused in one line, and a training that is killed."""

import re
from pathlib import Path

import pytest
import yaml
from killing import LONG, killed_and_continued, same, weights
from two_domains import SLICES, SLICES_CLASSES, cut_slices, write_two_domains
from untrained import write_untrained
from user import ROOT, refused, run_here, run_script

from metgan_dist.recipe import Recipe
from metgan_dist.tiles.tile_set import TileSet

pytestmark = pytest.mark.usefixtures("ray_cluster")

# Slices of 64 pixels, one step, no cluster for the training.
FIELDS = {
    "tiny": False,
    "tiles__kind": "slice",
    "tiles__size": 64,
    "tiles__stride": 64,
    "tiles__step": 1,
    "tiles__gap": 0,
    "tiles__folds": 2,
    "method__name": "cyclegan",
    "method__width": 0.05,
    "method__segmentor_width": 0.05,
    "method__segmentor_max_steps": 2,
    "training__batch_size": 2,
    "training__max_steps": 2,
    "training__validate_tiles": 2,
    "scaling__workers": 0,
}


@pytest.fixture
def folder(tmp_path):
    """Six volumes of CT and six of MR, of other patients."""
    return write_two_domains(tmp_path / "data", shape=(2, 64, 64))


def described(folder, change):
    """The folder after a change of what its dataset.yaml says."""
    path = folder / "dataset.yaml"
    tree = yaml.safe_load(path.read_text())
    change(tree)
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return folder


@pytest.mark.slow
def test_a_training_on_two_domains_is_scored_without_pairs(folder, tmp_path):
    done = run_here("train_metgan", tmp_path / "out", data__path=folder, **FIELDS)
    assert done.code == 0, done.out + done.err
    result = done.result
    tiles = TileSet.open(result["artefacts"]["tiles"])
    assert list(tiles.domains) == ["ct", "mr"]
    assert "tiles: ct: 8 train, 2 val, 2 test, 0 unseen" in done.out
    assert "judge: training a segmentor" in done.out
    assert "MAE, identity and affine: left out, images of two domains are no pairs" in done.out
    assert result["scores"]["test"]["tiles"] == 2
    assert set(result["scores"]["test"]) == {"tiles", "generated", "real", "per_unit"}
    # Judges of either domain, and whole volumes in both directions.
    assert "judge_source: training a segmentor (dynunet)" in done.out
    for sample in ("generated", "real"):
        assert {"s_score", "s_score_target", "s_score_source"} <= set(result["scores"]["test"][sample])
    assert Path(result["artefacts"]["judge_source"]).parent.name == "judge_source"
    assert result["recipe"]["data"]["source"] == "ct"
    assert Path(result["artefacts"]["grid_test"]).stat().st_size > 0
    # Pairs are asked for where there are none: jobs that need them, and the same tiles named as they are.
    made = {**FIELDS, "data__path": tiles.uri}
    for fields in ({"method__name": "pix2pix"}, {"method__name": "metgan"}):
        line = refused(run_here("train_metgan", tmp_path / "out", **{**made, **fields}), "method.name")
        assert "images of two domains (ct, mr) are no pairs" in line
    refused(run_here("train_metgan", tmp_path / "out", **made, data__source="mr"), "data.source: 'mr' does not fit")
    run = re.search(r"run: (\S+) in", done.out)[1]
    own = {"tiny": False, "scores__missing_weights": "skip", "scaling__workers": 0}
    compared = run_here("evaluate", tmp_path / "out", "--runs", run, **own)
    assert compared.code == 0, compared.out + compared.err
    assert "Translated are the tiles of ct. Real images are 2 tiles of mr" in compared.out
    assert "fid left out" in compared.out
    table, trained = compared.result["scores"]["test"]["cyclegan"], result["scores"]["test"]
    assert table["cycle_mae"] == pytest.approx(trained["generated"]["cycle_mae"], rel=1e-5)
    assert table["label_fidelity"] == pytest.approx(trained["generated"]["label_fidelity"], abs=1e-3)
    whole = run_here("evaluate", tmp_path / "out", "--runs", run, **own, scores__names="s_score,assd_source")
    assert whole.code == 0, whole.out + whole.err
    found = {name: trained["generated"][name] for name in ("s_score", "assd_source") if name in trained["generated"]}
    assert whole.result["scores"]["test"]["cyclegan"] == pytest.approx(found)
    mistaken = run_here("evaluate", tmp_path / "out", "--runs", run, **own, scores__names="ssim")
    refused(mistaken, "scores.names: ssim is no score of unpaired tiles; use cycle_mae, fid, kid, label_fidelity")
    translated_volumes_are_trained_on(tmp_path / "out", run_folder(result), tiles)


def translated_volumes_are_trained_on(storage, run, tiles):
    """CT in the guise of MR: a data set, tiles of it, and segmentors of MR that train on them; back to the volumes."""
    line = refused(run_here("synthesize", storage, tiny=False, synthesis__model=run, synthesis__count=3))
    assert "synthesis.count: the generator was trained on two domains" in line
    done = run_here("synthesize", storage, tiny=False, synthesis__model=run, synthesis__overlap=0.25)
    assert done.code == 0, done.out + done.err
    assert "translation: 4 volume(s) of ct into mr by cyclegan" in done.out
    assert "left out, because they are held out of the training" in done.out
    volumes = done.result["artefacts"]["dataset"]
    made = run_here("make_tiles", storage, **{**FIELDS, "data__path": volumes})
    assert made.code == 0, made.out + made.err
    synthetic = TileSet.open(made.result["artefacts"]["tiles"])
    assert synthetic.name.startswith("synthetic-")
    assert len(synthetic.positions("train", "tumour", "label")) == len(synthetic.index) == 8
    folds = {"segmentation__width": 0.05, "segmentation__max_steps": 2, "segmentation__batch_size": 2}
    fields = {**FIELDS, **folds, "data__path": tiles.uri, "segmentation__synthetic": 4, "tracking__run": "folds"}
    scored = run_here("segment_folds", storage, **fields, segmentation__datasets=synthetic.uri)
    assert scored.code == 0, scored.out + scored.err
    assert scored.result["artefacts"]["samples"]["synthetic"] == 4
    assert scored.result["scores"]["test"]["tiles"] == 2
    chain = run_script(ROOT / "jobs/lineage.py", "folds", "--storage.path", str(storage))
    assert chain.code == 0, chain.out + chain.err
    assert f"synthetic volumes {volumes}" in chain.out
    assert "originals: ct-" in chain.out
    wrong = {**fields, "segmentation__datasets": synthetic.uri, "segmentation__domain": "ct"}
    refused(
        run_here("segment_folds", storage, **wrong), "segmentation.datasets: ", "tiles of mr, but 'ct' is segmented"
    )


def run_folder(result):
    """Where a run lies, from its last checkpoint."""
    return Path(result["artefacts"]["last_checkpoint"]).parents[2]


def without(name):
    return lambda tree: [entry.pop("domain") for entry in tree["volumes"] if entry["id"].startswith(name)]


def all_held_out(tree):
    for entry in tree["volumes"]:
        if entry["domain"] == "mr":
            entry["split"] = "test"


@pytest.mark.parametrize(
    ("change", "fields", "said"),
    [
        (without("mr"), {}, "data.volumes: 6 of 12 volumes have no `domain` (mr-0, mr-1, mr-2 and 3 more)"),
        (lambda tree: tree.update(domains={"ct": {}, "mr": {}, "us": {}}), {}, "data.domains: no volume has the"),
        (lambda tree: tree.update(volumes=tree["volumes"][:6]), {}, "data.volumes: all are of the domain 'ct'"),
        (lambda tree: tree["volumes"][0].update(domain="pet"), {}, "data.source: the volumes are of 3 domains"),
        (lambda tree: None, {"data__source": "mr", "data__target": "mr"}, "data.target: 'mr' is data.source as well"),
        (
            lambda tree: tree.update(domains={"ct": {"channels": "t1"}, "mr": {}}),
            {},
            "ct-0.nii.gz: no channel 't1'; its channels: c0",
        ),
        (lambda tree: tree["volumes"][3].pop("label"), {}, "data.volumes: 'ct-3' has no label, 'ct-0' has one"),
        (
            lambda tree: None,
            {"method__name": "spade", "method__perceptual": 0},
            "method.name: spade learns from anatomy and tumour images",
        ),
        (lambda tree: None, {"training__keep": "mae"}, "training.keep: mae compares with the real image"),
        (
            lambda tree: [entry.pop("label") for entry in tree["volumes"][:6]],
            {"method__name": "sifa"},
            "data.label: the domain 'ct' has no label to train on",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_before_anything_is_made(folder, tmp_path, change, fields, said):
    described(folder, change)
    refused(run_here("train_metgan", tmp_path / "out", data__path=folder, **{**FIELDS, **fields}), said)
    assert not (tmp_path / "out").exists()


def test_a_domain_of_which_nothing_is_left_to_train_on_is_named_with_the_remedy(folder, tmp_path):
    described(folder, all_held_out)
    line = refused(run_here("make_tiles", tmp_path / "out", data__path=folder, **FIELDS), "of the domain 'mr'")
    assert "tiles.gap: none of 12 tiles" in line
    assert "more volumes of the domain 'mr'" in line


def test_pairs_are_taken_apart_where_the_recipe_says_so(tmp_path, segmentors):
    phantom = {"data__phantom__volumes": 5, "data__phantom__shape": "16,128,128", "tiles__step": 8}
    fields = {**phantom, "data__unpaired": True}
    own = {**FIELDS, **fields, "method__judge": segmentors["method__judge"]}
    paired = run_here("train_metgan", tmp_path, **{**own, "method__name": "pix2pix"})
    refused(paired, "method.name: pix2pix", "data.unpaired")
    made = run_here("make_tiles", tmp_path, **{**own, "data__unpaired": False}).result["artefacts"]["tiles"]
    done = run_here("train_metgan", tmp_path, **own)
    assert done.code == 0, done.out + done.err
    assert done.result["artefacts"]["tiles"] == made  # how tiles are drawn is no matter of theirs
    assert "mae" in done.result["scores"]["test"]["generated"]
    again = run_here("train_metgan", tmp_path, **{**own, "data__path": made})
    assert again.code == 0, again.out + again.err


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not (SLICES / "ct-slices").is_dir(), reason="the real slices are not beside the repository")
def test_two_workers_on_real_slices_killed_and_continued_end_with_the_weights_of_undisturbed_ones(
    ray_cluster, tmp_path
):
    """CT and MR slices of other patients, by CycleGAN."""
    method = {"name": "segmentor", "segmentor_width": 0.05}
    segmentor = {"data": {"classes": SLICES_CLASSES}, "method": method, "tiles": {"size": [64]}}
    judge = write_untrained(tmp_path / "judge", Recipe.model_validate(segmentor))
    narrow = {name: FIELDS[name] for name in ("method__name", "method__width", "method__segmentor_width")}
    fields = {**LONG, **narrow, "tiny": False, "data__path": cut_slices(tmp_path).uri, "method__judge": judge}
    fields |= {"method__judge_source": judge}
    fields |= {"training__batch_size": 2, "training__validate_tiles": 2, "tracking__patience": 5}
    for name in ("undisturbed", "disturbed"):
        (tmp_path / name).mkdir()
    undisturbed = run_here("train_metgan", tmp_path / "undisturbed", **fields)
    assert undisturbed.code == 0, undisturbed.out + undisturbed.err
    said, again = killed_and_continued(tmp_path / "disturbed", ray_cluster, "cyclegan", fields)
    assert again.code == 0, again.out + again.err
    assert len(re.findall("cyclegan: continuing from", said)) == 1
    assert "cyclegan: continuing from" in again.out
    assert same(weights(tmp_path / "undisturbed"), weights(tmp_path / "disturbed"))
