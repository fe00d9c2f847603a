"""A trial as Tune sees it, with a training that only reports."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from metgan_dist.cluster.resources import ResourcePlan
from metgan_dist.errors import TrainingStopped
from metgan_dist.recipe import Recipe
from metgan_dist.tracking import nested_runs, start_run
from metgan_dist.training.assignment import Assignment
from metgan_dist.training.choice import NO_SCORE
from metgan_dist.training.launch import Trained
from metgan_dist.training.review import Review, open_desk
from metgan_dist.tuning import trial as module
from metgan_dist.tuning.child_run import child_of
from metgan_dist.tuning.trial import Objective, Pointer, Sweep, Trial

PLAN = ResourcePlan(1, 0.5, 0.0, 0.5, 1.0, 0.0, True, True)
MAE = Objective("mae", "min")


def row(images, mae=0.2, loss=0.5):
    return {"images": images, "validation/mae": mae, "discriminator_loss": loss, "checkpoint": f"ckpt-{images}"}


@pytest.fixture(scope="module")
def sweep(ray_cluster, tmp_path_factory):
    """A sweep with an MLflow run in SQLite."""
    folder = tmp_path_factory.mktemp("sweep")
    recipe = Recipe.model_validate({"tracking": {"patience": 5}, "tuning": {"collapse_loss": 0.01}})
    uri = f"sqlite:///{folder}/mlflow.db"
    parent = start_run(uri, recipe.tracking, "sweep", {"job": "tune_loss_weights"})
    base = Assignment("trial", recipe, "tiles", str(folder), PLAN, uri, parent, str(folder / "spool"))
    return Sweep("sweep", base, (MAE,), open_desk())


@pytest.fixture
def begin(sweep, monkeypatch):
    """Starts a trial whose training is `work(assignment)`; what it was assigned is kept in `assigned`."""
    assigned = []

    def start(work, name="trial-001", point=None, earlier=None):
        def train(assignment, report):
            assigned.append(assignment)
            return work(assignment)

        monkeypatch.setattr(module, "run_training", train)
        made = Trial.__new__(Trial)
        made._trial_info = SimpleNamespace(trial_name=name)
        made.setup(point or {"method.alpha1": 2.0}, sweep)
        if earlier is not None:
            made.load_checkpoint(earlier)
        return made

    start.assigned = assigned
    return start


def reports(*rows):
    """A training that reports these rows until it is told to end."""

    def work(assignment):
        for each in rows:
            if not assignment.review.goes_on(dict(each)):
                break
        return Trained("best", "last", 0.2, each["images"])

    return work


def test_steps_are_the_trainings_reports_and_then_done(begin):
    trial = begin(reports(row(10), row(20)))
    assert [trial.step()["images"], trial.step()["images"]] == [10, 20]
    last = trial.step()
    assert last["done"]
    assert last["images"] == 20
    assert begin.assigned[0].recipe.method.alpha1 == 2.0


def test_a_training_waits_for_the_verdict_and_ends_by_itself(begin):
    seen = []

    def work(assignment):
        for images in (10, 20, 30):
            seen.append(images)
            if not assignment.review.goes_on(row(images)):
                return Trained("best", "last", 0.2, images)
        return None

    trial = begin(work)
    trial.step()
    trial.step()
    trial.cleanup()
    assert seen == [10, 20]
    assert begin.assigned[0].review.ended


def test_a_training_whose_worker_was_lost_while_it_waited_still_hears_the_verdict(sweep):
    review = Review(sweep.desk, "trial-005")
    lost = sweep.desk.report.remote(review.key, row(10))
    assert review.next_row(10)["images"] == 10
    review.answer(False)
    assert ray.get(lost) is False  # nobody is there to hear it
    assert review.goes_on(row(20)) is False


def test_low_discriminators_are_counted_in_a_row(begin):
    trial = begin(reports(*(row(10 * k, loss=loss) for k, loss in enumerate([0.001, 0.5, 0.001, 0.001, 0.001], 1))))
    assert [trial.step()["low_reports"] for _ in range(5)] == [1, 0, 1, 2, 3]
    trial.cleanup()


def test_the_count_survives_a_restart(begin):
    first = begin(reports(row(10, loss=0.001)))
    first.step()
    pointer = first.save_checkpoint("")
    first.cleanup()
    again = begin(reports(row(20, loss=0.001)), earlier=json.loads(json.dumps(pointer)))
    assert again.step()["low_reports"] == 2
    again.cleanup()
    assert begin.assigned[0].role == begin.assigned[1].role


def test_a_training_that_stops_itself_ends_the_trial_with_its_reason(begin):
    def work(assignment):
        assignment.review.goes_on(row(10))
        raise TrainingStopped("step 3: generators: pair is not finite", 14)

    trial = begin(work)
    trial.step()
    last = trial.step()
    assert last["done"]
    assert last["stopped"] == "step 3: generators: pair is not finite"
    assert last["images"] == 14
    assert last["validation/mae"] == NO_SCORE


def test_other_errors_are_raised_for_tune_to_try_again(begin):
    def work(assignment):
        raise ConnectionError("lost")

    with pytest.raises(ConnectionError, match="lost"):
        begin(work).step()


def test_a_training_that_had_finished_reports_its_last_scores_once(begin):
    def work(assignment):
        return Trained("best", "last", 0.2, 40, last_scores={"validation/mae": 0.21})

    trial = begin(work)
    first, second = trial.step(), trial.step()
    assert (first["images"], first["validation/mae"], first.get("done")) == (40, 0.21, None)
    assert second["done"]


def test_a_trial_that_takes_over_begins_from_the_others_checkpoint_under_a_name_of_its_own(begin, sweep, tmp_path):
    donor = tmp_path / "images-000000030"
    donor.mkdir()
    (donor / "meta.json").write_text("{}")
    pointer = Pointer("trial-009", "trial-009-abcdef", str(donor), 30, 0, 0)
    trial = begin(reports(row(40)), earlier=vars(pointer))
    taken = trial.step()
    trial.cleanup()
    assert taken["began"] == 30
    assert begin.assigned[0].start_from == str(donor)
    assert begin.assigned[0].role not in ("trial-009-abcdef", "trial-001-abcdef")


def test_a_checkpoint_that_is_gone_gives_way_to_a_later_one(sweep):
    folder = f"{sweep.assignment.run_folder}/train/trial-008-abcdef"
    later = Path(folder, "images-000000050")
    later.mkdir(parents=True)
    (later / "meta.json").write_text("{}")
    gone = Pointer("trial-008", "trial-008-abcdef", f"{folder}/images-000000030", 30, 0, 0)
    assert module._still_there(sweep, gone) == str(later)


def test_a_trial_has_one_mlflow_run_however_often_it_starts(begin, sweep):
    for _ in range(2):
        trial = begin(reports(row(10)), name="trial-007")
        trial.step()
        trial.cleanup()
    base = sweep.assignment
    mine = [run for run in nested_runs(base.tracking_uri, base.mlflow_run_id) if run.tags.get("trial") == "trial-007"]
    assert len(mine) == 1
    assert child_of(base.tracking_uri, base.mlflow_run_id, "trial-007") == mine[0].id == begin.assigned[0].mlflow_run_id


def test_what_a_dead_training_held_is_given_back(sweep):
    room = ray.util.placement_group([{"CPU": 0.1}])
    ray.get(room.ready(), timeout=60)
    ray.get(sweep.desk.enter.remote("trial-006", room))
    Review(sweep.desk, "trial-006").clear()
    Review(sweep.desk, "trial-006").clear()  # nothing left: no error
    state = ray.util.placement_group_table(room).get("state", "REMOVED")
    assert state == "REMOVED"
