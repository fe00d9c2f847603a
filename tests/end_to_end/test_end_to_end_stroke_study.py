"""Paper 4's study at a toy size, whole: killed between two steps and within one, continued, reported, refused."""

import json
import re
import signal
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
import yaml
from user import SHARED_CLUSTER, kill_tree, refused, run_here, start

from metgan_dist.studies.study import STUDIES
from metgan_dist.tiles.splits import group_of
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.training.snapshot import read_snapshot

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400), pytest.mark.usefixtures("ray_cluster")]

ROWS = "clinical,with_pix2pix10,only_pix2pix10,pix2pix10_10"
SMALL = {
    "tiny": False,
    "recipe": "stroke-small",
    "rows": ROWS,
    "tracking__run": "toy",
    "tracking__patience": 5,
    "data__phantom__volumes": 24,
    "method__width": 0.05,
    "method__critic_moves": 1,
    "method__segmentor_width": 0.05,
    "method__segmentor_max_steps": 2,
    "training__batch_size": 2,
    "training__max_steps": 4,
    "training__checkpoint_every": 2,
    "training__validate_tiles": 4,
    "segmentation__width": 0.1,
    "segmentation__max_steps": 6,
    "synthesis__count": 4,
    "synthesis__threads": 1,
    "scaling__workers": 0,
}


def fields(storage, **more):
    """The package's study with fewer clinical cases, which a toy has not."""
    tree = yaml.safe_load((STUDIES / "stroke.yaml").read_text())
    for row in tree["rows"]:
        cases = row["recipe"].get("segmentation", {})
        cases.update({"cases": {10: 2, 50: 3}[cases["cases"]]} if "cases" in cases else {})
    path = Path(storage) / "stroke.yaml"
    path.write_text(yaml.safe_dump(tree))
    return {"study": path, **SMALL, **more}


def killed(storage, cluster, reached, **more):
    """What a start of the study said that is killed, with all that it started, once `reached(said)` holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SHARED_CLUSTER, cluster)
        job, said = start("run_study", storage, **fields(storage, **more)), []
    try:
        while not reached(said):
            said.append(job.stdout.readline())
            assert said[-1], "".join(said)
    finally:
        with suppress(ProcessLookupError):
            kill_tree(job)
    assert job.returncode == -signal.SIGKILL
    return "".join(said)


@pytest.fixture(scope="module")
def study(tmp_path_factory, ray_cluster):
    """(storage, output of the first start, of the second one, the finished third): killed between steps, within one."""
    storage = tmp_path_factory.mktemp("stroke")
    first = killed(storage, ray_cluster, lambda said: any(line.startswith("[lesion masks] plan") for line in said))
    masks = storage / "toy-pix2pix10" / "train" / "pix2pix_stroke"

    def begun(_said):
        latest = read_snapshot(str(masks), {}).latest
        return latest is not None and latest.metrics["images"] >= 2

    second = killed(storage, ray_cluster, begun)
    return storage, first, second, run_here("run_study", storage, **fields(storage))


def result_of(storage, name):
    return json.loads((storage / f"toy-{name}" / "result.json").read_text())


def test_a_study_that_was_killed_goes_on_where_it_was(study):
    storage, first, second, done = study
    assert done.code == 0, done.out + done.err
    assert "[slices] run: toy-slices" in first
    assert "whole volumes: finished already" in second
    assert "[whole volumes]" not in second
    assert "mask GAN: finished already" in done.out
    assert re.search(r"\[Pix2Pix10\] pix2pix_stroke: continuing from \d+ of 8 images", done.out)
    statuses = {path.parent.name: json.loads(path.read_text())["status"] for path in storage.glob("toy-*/result.json")}
    assert set(statuses.values()) == {"finished"}
    assert {"toy-masks", "toy-drawn", "toy-pix2pix10", "toy-pix2pix10_crops", "toy-pix2pix10_10"} <= set(statuses)


def test_all_tiles_have_one_split_and_nobody_who_is_tested_is_learned_from(study):
    storage, _, _, _ = study
    sets = {
        name: TileSet.open(result_of(storage, name)["artefacts"]["tiles"]) for name in ("crops", "slices", "lesions")
    }
    sides = {name: tiles.index.groupby(group_of(tiles.index))["split"].unique() for name, tiles in sets.items()}
    tested = {name for name, own in sides["crops"].items() if list(own) == ["test"]}
    assert tested
    for name in ("slices", "lesions"):
        for patient, own in sides[name].items():
            assert list(own) == list(sides["crops"][patient]), (name, patient)
    drawn = yaml.safe_load(Path(result_of(storage, "drawn")["artefacts"]["dataset"], "dataset.yaml").read_text())
    assert not {f"patient {name}" for name in drawn["synthesis"]["seen"]["patients"]} & tested
    made = TileSet.open(result_of(storage, "pix2pix10_crops")["artefacts"]["tiles"])
    assert not set(group_of(made.index)) & tested
    assert len(made.index) == 4


def test_rows_have_their_test_dice_after_each_epoch_and_start_where_they_say(study):
    storage, _, _, done = study
    for name in ROWS.split(","):
        artefacts = result_of(storage, name)["artefacts"]
        curves, volumes = pd.read_csv(artefacts["epochs"]), pd.read_parquet(artefacts["epoch_volumes"])
        assert curves["images"].iloc[-1] == artefacts["images"]
        assert volumes.groupby("images")["volume"].nunique().unique().tolist() == [5]
        ill = volumes[volumes["voxels"] > 0].groupby("images")["dice"].mean()
        assert curves["test_dice"].tolist() == pytest.approx(ill.tolist())
        mean = done.result["scores"]["test"][name]["mean"]
        last = curves["epoch"] > curves["epoch"].max() - 4
        assert name == "only_pix2pix10" or mean == pytest.approx(100 * curves["test_dice"][last].mean())
    tuned, only = (
        json.loads((storage / f"toy-{name}-fold-0" / "run.json").read_text())
        for name in ("pix2pix10_10", "only_pix2pix10")
    )
    last = json.loads((storage / "toy-only_pix2pix10-fold-0" / "result.json").read_text())["artefacts"][
        "last_checkpoint"
    ]
    assert (tuned["start_from"]["uri"], tuned["start_from"]["run"]) == (last, only["mlflow_run_id"])
    samples = {name: result_of(storage, name)["artefacts"]["samples"] for name in ROWS.split(",")}
    assert samples["only_pix2pix10"] == {"real": 0, "synthetic": samples["with_pix2pix10"]["synthetic"]}
    assert samples["pix2pix10_10"] == {"real": 2, "synthetic": 0}


def test_the_report_has_the_papers_table_and_figures(study):
    storage, _, _, done = study
    folder = storage / "toy" / "stroke"
    table = (folder / "table.md").read_text()
    assert table.strip() in done.out
    assert re.search(r"^\| data set +\| +baseline ↑ \| +paper \| +Pix2Pix10 ↑ \| +paper \|$", table, re.MULTILINE)
    assert "| + all synthetic |" in table
    assert "79.4 ± 1.6" in table
    assert "fewer than 6 independent patients" in table
    for name in ("figure-4", "figure-5", "figure-6", "figure-7", "figure-8"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    again = run_here("run_study", storage, **fields(storage))
    assert again.code == 0, again.out + again.err
    assert again.result["scores"] == done.result["scores"]
    assert "[" not in again.out.split("steps and rows")[1].split("data set")[0]


def test_a_model_of_another_split_is_refused_before_anything_is_trained(study):
    storage, _, _, _ = study
    other = run_here(
        "train_metgan",
        storage,
        **{name: value for name, value in SMALL.items() if not name.startswith(("rows", "tracking", "segm", "synth"))}
        | {"recipe": "stroke-masks-small", "tracking__run": "other", "tiles__test": 0.4},
    )
    assert other.code == 0, other.out + other.err
    more = {"tracking__run": "second", "take": "masks=other,crops=toy-crops,slices=toy-slices"}
    done = run_here("run_study", storage, **fields(storage, **more))
    refused(done, "--study: step masks: ", "must be cut with one split")
    assert not list(storage.glob("second-pix2pix10*"))
