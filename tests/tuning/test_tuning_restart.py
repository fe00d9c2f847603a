"""Tune's own loop over trials that do nothing, which goes on after a driver that died between two of its files."""

import shutil

import pytest
from ray import tune

from metgan_dist.recipe import Recipe
from metgan_dist.tuning.search import build_searcher
from metgan_dist.tuning.space import search_space, tune_domains
from metgan_dist.tuning.sweep import _tune_settings
from metgan_dist.tuning.trial import Objective

RECIPE = Recipe.model_validate(
    {"tuning": {"trials": 3, "seed": 5, "space": {"method.alpha1": {"low": 0.1, "high": 10}}}}
)


class Died(Exception):
    """What ends a driver."""


class Watch(tune.Callback):
    """Tells the searcher of the trials, as the ledger does; keeps its state of one trial, and dies with the second."""

    def __init__(self, searcher, folder, dies):
        self.searcher, self.folder, self.dies, self.taken_up = searcher, folder, dies, False

    def on_step_begin(self, iteration, trials, **info):
        if not self.taken_up:
            self.searcher.take_up(trials)
            self.taken_up = True

    def on_step_end(self, iteration, trials, **info):
        kept = self.folder / "behind.pkl"
        if self.dies and len(trials) == 1 and not kept.exists():
            for state in (self.folder / "tune").glob("searcher-state-*.pkl"):
                shutil.copy(state, kept)
        if self.dies and len(trials) == 2 and kept.exists():
            raise Died


def values(analysis):
    return [trial.config["method.alpha1"] for trial in analysis.trials]


def sweep(folder, dies=False, resume=None):
    space = search_space(RECIPE)
    searcher = build_searcher(RECIPE, space, (Objective("mae", "min"),), at_once=1)

    def trained(config):
        return {"validation/mae": config["method.alpha1"]}

    with _tune_settings(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNE_GLOBAL_CHECKPOINT_S", "0")  # each step is written down
        return tune.run(
            tune.with_resources(trained, {"cpu": 0.1}),
            name="tune",
            config=tune_domains(space),
            num_samples=3,
            search_alg=searcher,
            callbacks=[Watch(searcher, folder, dies)],
            storage_path=str(folder),
            resume=resume,
            raise_on_failed_trial=False,
            verbose=0,
        )


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_it_goes_on_with_a_searcher_that_has_not_heard_of_a_trial(tmp_path):
    whole = sweep(tmp_path / "whole")
    broken = tmp_path / "broken"
    with pytest.raises(Died):
        sweep(broken, dies=True)
    for state in (broken / "tune").glob("searcher-state-*.pkl"):
        shutil.copy(broken / "behind.pkl", state)
    again = sweep(broken, resume="AUTO+ERRORED")
    assert [trial.status for trial in again.trials] == ["TERMINATED"] * 3
    assert sorted(values(again)) == sorted(values(whole))
