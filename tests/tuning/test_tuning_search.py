"""Which trials go on: ASHA by images, but never against the recipe's own values, and with its memory kept."""

import importlib.util
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import FIFOScheduler, PopulationBasedTraining, TrialScheduler

from metgan_dist.errors import UserError
from metgan_dist.recipe import Recipe
from metgan_dist.tuning.search import (
    build_scheduler,
    build_searcher,
    check_search,
    halving_state,
    restore_halving,
    trial_name,
)
from metgan_dist.tuning.space import point_of, search_space
from metgan_dist.tuning.trial import Objective

MAE = Objective("mae", "min")


class FakeTrial:
    def __init__(self, number):
        self.name = self.trial_id = f"trial-{number:03d}"

    def __str__(self):
        return self.name


def recipe(**tuning):
    return Recipe.model_validate({"tuning": tuning})


def halving(total=900, every=100, **tuning):
    made = recipe(scheduler="asha", **tuning)
    return build_scheduler(made, search_space(made), MAE, total, every)


def verdict(scheduler, trial, images, mae):
    if trial.trial_id not in scheduler._trial_info:
        scheduler.on_trial_add(None, trial)
    return scheduler.on_trial_result(None, trial, {"images": images, "validation/mae": mae})


def test_a_trial_worse_than_most_is_stopped_at_its_first_report():
    scheduler = halving()
    for number, mae in ((2, 0.1), (3, 0.2), (4, 0.15)):
        verdict(scheduler, FakeTrial(number), 100, mae)
    assert verdict(scheduler, FakeTrial(5), 100, 0.5) == TrialScheduler.STOP
    assert verdict(scheduler, FakeTrial(6), 100, 0.05) == TrialScheduler.CONTINUE


def test_the_recipes_own_values_run_to_their_end_however_bad():
    scheduler = halving()
    for number, mae in ((2, 0.1), (3, 0.2), (4, 0.15)):
        verdict(scheduler, FakeTrial(number), 100, mae)
    assert verdict(scheduler, FakeTrial(1), 100, 0.9) == TrialScheduler.CONTINUE


@pytest.mark.parametrize(("total", "every"), [(900, 100), (36, 12), (1000, 112)])
def test_a_trial_that_reached_its_last_report_is_not_stopped_there(total, every):
    scheduler = halving(total, every)
    for number in range(2, 12):
        trial = FakeTrial(number)
        for images in (*range(every, total, every), total):
            last = verdict(scheduler, trial, images, 0.1 * number)
            if images < total and last == TrialScheduler.STOP:
                break
        else:
            assert last == TrialScheduler.CONTINUE


def test_a_sweep_that_is_started_again_knows_what_it_has_seen():
    before, after = halving(), halving()
    for number, mae in ((2, 0.1), (3, 0.2), (4, 0.15)):
        verdict(before, FakeTrial(number), 100, mae)
    restore_halving(after, halving_state(before))
    assert verdict(after, FakeTrial(5), 100, 0.5) == TrialScheduler.STOP
    assert verdict(halving(), FakeTrial(5), 100, 0.5) == TrialScheduler.CONTINUE


def test_other_schedulers_have_no_memory_to_keep():
    plain = recipe(scheduler="none")
    scheduler = build_scheduler(plain, search_space(plain), MAE, 900, 100)
    assert isinstance(scheduler, FIFOScheduler)
    assert halving_state(scheduler) is None
    population = recipe(scheduler="pbt", search="random")
    scheduler = build_scheduler(population, search_space(population), MAE, 900, 100)
    assert isinstance(scheduler, PopulationBasedTraining)
    assert halving_state(scheduler) is None


def population():
    """PBT over a weight and a list, and its four trials with a report each, the first of which is the worst."""
    space = {"method.alpha1": {"low": 0.1, "high": 10}, "method.backbone": ["metgen", "unet-256", "resnet-9"]}
    made = recipe(scheduler="pbt", search="random", space=space)
    scheduler = build_scheduler(made, search_space(made), MAE, 900, 100)
    trials = [FakeTrial(number) for number in range(1, 5)]
    for trial in trials:
        trial.config = point_of(made, search_space(made))
        trial.is_finished = lambda: False
        scheduler._trial_state[trial] = SimpleNamespace(last_score=-1.0 if trial is trials[0] else 0.0)
    return scheduler, trials


def test_values_that_pbt_changes_stay_in_the_space():
    scheduler, (_, donor, *_) = population()
    for _ in range(50):
        changed, _ = scheduler._get_new_config(donor, donor)
        assert 0.1 <= changed["method.alpha1"] <= 10
        assert changed["method.backbone"] in ("metgen", "unet-256", "resnet-9")


def test_the_recipes_own_values_are_not_given_up_for_others_however_bad():
    scheduler, trials = population()
    worst, best = scheduler._quantiles()
    assert trials[0] not in worst
    assert best


@pytest.mark.parametrize("search", ["random", "optuna", "pareto"])
def test_the_first_point_is_the_recipes_own(search):
    made = recipe(search=search, scheduler="none", trials=4)
    space = search_space(made)
    objectives = (MAE, Objective("label_fidelity", "max"))[: 2 if search == "pareto" else 1]
    searcher = build_searcher(made, space, objectives, at_once=2)
    if search == "random":
        assert searcher._points_to_evaluate == [point_of(made, space)]
        return
    from metgan_dist.tuning.space import tune_domains

    searcher.set_search_properties(None, None, tune_domains(space))
    assert searcher.searcher.suggest("a") == pytest.approx(point_of(made, space))
    drawn = searcher.searcher.suggest("b")
    assert drawn != pytest.approx(point_of(made, space))
    assert all(space[field].low <= value <= space[field].high for field, value in drawn.items())


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_a_sweep_that_is_started_again_runs_as_many_at_once_as_it_now_may(search):
    made = recipe(search=search)
    before, after = (build_searcher(made, search_space(made), (MAE,), at_once) for at_once in (8, 2))
    if search == "optuna":
        before, after = before.searcher, after.searcher
    after.set_state(before.get_state())
    assert after.max_concurrent == 2


def test_without_optuna_random_still_works(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_search(recipe(search="random"))
    with pytest.raises(UserError, match=r"tuning\.search: optuna needs the package optuna"):
        check_search(recipe(search="optuna"))


@pytest.mark.parametrize(("first", "tag", "name"), [(0, "0_a=1", "trial-001"), (1, "12_a=1", "trial-012")])
def test_trials_are_numbered_as_they_are_made(first, tag, name):
    assert trial_name(first, SimpleNamespace(experiment_tag=tag)) == name
