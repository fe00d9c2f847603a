"""The S-score of both directions: a generator that moves shapes loses it, in its own direction alone."""

import numpy as np
import pytest
import torch
from networkless import Networkless
from tile_sets import write_domains

from metgan_dist.methods import build_method
from metgan_dist.methods.segmentor import Segmentor, SegmentorNetwork
from metgan_dist.recipe import Recipe
from metgan_dist.tasks import GENERATED, REAL, task_of
from metgan_dist.tasks.held_out import score_held_out
from metgan_dist.tasks.segmentation import segmentor_rows
from metgan_dist.tasks.unpaired import BACK, REAL_SOURCE
from metgan_dist.tiles.stream import tile_batches

DEVICE = torch.device("cpu")


class Brightness(SegmentorNetwork):
    """Finds what is bright."""

    def forward(self, image):
        return 8 * image


class Painter(Networkless):
    """Paints labels, `moved` pixels further on where it translates forward, `back` pixels on the way back."""

    task = "unpaired"
    translates_back = True

    def __init__(self, moved=0, back=0):
        super().__init__()
        self.moved, self.back = moved, back

    def translate(self, batch):
        return painted(batch["label"], self.moved)

    def translate_back(self, batch):
        return painted(batch["tumour_label"], self.back)

    def cycle(self, batch, output):
        return batch["anatomy"]

    def pictures(self, batch):
        return {"generated": self.translate(batch)}


class OneWay(Painter):
    translates_back = False


class Finder(Painter):
    """One that also finds labels itself."""

    segments = ("tumour",)

    def class_scores(self, volume, modality):
        return torch.cat([-volume, volume], dim=1)


def painted(label, moved):
    return torch.roll((label > 0).float() * 2 - 1, moved, dims=-1)[:, None]


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    return write_domains(tmp_path_factory.mktemp("domains"))


@pytest.fixture
def judges():
    return {role: Segmentor(Brightness(width=1 / 16)) for role in ("judge", "judge_source")}


def validated(task, method):
    """What a validation says, as `Validator` asks for it."""
    scored = {}
    for sample, rows in task.samples("val").items():
        scorer = task.scorer(sample)
        for batch in tile_batches(task.tiles, rows, 2):
            task.score(sample, scorer, batch, None if sample in task.of_real else method)
        scored[sample] = scorer.scored()
    return task.summary(scored)


def test_validations_have_the_s_score_of_both_directions_and_their_mean(tiles, judges):
    assert list(task_of(Painter(), tiles, judges).samples("val")) == [GENERATED, REAL, BACK, REAL_SOURCE]
    kept = validated(task_of(Painter(), tiles, judges), Painter())
    assert (kept["s_score_target"], kept["s_score_source"], kept["s_score"]) == (1, 1, 1)
    method = Painter(back=3)
    moved = validated(task_of(method, tiles, judges), method)
    assert moved["s_score_target"] == 1
    assert moved["s_score_source"] < 0.9
    assert moved["s_score"] == pytest.approx((1 + moved["s_score_source"]) / 2)
    assert moved["label_fidelity"] == moved["s_score_target"]


def test_one_direction_or_one_judge_leave_out_what_they_cannot_say(tiles, judges):
    one_way = OneWay()
    scores = validated(task_of(one_way, tiles, judges), one_way)
    assert scores["s_score_target"] == 1
    assert not {"s_score_source", "s_score"} & set(scores)
    only = {"judge": judges["judge"]}
    assert list(task_of(Painter(), tiles, only).samples("val")) == [GENERATED, REAL]
    assert "s_score" not in validated(task_of(Painter(), tiles, only), Painter())


def test_after_the_training_whole_places_are_scored_beside_real_images_and_own_segmentors(tiles, judges):
    said = []
    method = Finder(moved=4)
    scores = score_held_out(task_of(method, tiles, judges), method, DEVICE, said.append)["test"]
    made, real = scores["generated"], scores["real"]
    assert made["s_score_source"] == 1
    assert made["s_score_target"] < 0.9
    assert made["s_score"] == pytest.approx((1 + made["s_score_target"]) / 2)
    assert made["assd_source"] == 0
    assert made["assd_target"] > 0
    assert real["s_score_target"] > 0.95  # the label is bright in tumour images, and nothing in the source's
    assert real["s_score_source"] < 0.5
    assert scores["segmented"]["dice_target"] > 0.95
    assert "dice_source" not in scores["segmented"]
    units = scores["per_unit"]["generated"]
    assert set(units) == {"volume ct0", "volume ct1", "volume mr0", "volume mr1"}
    of_units = [one["s_score_target"] for one in units.values() if "s_score_target" in one]
    assert made["s_score_target"] == pytest.approx(np.mean(of_units))
    (line,) = [text for text in said if text.startswith("test:")]
    assert f"S-score ct to mr {made['s_score_target']:.3f} (real {real['s_score_target']:.3f}), mr to ct 1.000" in line
    assert "its segmentors mr" in line


def test_sifas_own_segmentation_of_the_target_is_scored_on_whole_volumes(tiles):
    """By a head that finds what is bright, as the labelled squares of the target are."""
    recipe = Recipe.model_validate({"method": {"name": "sifa", "width": 1 / 16}, "tiles": {"size": [64]}})
    method, said = build_method(recipe).eval(), []
    method._logits = lambda features, image: {"deep": torch.cat([-image, image], dim=1)}
    scores = score_held_out(task_of(method, tiles), method, DEVICE, said.append)["test"]
    assert scores["segmented"]["dice_target"] > 0.95
    assert scores["segmented"]["assd_target"] < 1
    assert set(scores["per_unit"]["segmented"]) == {"volume mr0", "volume mr1"}
    assert "dice_source" not in scores["segmented"]
    assert any(f"its segmentors mr {scores['segmented']['dice_target']:.3f}" in line for line in said)


def with_patients(tiles, count=8):
    """The set with so many patients in either domain."""
    tiles.index["patient"] = [f"{domain} {k % count}" for k, domain in enumerate(tiles.index["domain"])]
    return tiles


def of_patients(tiles, rows):
    return set(tiles.index["patient"].iloc[rows])


def test_what_judges_keep_nobody_else_is_trained_with_and_shares_are_of_the_rest(tmp_path):
    tiles = with_patients(write_domains(tmp_path, source=("train",) * 24 + ("val",), target=("train",) * 24 + ("val",)))
    recipe = Recipe.model_validate({"method": {"name": "cyclegan", "judge_share": 0.25}})
    task = task_of(Painter(), tiles)
    drawn = task.drawn(recipe)
    for name, rows in (("ct", drawn.rows), ("mr", drawn.target)):
        judged = segmentor_rows(tiles.of_domain(name), "judge", 0.25)
        kept = of_patients(tiles.of_domain(name), judged)
        assert len(kept) == 2
        assert len(of_patients(tiles, rows)) == 6
        assert not kept & of_patients(tiles, rows)
    other = segmentor_rows(tiles, "segmentor", 0.25)
    assert of_patients(tiles, other) == of_patients(tiles, drawn.target)
    few = recipe.model_copy(update={"training": recipe.training.model_copy(update={"shares": {"target": 0.14}})})
    assert len(of_patients(tiles, task.drawn(few).target)) == 1
    assert of_patients(tiles, task.drawn(few).target) < of_patients(tiles, drawn.target)
    np.testing.assert_array_equal(task.drawn(few).rows, drawn.rows)
