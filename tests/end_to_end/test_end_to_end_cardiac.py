"""Paper 5's table 2 on two tiny domains: rows that start from each other, shares of real data, and going on."""

import json
from pathlib import Path

import pytest
from two_domains import write_two_domains
from user import refused, run_here

pytestmark = pytest.mark.usefixtures("ray_cluster")

FIELDS = {
    "tiny": False,
    "tiles__kind": "slice",
    "tiles__size": 24,
    "tiles__stride": 24,
    "tiles__step": 1,
    "tiles__gap": 0,
    "method__width": 0.05,
    "method__segmentor_width": 0.05,
    "method__segmentor_max_steps": 1,
    "training__batch_size": 2,
    "training__stages": "segmentors=1,translation=1,together=1,falling=1",
    "training__validate_tiles": 2,
    "scaling__workers": 0,
    "scores__resamples": 100,
    "tracking__run": "hearts",
    "tracking__patience": 5,
}


def study(folder, out, *flags, **fields):
    own = ("--study", "cardiac-segmentation", "--rows", "ada_t14", *flags)
    return run_here("run_study", out, *own, data__path=folder, **{**FIELDS, **fields})


@pytest.mark.slow
def test_rows_start_from_each_other_and_a_finished_study_is_only_reported_again(tmp_path):
    folder = write_two_domains(tmp_path / "data", {"ct": 5, "mr": 5}, shape=(1, 24, 24))
    done = study(folder, tmp_path / "out")
    assert done.code == 0, done.out + done.err
    assert "steps: base_t14 1, ada_t14 3; 4 in all" in done.out
    assert "stage segmentors: taken from" in done.out
    artefacts = done.result["artefacts"]
    assert set(artefacts["rows"]) == {"base_t14", "ada_t14"}
    rows = {name: json.loads(Path(at, "result.json").read_text()) for name, at in artefacts["rows"].items()}
    taken = {name: {key for key in row["artefacts"] if key.startswith("stage_")} for name, row in rows.items()}
    assert taken == {"base_t14": set(), "ada_t14": {"stage_segmentors"}}
    for row in rows.values():
        assert row["artefacts"]["judge_source"] == artefacts["judge_source"]
        assert {"s_score", "s_score_target", "s_score_source"} <= set(row["scores"]["test"]["generated"])
        assert {"dice_target", "dice_source"} <= set(row["scores"]["test"]["segmented"])
    shown = done.result["scores"]["test"]
    assert shown["ADA (R+S)"]["dice_target"] == rows["ada_t14"]["scores"]["test"]["segmented"]["dice_target"]
    assert Path(artefacts["figure-7_png"]).stat().st_size > 0
    again = study(folder, tmp_path / "out")
    assert again.code == 0, again.out + again.err
    assert again.out.count("finished already") == 2


def test_a_study_of_two_domains_is_not_for_pairs(tmp_path):
    pairs = {"data__phantom__volumes": 2, "data__phantom__shape": "16,128,128", "tracking__run": "pairs"}
    out = tmp_path / "out"
    line = refused(run_here("run_study", out, "--study", "cardiac-synthesis", **{**FIELDS, **pairs}), "data.path")
    assert "translates between two domains" in line
    assert not out.exists()
