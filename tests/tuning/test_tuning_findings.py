"""What a sweep's trials say together, from records that no training made."""

import pytest
import yaml
from tuning_records import TOTAL, trial

from metgan_dist.recipe import Recipe
from metgan_dist.tuning.trial import Objective

BOTH = (Objective("mae", "min"), Objective("label_fidelity", "max"))


def test_only_whole_trials_are_ranked_whatever_a_stopped_one_had(findings):
    found = findings(trial(1, 0.3), trial(2, 0.2), trial(3, 0.1, images=300))
    assert [record.name for record in found.ranked] == ["trial-002", "trial-001"]
    assert found.own.name == "trial-001"


def test_higher_is_better_for_fidelity(findings):
    found = findings(trial(1, 0.3, 0.2), trial(2, 0.2, 0.6), objectives=BOTH[1:])
    assert [record.name for record in found.ranked] == ["trial-002", "trial-001"]


def test_the_front_holds_what_no_other_beats_in_both(findings):
    found = findings(
        trial(1, 0.30, 0.90), trial(2, 0.10, 0.10), trial(3, 0.15, 0.80), trial(4, 0.31, 0.80), trial(5, 0.15, 0.79),
        objectives=BOTH, search="pareto", scheduler="none",
    )  # fmt: skip
    assert {record.name for record in found.front} == {"trial-001", "trial-002", "trial-003"}
    assert found.ranked[0].name == "trial-003"  # nearest to the best of both
    assert found.ranked[-1].name in {"trial-004", "trial-005"}


def test_equal_trials_share_the_front(findings):
    found = findings(trial(1, 0.2, 0.5), trial(2, 0.2, 0.5), objectives=BOTH, search="pareto", scheduler="none")
    assert len(found.front) == 2


def test_what_was_saved_is_counted_in_images(findings):
    found = findings(trial(1, 0.3), trial(2, 0.2, images=100), trial(3, 0.2, images=200))
    assert (found.images, found.images_in_full) == (1200, 3 * TOTAL)
    assert found.ratio == pytest.approx(1200 / 2700)
    assert found.seconds == pytest.approx(120)
    assert found.seconds_in_full == pytest.approx(270)


def test_images_taken_over_from_another_trial_are_not_counted_twice():
    taken = trial(2, 0.2, images=300)
    for images in (400, 500):
        taken.rows.append({**taken.rows[-1], "role": "trial-002-other", "began": 200, "images": images})
    assert taken.processed == 300 + (500 - 200)


def test_the_field_that_matters_is_the_important_one(findings):
    records = [trial(k + 1, 0.1 + 0.02 * k, alpha1=0.1 * 1.5**k) for k in range(10)]
    for k, record in enumerate(records):
        record.point["method.alpha2"] = 10.0 + (k * 7) % 5
    importance = findings(*records).importance(BOTH[0])
    assert max(importance, key=importance.get) == "method.alpha1"
    assert sum(importance.values()) == pytest.approx(1)


def test_too_few_trials_have_no_importance(findings):
    assert findings(trial(1, 0.1), trial(2, 0.2)).importance(BOTH[0]) == {}


def test_the_best_recipe_is_a_whole_recipe_under_no_name(findings):
    found = findings(trial(1, 0.3), trial(2, 0.2, alpha1=4.2))
    text = found.best_recipe(found.ranked[0]).to_yaml()
    recipe = Recipe.model_validate(yaml.safe_load(text))
    assert recipe.method.alpha1 == 4.2
    assert recipe.tracking.run is None
    assert recipe.training == found.recipe.training
