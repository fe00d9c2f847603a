"""One worker's loop: an interrupted run ends as the undisturbed one, and a loss that is not finite stops it."""

import dataclasses
import itertools
import re
import shutil

import pytest
import torch

from metgan_dist.cluster import progress
from metgan_dist.errors import DamagedFile, TrainingStopped, UserError
from metgan_dist.methods import build_method
from metgan_dist.methods.segmentor import segmentor_recipe
from metgan_dist.recipe import Recipe, Scaling, Training
from metgan_dist.recipe.methods.metgan import MetGANRecipe
from metgan_dist.trained import load_generator, load_method
from metgan_dist.training.loop import Surroundings, train
from metgan_dist.training.schedule import Length, rate_factor
from metgan_dist.training.step import Stepper

CPU = torch.device("cpu")
DEFAULTS = progress.Progress.__init__.__kwdefaults__


def recipe(**training):
    return Recipe(
        method=MetGANRecipe(width=0.05, segmentor_width=0.05, pool=3),
        training=Training(**{"batch_size": 1, "checkpoint_every": 4, "validate_every": 4, "epochs": 1, **training}),
    )


def stepper(recipe, **options):
    torch.manual_seed(0)
    segmentor = build_method(segmentor_recipe(recipe)).networks["segmentor"]
    return Stepper(build_method(recipe, segmentor), CPU, **options)


def image(position):
    """The batch at a position of the endless stream: a pure function, as tiles are."""
    random = torch.Generator().manual_seed(position)
    anatomy, tumour = (torch.rand(1, 1, 128, 128, generator=random) * 2 - 1 for _ in range(2))
    return {"anatomy": anatomy, "tumour": tumour, "label": (tumour[:, 0] > 0.9).long()}


class Kept:
    """Surroundings of a single worker that keeps checkpoints, logs and lines."""

    def __init__(self, folder, bad=None, stop=None):
        self.folder, self.bad, self.stop = folder, bad, stop
        self.said, self.logged, self.metrics_kept = [], [], []

    def metrics(self, values, step, counts=None):
        self.logged.append((step, dict(values)))

    def png(self, data, name):
        self.logged.append((name, data))

    def around(self, resume_from=None):
        return Surroundings(
            rank=0,
            stream=self.stream,
            validate=lambda _stepper: ({"mae": 1.0 / (1 + len(self.metrics_kept))}, b"png"),
            keep=self.keep,
            agree=lambda reason: reason,
            say=self.said.append,
            log=self,
            resume_from=resume_from,
        )

    def stream(self, start, stop):
        for position in range(start, stop):
            if position == self.stop:
                return
            batch = image(position)
            if position == self.bad:
                batch["tumour"] = batch["tumour"] * float("nan")
            yield batch

    def keep(self, folder, name, metrics):
        shutil.copytree(folder, self.folder / name)
        self.metrics_kept.append((name, metrics))


@pytest.mark.parametrize(("ema", "autocast"), [(0, None), (5, torch.bfloat16)])
def test_interrupted_run_ends_with_the_same_weights_bit_for_bit(tmp_path, ema, autocast):
    plan = recipe(ema_half_life=ema)
    options = {"ema_half_life": ema, "autocast": autocast}
    length = Length(1, 10)
    whole, broken = Kept(tmp_path / "whole"), Kept(tmp_path / "broken", stop=7)
    train(plan, stepper(plan, **options), length, whole.around())
    train(plan, stepper(plan, **options), length, broken.around())
    assert not (tmp_path / "broken" / "images-000000010").exists()
    again = Kept(tmp_path / "broken")
    train(plan, stepper(plan, **options), length, again.around(tmp_path / "broken" / "images-000000004"))
    first, second = (
        torch.load(tmp_path / run / "images-000000010" / "state.pt", weights_only=True) for run in ("whole", "broken")
    )
    _same(first, second)
    pools = [
        torch.load(tmp_path / run / "images-000000010" / "rank-0.pt", weights_only=True) for run in ("whole", "broken")
    ]
    _same(*pools)
    assert "continuing from 4 of 10" in again.said[0]
    line = next(line for line in whole.said if line.startswith("training  10/10 images  "))
    assert "  pair " in line  # terms of the generators without their prefix
    assert "generators/" not in line


def _same(first, second):
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            _same(first[key], second[key])
    elif isinstance(first, list):
        for one, other in zip(first, second, strict=True):
            _same(one, other)
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    else:
        assert first == second


def test_a_loss_that_is_not_finite_names_step_term_and_checkpoint(tmp_path):
    plan = recipe()
    kept = Kept(tmp_path, bad=5)
    machine = stepper(plan)
    with pytest.raises(TrainingStopped) as caught:
        train(plan, machine, Length(1, 10), kept.around())
    message = str(caught.value)
    assert "step 6" in message
    assert "generators/pair" in message
    assert "images-000000004" in message
    assert all(torch.isfinite(weight).all() for weight in machine.method.networks.parameters())


def test_accumulated_batches_make_one_step_of_their_mean_gradient():
    plan = recipe()
    one, two = stepper(plan), stepper(plan)
    # The discriminators have no batch statistics: their first step on the same images is the same in one batch or two.
    # In float64, since the instance norms make some gradients zero and leave only their rounding errors.
    for machine in (one, two):
        machine.method.double()
    batches = [
        {name: part.double() if part.is_floating_point() else part for name, part in image(number).items()}
        for number in (0, 1)
    ]
    made = [{"tumour": batch["tumour"], "anatomy": batch["anatomy"]} for batch in batches]
    player = one.method.players()[1]
    joint = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    joint_made = {name: torch.cat([part[name] for part in made]) for name in made[0]}
    one._backward(player, joint, joint_made, 1, True)
    for batch, part in zip(batches, made, strict=True):
        two._backward(player, batch, part, 2, False)
    for name in player.networks:
        pairs = zip(one.method.networks[name].parameters(), two.method.networks[name].parameters(), strict=True)
        for mine, other in pairs:
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-6, atol=1e-12)


def test_average_forgets_half_in_its_half_life():
    plan = recipe()
    machine = stepper(plan, ema_half_life=1)
    machine.averaged["generator"] = 10_000
    generator = machine.method.networks["generator"]
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    machine.step([image(0)])
    average = dict(machine.ema["generator"].named_parameters())
    for name, live in generator.named_parameters():
        torch.testing.assert_close(average[name], (before[name] + live) / 2)
    for mine, live in zip(machine.ema["generator"].buffers(), generator.buffers(), strict=True):
        assert torch.equal(mine, live)
    with machine.inference() as method:
        assert method.networks["generator"] is machine.ema["generator"]
    assert machine.method.networks["generator"] is not machine.ema["generator"]


def test_average_of_a_short_run_does_not_remember_its_beginning():
    plan = recipe()
    machine = stepper(plan, ema_half_life=1000)
    generator = machine.method.networks["generator"]
    for number in range(2):
        before = {name: value.clone() for name, value in machine.ema["generator"].named_parameters()}
        machine.step([image(number)])
        kept = 0.5 ** (1 / (0.05 * (number + 1)))
        average = dict(machine.ema["generator"].named_parameters())
        for name, live in generator.named_parameters():
            torch.testing.assert_close(average[name], live + kept * (before[name] - live))


def test_length_counts_images_of_all_workers():
    assert Length.of(Training(epochs=3, batch_size=2), 10, 2) == Length(4, 28, (28,), 10)
    assert Length.of(Training(epochs=3, batch_size=2, max_steps=5), 10, 2) == Length(4, 20, (20,), 10)
    assert Length.of(Training(epochs=1, batch_size=8, accumulate=2), 10, 2) == Length(32, 32, (32,), 10)


def test_rate_is_constant_then_falls_linearly_to_zero():
    factors = [rate_factor(images, 200, 0.5) for images in (0, 100, 150, 199, 200)]
    assert factors == pytest.approx([1, 1, 0.5, 0.01, 0])
    assert rate_factor(200, 200, 1.0) == 1


def test_generator_comes_back_from_a_checkpoint_as_it_was(tmp_path):
    plan = recipe()
    machine, kept = stepper(plan), Kept(tmp_path)
    train(plan, machine, Length(1, 4), kept.around())
    batch = image(9)
    with machine.inference() as method:
        expected = method.translate(batch)
    generator = load_generator(str(tmp_path / "images-000000004"))
    assert torch.equal(generator.translate({"anatomy": batch["anatomy"], "label": batch["label"]}), expected)


def test_damaged_or_missing_checkpoint_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no checkpoint here"):
        load_method(str(tmp_path))
    plan, kept = recipe(), Kept(tmp_path)
    train(plan, stepper(plan), Length(1, 1), kept.around())
    folder = tmp_path / "images-000000001"
    (folder / "state.pt").write_bytes((folder / "state.pt").read_bytes()[:1000])
    with pytest.raises(DamagedFile, match=r"state\.pt: not a readable checkpoint") as caught:
        load_method(str(folder))
    assert "\n" not in str(caught.value)


def test_segmentor_recipe_keeps_the_joint_batch_of_the_paper():
    plan = Recipe(scaling=Scaling(workers=2))
    training = segmentor_recipe(plan).training
    assert training.batch_size * 2 == plan.method.segmentor_batch_size
    assert (training.epochs, training.learning_rate, training.decay_from) == (40, 1e-4, 1.0)


def test_a_run_that_begins_says_its_images_and_soon_how_long_they_take_however_seldom_it_logs(tmp_path, monkeypatch):
    plan, kept, now = recipe(log_every=100), Kept(tmp_path), itertools.count(0, 4)
    monkeypatch.setattr(progress.Progress.__init__, "__kwdefaults__", {**DEFAULTS, "clock": lambda: next(now)})
    train(plan, stepper(plan), Length(1, 10, epoch=4), kept.around())
    assert kept.said[0] == "training: 10 images, 2.5 times the 4 training tiles"
    assert re.fullmatch(r"training  [1-4]/10 images  0\.\d/s  \d+ s left", kept.said[1])
    losses = [images for images, values in kept.logged if isinstance(values, dict) and "images_per_second" in values]
    assert losses == [4, 8, 10]  # with the checkpoints alone


def test_steps_before_a_loss_that_is_not_finite_are_logged_too(tmp_path):
    kept, plan = Kept(tmp_path, bad=5), recipe(log_every=100)
    with pytest.raises(TrainingStopped, match="step 6"):
        train(plan, stepper(plan), Length(1, 10), kept.around())
    assert [step for step, values in kept.logged if isinstance(values, dict) and "generators/pair" in values] == [4, 5]


def test_too_few_images_for_the_normalisation_are_the_recipes_mistake(tmp_path):
    """A step of one tile whose innermost features are one pixel: batch statistics would be of a single value."""
    plan, small = recipe(), Kept(tmp_path)
    tile = {name: value[..., :64, :64] for name, value in image(0).items()}
    around = dataclasses.replace(small.around(), stream=lambda _start, _stop: iter([tile]))
    with pytest.raises(UserError, match=r"^training.batch_size: a step of 1 image.*tiles.size"):
        train(plan, stepper(plan), Length(1, 10), around)


@pytest.mark.parametrize(("scores", "lack"), [({}, "no validation tiles"), ({"ssim": 0.5}, "no mae on the validation")])
def test_a_validation_without_a_score_says_so_once_and_logs_nothing_that_is_none(tmp_path, scores, lack):
    plan, kept = recipe(), Kept(tmp_path)
    around = dataclasses.replace(kept.around(), validate=lambda _stepper: (scores, None))
    train(plan, stepper(plan), Length(1, 10), around)
    said = [line for line in kept.said if "to choose a checkpoint by" in line]
    assert len(said) == 1
    assert lack in said[0]
    assert "the last one is kept" in said[0]
    validations = [line for line in kept.said if "validation at" in line]
    assert len(validations) == (3 if scores else 0)
    assert not any("validation/mae" in values for _, values in kept.logged)
