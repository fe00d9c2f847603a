"""Training in the job's process is one of Ray's workers to the last bit, killed or not; each continues the other.

Stopped by a signal, either saves first, and goes on exactly there.
"""

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import torch
from alone import Killed, assignment, killed_at, same, state
from tile_sets import write_set

from metgan_dist.methods.metgan import MetGAN
from metgan_dist.recipe import Recipe, Scaling, Training
from metgan_dist.recipe.methods.metgan import MetGANRecipe
from metgan_dist.runs.children import termination_as_interrupt
from metgan_dist.tiles.brightness import mean_intensities
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.training.choice import NO_SCORE
from metgan_dist.training.launch import Checkpoints, _trained, run_training
from metgan_dist.training.snapshot import Snapshot, read_snapshot
from metgan_dist.training.step import Stepper
from metgan_dist.training.stopping import postponed_stop

TRAINING = Training(
    batch_size=2, epochs=100, max_steps=9, checkpoint_every=6, validate_every=8, validate_tiles=3, ema_half_life=8
)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("tiles")).uri


@pytest.fixture(scope="module")
def assigned(tiles, segmentors, tmp_path_factory):
    """Assigns the training to a run folder of its own, to Ray's workers or to this process."""
    folder = tmp_path_factory.mktemp("runs")

    def assign(name, here):
        recipe = Recipe(
            method=MetGANRecipe(width=0.05, segmentor_width=0.05),
            training=TRAINING,
            scaling=Scaling(workers=0 if here else 1),
        )
        own = {role: segmentors[f"method__{role}"] for role in ("segmentor", "judge")}
        return assignment(folder, name, recipe, tiles, **own)

    return assign


@pytest.fixture(autouse=True)
def heeded():
    """Ctrl-C is heard, also where the tests run in the background of a script and were started to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def signalled_at(monkeypatch, assignment, step, number):
    """In its step number `step` the training in this process gets a signal, and time to hear of it."""
    move, steps = Stepper.step, []

    def signalled(self, batches):
        steps.append(len(steps) + 1)
        if steps[-1] == step:
            signal.raise_signal(number)
            wait_until(assignment.asked_to_stop)
        return move(self, batches)

    monkeypatch.setattr(Stepper, "step", signalled)


def wait_until(true):
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(assigned):
    """The training in this process, whole."""
    return run_training(assigned("whole", here=True), print)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_saves_after_the_step_and_goes_on_exactly_there(number, undisturbed, assigned, monkeypatch, capsys):
    stopped = assigned(f"stopped-{number}", here=True)
    with monkeypatch.context() as patch, termination_as_interrupt():
        signalled_at(patch, stopped, 5, number)
        with pytest.raises(KeyboardInterrupt):
            run_training(stopped, print)
    assert "metgan: asked to stop; saving" in capsys.readouterr().out
    assert read_snapshot(stopped.folder, {}).latest.name == "images-000000010"
    assert not Path(stopped.folder, "trained.json").exists()
    continued = run_training(stopped, print)
    assert "metgan: continuing from 10 of 18 images" in capsys.readouterr().out
    assert same(state(continued), state(undisturbed))
    assert (continued.images, continued.score) == (undisturbed.images, undisturbed.score)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_of_ray_save_before_the_driver_is_interrupted(number, by_ray, assigned, capsys):
    stopped = assigned(f"stopped-by-ray-{number}", here=False)
    said = []

    def heard(line):
        said.append(line)
        if "validation at 8 images" in line:
            os.kill(os.getpid(), number)

    before = signal.getsignal(signal.SIGINT)
    with termination_as_interrupt(), pytest.raises(KeyboardInterrupt):
        run_training(stopped, heard)
    assert signal.getsignal(signal.SIGINT) == before
    saved = read_snapshot(stopped.folder, {}).latest.metrics["images"]
    assert 8 <= saved < 18
    assert f"metgan: saved at {saved} of 18 images, to go on from there" in said
    continued = run_training(stopped, print)
    assert f"metgan: continuing from {saved} of 18 images" in capsys.readouterr().out
    assert same(state(continued), state(by_ray))


def test_a_finished_training_goes_on_when_it_is_given_more_but_not_one_that_only_serves_another(assigned, capsys):
    short = assigned("longer", here=True)
    training = short.recipe.training.model_copy(update={"max_steps": 2})
    short = replace(short, recipe=short.recipe.model_copy(update={"training": training}))
    finished = run_training(short, print)
    assert run_training(short, print) == finished
    assert 0 < finished.resources["utilisation"] < 1
    training = training.model_copy(update={"max_steps": 3})
    longer = replace(short, recipe=short.recipe.model_copy(update={"training": training}))
    assert run_training(replace(longer, main=False), print) == finished
    capsys.readouterr()
    assert run_training(longer, print).images == 6
    assert "metgan: planned with 4 images, now 6, with the learning rate of a run" in capsys.readouterr().out
    assert run_training(longer, print).images == 6


def test_a_training_begins_with_the_weights_of_another(undisturbed, assigned):
    """As the other run generates with them: its checkpoint after a step that is next to none has its average."""
    other = undisturbed
    begun = assigned("begun", here=True)
    training = begun.recipe.training.model_copy(update={"max_steps": 1, "learning_rate": 1e-12})
    recipe = begun.recipe.model_copy(update={"training": training})
    trained = run_training(replace(begun, recipe=recipe, weights_from=other.last), print)
    theirs, ours = (torch.load(Path(one.last) / "state.pt", weights_only=True) for one in (other, trained))
    for name, tensor in theirs["ema"]["generator"].items():
        if name.rpartition(".")[2] in ("weight", "bias", "original"):  # statistics move without a gradient
            torch.testing.assert_close(ours["networks"]["generator"][name], tensor, rtol=0, atol=1e-9)


def failing():
    raise OSError("the storage is gone")


@pytest.mark.parametrize(("ask", "again"), [(lambda: None, True), (lambda: None, False), (failing, False)])
def test_a_stop_does_not_wait_for_ever(ask, again):
    """Nothing ends the block but a second Ctrl-C, too long a wait, or storage that takes no notice."""
    asked = threading.Event()

    def told():
        asked.set()
        ask()

    def interrupted():
        signal.raise_signal(signal.SIGINT)
        assert asked.wait(20)
        if again:
            signal.raise_signal(signal.SIGINT)
        time.sleep(60)

    with pytest.raises(KeyboardInterrupt), postponed_stop(told, 60 if again else 0.1):
        interrupted()


def test_a_signal_that_was_ignored_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as `nohup` and the background of a script have it
    asked = []
    with postponed_stop(lambda: asked.append(True)):
        signal.raise_signal(signal.SIGINT)
    assert asked == []


@pytest.fixture(scope="module")
def by_ray(assigned, ray_cluster):
    """The training by one worker of Ray Train, undisturbed."""
    return run_training(assigned("ray", here=False), print)


def test_it_ends_with_the_weights_of_one_ray_worker_also_when_killed_and_continued(
    by_ray, undisturbed, assigned, monkeypatch, capsys
):
    whole = undisturbed
    assert (whole.images, whole.score) == (18, by_ray.score)
    assert [Path(uri).name for uri in (whole.best, whole.last)] == [
        Path(uri).name for uri in (by_ray.best, by_ray.last)
    ]
    assert same(state(whole), state(by_ray))

    broken = assigned("broken", here=True)
    with monkeypatch.context() as patch:
        killed_at(patch, 12)
        with pytest.raises(Killed):
            run_training(broken, print)
    assert read_snapshot(broken.folder, {}).latest.name == "images-000000008"
    continued = run_training(broken, print)
    assert "continuing from 8 of 18 images" in capsys.readouterr().out
    assert same(state(continued), state(by_ray))
    assert run_training(broken, print) == continued  # finished: read, not trained again


def test_rays_worker_goes_on_from_a_training_in_process_and_the_other_way_round(by_ray, assigned, monkeypatch, capsys):
    here, there = assigned("changed", here=True), assigned("changed", here=False)
    with monkeypatch.context() as patch:
        killed_at(patch, 12)
        with pytest.raises(Killed):
            run_training(here, print)
    assert same(state(run_training(there, print)), state(by_ray))
    assert "continuing from 8 of 18 images" in capsys.readouterr().out
    # What Ray left, but for the note that it is finished.
    assert read_snapshot(here.folder, {}).latest.name == Path(by_ray.last).name
    Path(here.folder, "trained.json").unlink()
    again = run_training(here, print)
    assert "continuing from 18 of 18 images" in capsys.readouterr().out
    assert same(state(again), state(by_ray))


def test_ray_starts_no_process_that_would_have_nothing_to_do(by_ray):
    started = {actor["ActorClassName"] for actor in ray._private.state.actors().values()}
    assert "TrainController" in started
    assert not started & {"DatasetManager", "PreemptionWatcher"}


def test_threads_and_random_state_of_the_process_are_left_as_they_were(assigned):
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    alone = assigned("alone", here=True)
    training = alone.recipe.training.model_copy(update={"max_steps": 1})
    run_training(replace(alone, recipe=alone.recipe.model_copy(update={"training": training})), print)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("order", "most", "expected"),
    [("max", 1, ["c", "d"]), ("min", 1, ["a", "d"]), (None, 2, ["c", "d"]), ("max", 2, ["b", "c", "d"])],
)
def test_the_best_and_the_last_checkpoints_are_listed(order, most, expected, tmp_path):
    snapshot = Snapshot()
    for name, score in zip("abcd", (1.0, 2.0, 3.0, 1.5), strict=True):
        snapshot = snapshot.with_report(name, {"score": score}, order, most)
    assert sorted(one.name for one in snapshot.kept) == expected
    assert snapshot.latest.name == "d"
    snapshot.write(str(tmp_path), {})
    assert read_snapshot(str(tmp_path), {}) == snapshot


def test_a_training_without_a_score_has_none_instead_of_a_stand_in():
    assigned = SimpleNamespace(recipe=Recipe())
    nothing = {"score": NO_SCORE, "images": 8, "seconds": 1.0}
    trained = _trained(assigned, Checkpoints([("first", nothing)], ("first", nothing)), print)
    assert (trained.score, trained.best) == (None, "first")
    scored = {**nothing, "score": 0.25, "validation/mae": 0.25}
    assert _trained(assigned, Checkpoints([("a", scored)], ("b", nothing)), print).score == 0.25


def test_a_generator_begins_at_the_brightness_of_the_training_images(assigned, tiles, monkeypatch):
    begun = []
    monkeypatch.setattr(MetGAN, "begin_at", lambda self, intensities: begun.append(intensities))
    run_training(assigned("bright", here=True), print)
    assert begun == [mean_intensities(TileSet.open(tiles, {}))]
