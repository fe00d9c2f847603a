"""What the ledger makes of what Tune tells it, and that it survives a restart."""

import json
from types import SimpleNamespace

import pytest

from metgan_dist.recipe import Recipe
from metgan_dist.tuning import ledger as module
from metgan_dist.tuning.ledger import Ledger
from metgan_dist.tuning.search import build_scheduler
from metgan_dist.tuning.space import search_space
from metgan_dist.tuning.trial import Objective

MAE = Objective("mae", "min")


class FakeTrial:
    def __init__(self, name, config):
        self.name = self.trial_id = name
        self.config, self.status = config, "RUNNING"

    def __str__(self):
        return self.name

    def get_error(self):
        return "Traceback\n  File x\nray.exceptions.ActorDiedError: gone"


@pytest.fixture
def opened(monkeypatch):
    """A ledger over 900 images, the lines that it says, and the MLflow runs that it ends."""
    recipe = Recipe.model_validate({"tuning": {"collapse_reports": 2}})
    scheduler = build_scheduler(recipe, search_space(recipe), MAE, 900, 100)
    lines, ended = [], []
    assignment = SimpleNamespace(recipe=recipe, tracking_uri="sqlite://", mlflow_run_id="parent", spool="spool")
    monkeypatch.setattr(Ledger, "_end_child", lambda self, record: ended.append((record.name, record.outcome)))
    monkeypatch.setattr(module.Review, "clear", lambda self: lines.append(f"freed {self.subject}"))
    searcher = SimpleNamespace(take_up=lambda trials: lines.append(f"searcher: {len(trials)} trials"))

    def make():
        scheduler.__dict__.update(build_scheduler(recipe, search_space(recipe), MAE, 900, 100).__dict__)
        return Ledger(assignment, (MAE,), searcher, scheduler, 900, None, lines.append)

    return make, lines, ended


REPORT = {"began": 0, "role": "r", "seconds": 1.0, "low_reports": 0, "pid": 1}


def tell(ledger, trial, images, mae=0.2, **more):
    ledger.on_trial_result(1, [trial], trial, {**REPORT, "images": images, "validation/mae": mae, **more})


@pytest.mark.parametrize(
    ("reports", "outcome", "reason"),
    [
        ([{"images": 900}], "whole", ""),
        ([{"images": 100}], "stopped", "asha at 100 of 900 images"),
        ([{"images": 100, "stopped_early": 1.0}], "stopped", "no better within training.patience, at 100 of 900"),
        ([{"images": 300, "low_reports": 2}], "failed", "discriminator collapsed (loss below 0.002 in 2 reports)"),
        (
            [{"images": 100}, {"images": 130, "stopped": "pair is not finite", "mae": 1e30}],
            "failed",
            "pair is not finite",
        ),
        ([], "failed", "ended without a report"),
    ],
)
def test_each_end_is_recorded_with_its_reason(opened, reports, outcome, reason):
    make, lines, ended = opened
    trial = FakeTrial("trial-002", {"method.alpha1": 3.0})
    with make() as ledger:
        ledger.on_trial_start(0, [trial], trial)
        for report in reports:
            tell(ledger, trial, **report)
        ledger.on_trial_complete(2, [trial], trial)
    record = ledger.records["trial-002"]
    assert record.outcome == outcome
    assert reason in record.reason
    assert (reason == "") == (record.reason == "")
    assert ended == [("trial-002", outcome)]
    assert any(line.startswith("trial-002: ") and reason in line for line in lines[1:])
    if outcome == "failed" and reports:
        assert record.score(MAE) is None or "collapsed" in reason


def test_a_trial_whose_actor_died_for_good_frees_what_it_held(opened):
    make, lines, _ = opened
    trial = FakeTrial("trial-003", {})
    with make() as ledger:
        ledger.on_trial_error(1, [trial], trial)
    assert "freed trial-003" in lines
    assert ledger.records["trial-003"].reason == "ray.exceptions.ActorDiedError: gone"


def test_a_report_that_comes_twice_counts_once(opened):
    make, _, _ = opened
    trial = FakeTrial("trial-002", {})
    with make() as ledger:
        tell(ledger, trial, 100, 0.3)
        tell(ledger, trial, 100, 0.3)
        tell(ledger, trial, 200, 0.25)
    assert [row["images"] for row in ledger.records["trial-002"].rows] == [100, 200]


def test_a_sweep_that_is_started_again_has_its_records_and_ends_what_was_left(opened):
    make, lines, ended = opened
    done, running = FakeTrial("trial-001", {"method.alpha1": 1.0}), FakeTrial("trial-002", {"method.alpha1": 2.0})
    ledger = make()
    for trial in (done, running):
        ledger.on_trial_start(0, [], trial)
        tell(ledger, trial, 900 if trial is done else 300)
    ledger.on_trial_complete(1, [], done)
    state = ledger.get_state()
    ledger.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert ("trial-002", "running") in ended  # stopped with the sweep
    ended.clear()
    with make() as again:
        again.set_state(state)
        again.on_trial_start(0, [], running)
    assert ended == [("trial-001", "whole")]
    assert again.records["trial-002"].rows == ledger.records["trial-002"].rows
    assert lines[-1].startswith("trial-002: goes on with")
    json.dumps(state["records"])  # nothing but plain values


def test_an_end_that_the_killed_driver_had_not_noted_is_noted_by_the_next(opened):
    make, lines, ended = opened
    done, running = FakeTrial("trial-002", {"method.alpha1": 1.0}), FakeTrial("trial-003", {"method.alpha1": 2.0})
    ledger = make()
    for trial in (done, running):
        ledger.on_trial_start(0, [], trial)
        tell(ledger, trial, 300, 0.3)
    state = ledger.get_state()
    done.status, done.last_result = "TERMINATED", {**REPORT, "images": 900, "validation/mae": 0.1}
    with make() as again:
        again.set_state(state)
        for trial in (done, running):
            again._scheduler.on_trial_add(None, trial)
        lines.clear()
        again.on_step_begin(0, [done, running])
        again.on_step_begin(1, [done, running])
    assert [line.partition(",")[0] for line in lines] == ["searcher: 2 trials", "trial-002: done (mae 0.1000)"]
    assert [row["images"] for row in again.records["trial-002"].rows] == [300, 900]
    assert again.records["trial-003"].outcome == "running"
    assert ended == [("trial-002", "whole")]
    # ASHA has its score, too: what is worse at as many images does not go on.
    late = FakeTrial("trial-004", {})
    again._scheduler.on_trial_add(None, late)
    worse = {"images": 800, "validation/mae": 0.2}
    assert again._scheduler.on_trial_result(None, late, worse) == "STOP"
