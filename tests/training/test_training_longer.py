"""A run that is given more length goes on with the schedule of that length; one may begin with another's weights."""

import json

import pytest
import torch
from test_training_loop import Kept, _same, recipe, stepper

from metgan_dist.errors import UserError
from metgan_dist.recipe import Storage
from metgan_dist.trained import checkpoint_digest, find_start
from metgan_dist.training.checkpoint import begin_with
from metgan_dist.training.loop import train
from metgan_dist.training.schedule import Length


def state(folder, images):
    return torch.load(folder / f"images-{images:09d}" / "state.pt", weights_only=True)


def test_a_run_given_more_is_the_longer_run_bit_for_bit_where_the_rate_does_not_fall(tmp_path):
    steady = recipe(decay_from=1)
    whole, first, more = (Kept(tmp_path / name) for name in ("whole", "begun", "begun"))
    train(steady, stepper(steady), Length(1, 6), whole.around())
    train(steady, stepper(steady), Length(1, 3), first.around())
    train(steady, stepper(steady), Length(1, 6), more.around(tmp_path / "begun" / "images-000000003"))
    _same(state(tmp_path / "whole", 6), state(tmp_path / "begun", 6))


def test_a_run_given_more_goes_on_at_the_rate_of_its_new_length_and_says_so(tmp_path):
    plan, first, more = recipe(decay_from=0.5), Kept(tmp_path), Kept(tmp_path)
    train(plan, stepper(plan), Length(1, 3), first.around())
    machine = stepper(plan)
    train(plan, machine, Length(1, 4), more.around(tmp_path / "images-000000003"))
    assert more.said[1] == (
        "training: planned with 3 images, now 4, with the learning rate of a run of that length: 0.50 of the full one "
        "here, and from 2 images linearly to 0 at the end"
    )
    for name, optimiser in machine.optimisers.items():
        assert optimiser.param_groups[0]["lr"] == pytest.approx(0.5 * machine.rates[name])


@pytest.fixture(params=[0, 5])
def other(request, tmp_path):
    """(recipe, checkpoint's folder) of a run that has ended, with an average of its generators or without."""
    plan, kept = recipe(ema_half_life=request.param), Kept(tmp_path / "runs" / "other")
    train(plan, stepper(plan, ema_half_life=request.param), Length(1, 4), kept.around())
    return plan, kept.folder / "images-000000004"


@pytest.mark.parametrize("ema", [0, 5])
def test_a_run_begins_with_the_weights_that_the_other_generates_with(other, ema):
    _, folder = other
    saved = torch.load(folder / "state.pt", weights_only=True)
    expected = {**saved["networks"], **saved["ema"]}
    machine = stepper(recipe(seed=7), ema_half_life=ema)
    segmentor = {name: value.clone() for name, value in machine.method.networks["segmentor"].state_dict().items()}
    begin_with(folder, machine)
    for name, network in machine.method.saved().items():
        _same(dict(network.state_dict()), segmentor if name == "segmentor" else dict(expected[name]))
    for name, network in (machine.ema or {}).items():
        _same(dict(network.state_dict()), dict(expected[name]))
    assert not any(optimiser.state for optimiser in machine.optimisers.values())


def starting(folder, **fields):
    plan = recipe(start_from=str(folder))
    method = plan.method.model_copy(update=fields)
    return plan.model_copy(update={"method": method})


def test_a_start_is_known_by_its_place_and_digest(other):
    _, folder = other
    assert find_start(recipe()) is None
    known = {"uri": str(folder), "sha256": checkpoint_digest(str(folder)), "method": "metgan", "run": None}
    assert find_start(starting(folder)) == known
    # By its name in the storage, as a run is named.
    stored = starting("other/images-000000004").model_copy(update={"storage": Storage(path=str(folder.parents[1]))})
    with pytest.raises(UserError, match=r"^training\.start_from: .*no checkpoint here"):
        find_start(stored)
    (folder.parent / "run.json").write_text('{"mlflow_run_id": "abc"}')
    (folder.parent / "result.json").write_text(f'{{"artefacts": {{"best_checkpoint": "{folder}"}}}}')
    named = starting("other").model_copy(update={"storage": Storage(path=str(folder.parents[1]))})
    assert find_start(named) == {**known, "run": "abc"}


def test_a_start_is_the_checkpoint_that_its_run_is_known_by_or_the_last(other, tmp_path):
    plan, folder = other
    train(
        plan, stepper(plan, ema_half_life=plan.training.ema_half_life), Length(1, 6), Kept(tmp_path / "more").around()
    )
    last = tmp_path / "more" / "images-000000006"
    artefacts = {"best_checkpoint": str(folder), "last_checkpoint": str(last)}
    (folder.parent / "run.json").write_text("{}")
    (folder.parent / "result.json").write_text(json.dumps({"artefacts": artefacts}))
    named = starting(folder.parent)
    assert find_start(named)["uri"] == str(folder)
    training = named.training.model_copy(update={"start_checkpoint": "last"})
    found = find_start(named.model_copy(update={"training": training}))
    assert (found["uri"], found["sha256"]) == (str(last), checkpoint_digest(str(last)))
    # A checkpoint is itself, whatever is asked of runs.
    itself = starting(folder)
    assert find_start(
        itself.model_copy(update={"training": itself.training.model_copy(update={"start_checkpoint": "last"})})
    )["uri"] == str(folder)


@pytest.mark.parametrize(
    ("fields", "culprit"),
    [
        ({"name": "metgan_minus"}, ": a model of metgan, method.name is metgan_minus"),
        ({"width": 0.1}, " there, "),
        ({"width": 0.1}, "; method.width is 0.05 there, 0.1 here"),
    ],
)
def test_a_start_that_does_not_fit_is_one_line(other, fields, culprit, mistake):
    _, folder = other
    with mistake(f"training.start_from: {folder}: ", culprit):
        find_start(starting(folder, **fields))


def test_a_start_that_is_not_there_is_one_line(tmp_path, mistake):
    with mistake(f"training.start_from: {tmp_path}/none: no checkpoint here"):
        find_start(starting(tmp_path / "none"))
