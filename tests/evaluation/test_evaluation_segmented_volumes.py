"""A trained segmentor on whole test volumes, as they are or through a translator: by patient, and with their spread."""

import numpy as np
import pandas as pd
import pytest
import torch
from open_runs import Kept
from untrained import write_untrained

from metgan_dist.cluster.resources import ResourcePlan
from metgan_dist.errors import UserError
from metgan_dist.evaluation import segmented_volumes
from metgan_dist.evaluation.segmented_volumes import check_segmented, score_segmented
from metgan_dist.recipe import Recipe
from metgan_dist.runs.job import Result
from metgan_dist.runs.open_run import resolved
from metgan_dist.runs.run_folder import Run
from metgan_dist.scores.spread import Spread
from metgan_dist.tasks.joined import WholeScores
from metgan_dist.tasks.seen_through import Translator, find_through
from metgan_dist.trained import load_method

PLAN = ResourcePlan(1, 1, 0, 1, 4, 0)
DEVICE = torch.device("cpu")


@pytest.fixture
def translator(tiles, tmp_path):
    """A CycleGAN between the domains of the tiles, untrained."""
    data = {name: value for name, value in tiles.manifest["data"].items() if value is not None}
    method = {"name": "cyclegan", "width": 1 / 16, "segmentor_width": 1 / 16}
    (tmp_path / "translator").mkdir()
    recipe = Recipe.model_validate({"data": data, "method": method, "tiles": {"size": [64]}})
    return write_untrained(tmp_path / "translator/a", recipe)


@pytest.fixture
def asked(monkeypatch):
    """The models of which it was asked whether they have seen a test tile."""
    found = {}
    monkeypatch.setattr(
        segmented_volumes, "check_start", lambda field, tiles, start, store: found.update({field: start})
    )
    return found


def recipe_of(tiles, **segmentation):
    tree = {"data": {"path": tiles.uri}, "segmentation": segmentation, "scaling": {"workers": 0}}
    return resolved(Recipe.model_validate(tree))


def scored(recipe, tmp_path):
    opened = Kept(recipe, Run("scored", str(tmp_path / "out"), "segment_volumes", False, "0a", {}), PLAN, "", Result())
    check_segmented(recipe)
    score_segmented(opened)
    return opened.result.scores["test"], (tmp_path / "out/report.md").read_text()


@pytest.mark.parametrize("through", [False, True])
def test_each_patient_counts_once_and_both_models_are_looked_into(
    tiles, translator, checkpoint, asked, tmp_path, through
):
    segmentor = checkpoint("segmentor")
    models = {"segmentor": segmentor} | ({"translator": translator} if through else {})
    scores, report = scored(recipe_of(tiles, **models), tmp_path)
    assert {field: start["uri"] for field, start in asked.items()} == {
        f"segmentation.{field}": uri for field, uri in models.items()
    }
    assert set(scores["per_unit"]["segmented"]) == {f"patient mr {k}" for k in range(3)}
    own = tiles.of_domain("mr")
    sight = Translator(load_method(translator)[0], (64, 64), back=True) if through else None
    find = find_through(load_method(segmentor)[0], sight)
    whole = WholeScores.of(own, own.positions("test"), find, DEVICE)
    expected = whole.summary("dice", "target")
    assert {name: scores["segmented"][name] for name in expected} == pytest.approx(expected)
    assert scores["segmented"]["dice_target/class 1"] == pytest.approx(expected["dice_target"])
    dice = whole.by_unit()["dice"]
    assert Spread.of(dice).text(2) in report
    assert ("translated by cyclegan" in report) is through
    units = pd.read_csv(tmp_path / "out/volumes.csv")
    assert units[units["score"] == "dice_target"]["value"].mean() == pytest.approx(np.mean(dice))


def test_the_source_is_segmented_where_the_recipe_says_so(tiles, checkpoint, asked, tmp_path):
    scores, _ = scored(recipe_of(tiles, segmentor=checkpoint("segmentor"), domain="ct"), tmp_path)
    assert "dice_source" in scores["segmented"]
    assert set(scores["per_unit"]["segmented"]) == {f"patient ct {k}" for k in range(3)}


def test_a_model_that_has_seen_a_test_tile_is_refused(tiles, checkpoint, monkeypatch, tmp_path):
    def seen(field, *_):
        raise UserError(f"{field}: show test tiles")

    monkeypatch.setattr(segmented_volumes, "check_start", seen)
    with pytest.raises(UserError, match=r"^segmentation\.segmentor: show test tiles"):
        scored(recipe_of(tiles, segmentor=checkpoint("segmentor")), tmp_path)


def test_volumes_that_nobody_has_cut_are_a_line(checkpoint):
    recipe = Recipe.model_validate({"segmentation": {"segmentor": checkpoint("segmentor")}})
    with pytest.raises(UserError, match=r"^data\.path: no tiles here"):
        check_segmented(recipe)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, r"^segmentation\.segmentor: none given"),
        ({"segmentor": "cyclegan"}, r"^segmentation\.segmentor: .* a model of cyclegan; name a segmentor"),
        ({"segmentor": "/nowhere"}, r"^segmentation\.segmentor: .*no checkpoint here"),
        ({"segmentor": "segmentor", "translator": "segmentor"}, r"^segmentation\.translator: .* name a translator"),
        ({"segmentor": "segmentor", "domain": "pet"}, r"^segmentation\.domain: 'pet' is no domain"),
        (
            {"segmentor": "segmentor", "translator": "others"},
            r"^segmentation\.translator: .* a and b, not 'mr'",
        ),
        ({"segmentor": "segmentor", "translator": "wide"}, r"^segmentation\.translator: .* normalised otherwise"),
    ],
)
def test_what_does_not_fit_is_a_line(tiles, checkpoint, asked, tmp_path, fields, said):
    method = {"name": "cyclegan", "width": 1 / 16}

    def other(name, **sections):
        return write_untrained(tmp_path / name, Recipe.model_validate({"method": method, **sections}))

    domains = {"domains": {"a": {"channels": "a"}, "b": {"channels": "b"}}, "source": "a", "target": "b"}
    made = {
        "segmentor": lambda: checkpoint("segmentor"),
        "cyclegan": lambda: checkpoint("cyclegan"),
        "others": lambda: other("others", data={**domains, "anatomy": "a", "tumour": "b"}, tiles={"size": [64]}),
        "wide": lambda: other("wide", tiles={"size": [64], "percentiles": [5, 95]}),
    }
    given = {field: made[name]() if name in made else name for field, name in fields.items()}
    with pytest.raises(UserError, match=said) as caught:
        scored(recipe_of(tiles, **given), tmp_path)
    assert "\n" not in str(caught.value)
