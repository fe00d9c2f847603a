"""A driver that dies leaves Tune's trials and the state of the searcher, written one after the other: both go on."""

from types import SimpleNamespace

import pytest
from ray.tune.experiment import Experiment
from ray.tune.search.sample import Domain

from metgan_dist.recipe import Recipe
from metgan_dist.tuning.search import build_searcher
from metgan_dist.tuning.space import search_space, tune_domains
from metgan_dist.tuning.trial import Objective

MAE = Objective("mae", "min")
NUMBER = 6  # of trials in a sweep


class Sweep:
    """A searcher, and the trials that Tune has made of what it says."""

    def __init__(self, search, monkeypatch):
        recipe = Recipe.model_validate({"tuning": {"search": search, "trials": NUMBER, "seed": 5}})
        space = search_space(recipe)
        self.searcher, self.trials, self.fields = build_searcher(recipe, space, (MAE,), 2), [], list(space)
        config = tune_domains(space)
        self.searcher.set_search_properties(None, None, config)
        # Trials are made of what is drawn, without Tune's folders.
        module = f"ray.tune.search.{'basic_variant' if search == 'random' else 'search_generator'}"
        monkeypatch.setattr(f"{module}._create_trial_from_spec", pretended_trial)
        self.experiment = Experiment.__new__(Experiment)
        self.experiment.spec = {"run": "nothing", "config": config, "num_samples": NUMBER}

    def begin(self):
        self.searcher.add_configurations([self.experiment])
        self.searcher.take_up([])
        return self

    def go_on(self, folder, trials):
        """With what a killed driver left: the state of the searcher, and trials."""
        self.searcher.restore_from_dir(str(folder))
        self.trials = trials
        self.searcher.take_up(trials)
        return self

    def make(self):
        trial = self.searcher.next_trial()
        if trial is not None:
            self.trials.append(trial)
        return trial

    def end(self, trial, mae=0.2):
        trial.status, trial.last_result = "TERMINATED", {"validation/mae": mae, "training_iteration": 3}
        self.searcher.on_trial_complete(trial.trial_id, dict(trial.last_result))

    def keep(self, folder):
        folder.mkdir(exist_ok=True)
        self.searcher.save_to_dir(str(folder), "session")

    def values(self):
        return [tuple(trial.config[field] for field in self.fields) for trial in self.trials]

    def to_the_end(self):
        """All values, each trial having ended before two more are made."""
        while not self.searcher.is_finished():
            while self.make() is not None:
                pass
            for trial in self.trials:
                if not trial.is_finished():
                    self.end(trial)
        return self.values()


def pretended_trial(spec, parser, evaluated_params, trial_id, experiment_tag):
    config = spec["config"]
    assert not any(isinstance(value, Domain) for value in config.values())
    trial = SimpleNamespace(
        trial_id=trial_id, experiment_tag=experiment_tag, config=config, status="PENDING", last_result={}
    )
    trial.is_finished = lambda: trial.status in ("TERMINATED", "ERROR")
    return trial


@pytest.fixture(params=["optuna", "random"])
def sweep(request, monkeypatch):
    """A sweep that has not begun; a further one with each call."""
    return lambda: Sweep(request.param, monkeypatch)


def test_a_searcher_one_suggestion_behind_is_told_of_the_trial_that_it_did_not_know(sweep, tmp_path):
    whole = sweep().begin().to_the_end()
    killed = sweep().begin()
    first = killed.make()
    killed.keep(tmp_path)
    killed.make()
    killed.end(first)
    after = sweep().go_on(tmp_path, killed.trials)
    after.end(after.trials[1])  # of which Optuna knew nothing
    assert after.to_the_end() == whole  # none lost, none twice
    assert len(set(whole)) == NUMBER


def test_a_searcher_that_is_ahead_of_the_trials_suggests_the_same_once_more(sweep, tmp_path):
    whole = sweep().begin().to_the_end()
    killed = sweep().begin()
    killed.make()
    killed.make()
    killed.keep(tmp_path)
    after = sweep().go_on(tmp_path, killed.trials[:1])
    assert after.to_the_end() == whole


def test_a_searcher_that_was_finished_gives_the_last_trial_where_it_is_lost(sweep, tmp_path):
    killed = sweep().begin()
    whole = killed.to_the_end()
    killed.keep(tmp_path)
    trials = killed.trials[:-1]
    after = sweep()
    after.searcher.restore_from_dir(str(tmp_path))
    assert not after.searcher.is_finished()  # else Tune would not begin
    after = after.go_on(tmp_path, trials)
    assert len(after.to_the_end()) == NUMBER
    assert after.values()[:-1] == whole[:-1]


def test_as_many_trials_run_at_once_as_have_not_ended(sweep, tmp_path):
    killed = sweep().begin()
    for trial in (killed.make(), killed.make()):
        killed.keep(tmp_path)  # the state that knows two running ones
        trial.status, trial.last_result = "TERMINATED", {"validation/mae": 0.3, "training_iteration": 3}
    after = sweep().go_on(tmp_path, killed.trials)
    assert [after.make() is not None for _ in range(3)] == [True, True, False]


def test_optuna_hears_of_ends_and_of_failures_that_are_tried_again(monkeypatch, tmp_path):
    killed = Sweep("optuna", monkeypatch).begin()
    ended, failed = killed.make(), killed.make()
    killed.searcher.on_trial_complete(failed.trial_id, error=True)
    killed.keep(tmp_path)
    ended.status, ended.last_result = "TERMINATED", {"validation/mae": 0.3, "training_iteration": 3}
    after = Sweep("optuna", monkeypatch).go_on(tmp_path, killed.trials)
    after.end(failed, mae=0.1)
    study = after.searcher.searcher.searcher._ot_study
    assert [(t.state.name, t.value) for t in study.trials if t.state.name != "FAIL"] == [
        ("COMPLETE", 0.3),
        ("COMPLETE", 0.1),
    ]
    assert study.best_params == {field: failed.config[field] for field in after.fields}
