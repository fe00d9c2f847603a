"""A training in stages: their order, lengths and rates, the exact way on from anywhere, stages of another run."""

import dataclasses
import hashlib
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from alone import Killed, assignment, killed_at
from test_training_loop import Kept, _same
from tile_sets import write_set
from toys import Growing, Staged, image, register

from metgan_dist.methods import build_method, enter_stage
from metgan_dist.methods.method import Stage
from metgan_dist.recipe import Recipe, Scaling, Tiles
from metgan_dist.trained import checkpoint_digest, find_stages, find_start, load_method
from metgan_dist.training.launch import run_training
from metgan_dist.training.loop import train
from metgan_dist.training.schedule import Length, check_stages
from metgan_dist.training.step import Stepper
from metgan_dist.training.worker import _take

CPU = torch.device("cpu")
TILES = 4  # images of an epoch


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    register(monkeypatch, staged=Staged, growing=Growing)


def recipe(name="staged", **training):
    usual = {"epochs": 2, "stages": {"pretrain": 2}, "checkpoint_every": 3, "validate_every": 100, "ema_half_life": 4}
    tree = {"method": {"name": name, "width": 1}, "training": {**usual, **training}}
    return Recipe.model_validate(tree)


def growing(**training):
    return recipe("growing", **{"stages": {}, "epochs": 1, **training})


class Small(Kept):
    """Surroundings with small images; `levels`, by epoch, are added to the segmentor's loss."""

    def stream(self, start, stop):
        for position in range(start, stop):
            if position == self.stop:
                return
            yield image(position)


def run(plan, folder, resume_from=None, stop=None, take=None, **changed):
    """(the stepper, the surroundings) after a training, to the end or until image `stop` would be needed."""
    torch.manual_seed(0)
    method = build_method(plan)
    stepper = Stepper(method, CPU, ema_half_life=plan.training.ema_half_life)
    kept = Small(folder, stop=stop)
    length = Length.of(plan.training, TILES, 1, stages=method.stages(plan))
    around = dataclasses.replace(kept.around(resume_from), **changed)
    if take is not None:
        around.take = lambda stage: take(stage, stepper)
    train(plan, stepper, length, around)
    return stepper, kept


def files(folder, images):
    """What a checkpoint holds, but for times and for scores that the surroundings make up."""
    checkpoint = folder / f"images-{images:09d}"
    meta = json.loads((checkpoint / "meta.json").read_text())
    own = {name: meta[name] for name in ("images", "steps", "stage", "stage_images", "ended", "falling", "total")}
    return [torch.load(checkpoint / name, weights_only=True) for name in ("state.pt", "rank-0.pt")] + [own]


def weights(stepper, name):
    return {key: value.clone() for key, value in stepper.method.networks[name].state_dict().items()}


def losses(kept):
    """(images, terms) of each step that was logged."""
    return [(step, terms) for step, terms in kept.logged if isinstance(step, int) and "images_per_second" in terms]


def differs(first, second):
    return any(not torch.equal(value, second[key]) for key, value in first.items())


# Order, lengths, rates


def test_stages_follow_each_other_and_each_trains_its_own_players(tmp_path):
    _, kept = run(recipe(), tmp_path)
    assert sorted(path.name[-2:] for path in tmp_path.iterdir()) == ["03", "06", "08", "09", "12", "15", "16"]
    begun, pretrained, ended = (
        torch.load(tmp_path / f"images-{images:09d}" / "state.pt", weights_only=True)["networks"]
        for images in (3, 8, 16)
    )
    assert differs(begun["finder"], pretrained["finder"])
    assert not differs(begun["generator"], pretrained["generator"])
    assert differs(pretrained["finder"], ended["finder"])
    assert differs(pretrained["generator"], ended["generator"])
    meta = [json.loads((tmp_path / f"images-{images:09d}" / "meta.json").read_text()) for images in (8, 9, 16)]
    assert [(one["stage"], one["stage_images"], one["ended"]) for one in meta] == [
        ("pretrain", 8, {}),
        ("joint", 1, {"pretrain": 8}),
        ("joint", 8, {"pretrain": 8}),
    ]
    assert kept.said[0] == "training: 2 stages: pretrain (8 images), joint (8 images)"
    lines = [line.split(" images")[0] for line in kept.said if "left" in line]
    assert lines == ["training 1/2 pretrain  8/8", "training 2/2 joint  16/16"]
    # Logged losses are those of the stage's players; the generator has some in every third step of the run alone.
    assert [step for step, terms in losses(kept) if "generators/pair" in terms] == [9, 12, 15]
    assert [step for step, terms in losses(kept) if "segmentors/real" in terms] == list(range(1, 17))


def test_players_move_in_the_order_of_their_stage(tmp_path):
    plan = recipe()
    _, kept = run(plan, tmp_path)
    # After the generators, whose image they have seen.
    assert [step for step, terms in losses(kept) if "segmentors/made" in terms] == [9, 12, 15]
    assert [player.name for player in Staged.from_recipe(plan).players()] == ["segmentors", "generators"]


def test_each_stage_has_its_own_falling_rate(tmp_path, monkeypatch):
    factors, move = [], Stepper.step

    def noted(self, batches):
        factors.append(self.optimisers["segmentors"].param_groups[0]["lr"] / self.rates["segmentors"])
        return move(self, batches)

    monkeypatch.setattr(Stepper, "step", noted)
    run(recipe(), tmp_path)
    assert factors == pytest.approx([1.0] * 8 + [1 - done / 8 for done in range(8)])


@pytest.mark.parametrize(
    ("epochs", "most", "steps"),
    [
        ((100, 60, 50, 50), None, (100, 60, 50, 50)),
        ((100, 60, 50, 50), 260, (100, 60, 50, 50)),
        ((100, 60, 50, 50), 26, (10, 6, 5, 5)),
        ((100, 60, 50, 50), 8, (3, 2, 2, 1)),
        ((100, 60, 50, 50), 4, (1, 1, 1, 1)),
        ((1000, 1, 1), 5, (3, 1, 1)),
        ((1, 1, 1000), 5, (1, 1, 3)),
        ((100, 0, 50), 6, (4, 0, 2)),
        ((7,), 5, (5,)),
    ],
)
def test_max_steps_bounds_the_run_and_shortens_stages_in_proportion(epochs, most, steps):
    stages = [Stage(f"s{number}", epochs=1) for number in range(len(epochs))]
    given = {stage.name: count for stage, count in zip(stages, epochs, strict=True)}
    training = recipe(stages=given, max_steps=most).training
    length = Length.of(training, 1, 1, stages=stages)
    assert length.stages == steps
    assert length.total == sum(steps)


def test_a_stage_is_as_long_as_recipe_method_or_training_epochs_say_in_this_order():
    stages = (Stage("a", epochs=3), Stage("b"), Stage("c", epochs=3), Stage("d", epochs=3), Stage("e", epochs=3))
    training = recipe(epochs=5, stages={"c": 7, "d": 0}, stages_from={"e": "other"}).training
    assert Length.of(training, 10, 1, stages=stages) == Length(1, 150, (30, 50, 70, 0, 0), 10)


def test_a_method_of_volumes_may_have_stages_too(tmp_path):
    plan = recipe(ema_half_life=0)
    plan = plan.model_copy(update={"tiles": Tiles(kind="crop", size=(8, 8, 8), stride=(8, 8, 8))})

    def stream(start, stop):
        return (image(position, (8, 8, 8)) for position in range(start, stop))

    stepper, _ = run(plan, tmp_path, stream=stream)
    assert stepper.method.networks["generator"].weight.shape == (1, 1, 3, 3, 3)
    run(plan, tmp_path / "again", tmp_path / "images-000000012", stream=stream)
    _same(files(tmp_path, 16), files(tmp_path / "again", 16))


# Going on


@pytest.mark.parametrize("stop", [2, 4, 8, 10, 14])
@pytest.mark.parametrize("make", [recipe, growing])
def test_a_run_that_is_disturbed_in_any_stage_ends_as_the_undisturbed_one(tmp_path, make, stop):
    plan = make()
    run(plan, tmp_path / "whole")
    images = max(int(path.name[7:]) for path in (tmp_path / "whole").iterdir())
    folder = tmp_path / "broken"
    folder.mkdir()
    run(plan, folder, stop=min(stop, images - 1))
    last = max((path for path in folder.iterdir()), default=None)
    _, again = run(plan, folder, resume_from=last)
    _same(files(tmp_path / "whole", images), files(folder, images))
    if last is not None:
        assert "continuing from" in again.said[0]
        assert "/2 " in again.said[0] or "/3 " in again.said[0]


def test_a_player_of_every_third_step_counts_on_where_the_run_was(tmp_path):
    plan = recipe(stages={"pretrain": 0}, epochs=4, checkpoint_every=4)
    run(plan, tmp_path)
    _, again = run(plan, tmp_path / "again", resume_from=tmp_path / "images-000000004")
    assert [step for step, terms in losses(again) if "generators/pair" in terms] == [6, 9, 12, 15]
    _same(files(tmp_path, 16), files(tmp_path / "again", 16))


def test_a_checkpoint_of_a_version_without_stages_goes_on_as_one_of_today(tmp_path):
    plan = growing(stages={"scale-1": 0, "scale-2": 0}, epochs=2)
    run(plan, tmp_path)
    old = tmp_path / "images-000000003"
    meta = json.loads((old / "meta.json").read_text())
    for name in ("stage", "stage_images", "ended", "falling"):
        del meta[name]
    (old / "meta.json").write_text(json.dumps(meta))
    state = torch.load(old / "state.pt", weights_only=True)
    del state["averaged"]
    torch.save(state, old / "state.pt")
    (old / "state.sha256").unlink()
    assert load_method(str(old))[0].inference == ("scale_0",)
    run(plan, tmp_path / "again", resume_from=old)
    _same(files(tmp_path, 8), files(tmp_path / "again", 8))


def test_a_run_in_stages_is_given_more_of_the_stage_that_it_is_in(tmp_path):
    run(recipe(max_steps=4), tmp_path)
    _, more = run(recipe(max_steps=8), tmp_path / "more", resume_from=tmp_path / "images-000000004")
    meta = json.loads((tmp_path / "more" / "images-000000006" / "meta.json").read_text())
    assert (meta["ended"], meta["stage_images"]) == ({"pretrain": 2}, 4)
    assert more.said[:2] == [
        "training 2/2 joint: continuing from 4 of 6 images",
        "training 2/2 joint: planned with 4 images, now 6, with the learning rate of a run of that length: 0.50 of the "
        "full one here, and from 2 images linearly to 0 at the end",
    ]


def test_patience_with_a_score_begins_with_the_last_stage(tmp_path):
    def worse(_stepper):
        scores.append(1.0 + len(scores))
        return {"mae": scores[-1]}, None

    scores = []
    _, kept = run(recipe(validate_every=1, patience=2), tmp_path, validate=worse)
    assert [line for line in kept.said if "stopped early" in line] == [
        "training 2/2 joint: stopped early at 10 images: 2 validations without a better mae than 1.0000 at 1 images"
    ]


# Stages of their own size


def test_networks_that_a_stage_adds_are_kept_averaged_loaded_and_the_same_for_one_seed(tmp_path):
    plan = growing()
    stepper, _ = run(plan, tmp_path / "one")
    assert list(stepper.method.networks) == ["scale_0", "scale_1", "scale_2"]
    assert set(stepper.optimisers) == {"scale_2"}
    assert stepper.averaged == {"scale_0": 4, "scale_1": 4, "scale_2": 4}
    states = [
        torch.load(tmp_path / "one" / f"images-{images:09d}" / "state.pt", weights_only=True)["networks"]
        for images in (4, 8, 12)
    ]
    assert [sorted(state) for state in states] == [["scale_0", "scale_1", "scale_2"][: n + 1] for n in range(3)]
    assert not differs(states[0]["scale_0"], states[2]["scale_0"])
    assert differs(states[0]["scale_0"], states[1]["scale_1"])
    method, _ = load_method(str(tmp_path / "one" / "images-000000008"))
    assert method.inference == ("scale_0", "scale_1")
    average = torch.load(tmp_path / "one" / "images-000000008" / "state.pt", weights_only=True)["ema"]
    assert not differs(dict(method.networks["scale_1"].state_dict()), average["scale_1"])
    # However long the stages before took.
    added = []
    for epochs in (0, 3):
        other = growing(stages={"scale-0": epochs, "scale-1": 1, "scale-2": 0}, learning_rate=1e-4)
        stepper, _ = run(other, tmp_path / f"other-{epochs}")
        added.append(weights(stepper, "scale_2"))
    assert not differs(*added)


def test_what_a_stage_draws_leaves_the_random_numbers_of_the_run_alone():
    """In which the ranks of a run differ, and by which it goes on as undisturbed."""
    plan, state = growing(), torch.manual_seed(9).get_state()
    method = build_method(plan)
    for stage in method.stages(plan):
        enter_stage(method, plan, stage)
    assert len(method.networks) == 3
    assert torch.equal(torch.get_rng_state(), state)


def test_an_average_forgets_only_while_its_network_learns():
    stepper = Stepper(build_method(recipe()), CPU, ema_half_life=4)
    pretrain, joint = Staged.stages(recipe())
    before = weights(stepper, "generator")
    with torch.no_grad():
        for weight in stepper.method.networks["generator"].parameters():
            weight.add_(1.0)
    stepper.begin(pretrain)
    stepper.step([image(0)])
    assert not differs(before, dict(stepper.ema["generator"].state_dict()))
    assert stepper.averaged == {"generator": 0}
    stepper.begin(joint)
    stepper.step([image(1)])
    assert differs(before, dict(stepper.ema["generator"].state_dict()))
    assert stepper.averaged == {"generator": 1}


def test_after_a_stage_of_small_gradients_a_stage_afresh_takes_no_step_longer_than_the_rate():
    """What Adam remembers of the size of gradients is no measure of those of other losses."""
    longest = {}

    def scaled(factor):
        return {name: factor * value if value.is_floating_point() else value for name, value in image(0).items()}

    for afresh in (False, True):
        torch.manual_seed(0)
        stepper = Stepper(build_method(recipe()), CPU)
        pretrain, joint = Staged.stages(recipe())
        stepper.begin(pretrain)
        for _ in range(20):
            stepper.step([scaled(1e-3)])
        stepper.begin(dataclasses.replace(joint, afresh=afresh))
        before = weights(stepper, "finder")
        stepper.step([scaled(1e3)])
        after = stepper.method.networks["finder"].state_dict()
        rate = stepper.rates["segmentors"]
        longest[afresh] = max(float((after[name] - value).abs().max()) for name, value in before.items()) / rate
    assert longest[True] <= 1.001
    assert longest[False] > 1.4


# Left out, taken


def test_a_stage_that_is_left_out_leaves_its_networks_as_they_are(tmp_path):
    _, kept = run(recipe(stages={"pretrain": 0}), tmp_path)
    assert kept.said[0] == "training: 2 stages: pretrain (left out), joint (8 images)"
    meta = json.loads((tmp_path / "images-000000008" / "meta.json").read_text())
    assert (meta["stage"], meta["ended"]) == ("joint", {"pretrain": 0})


@pytest.fixture
def other(tmp_path):
    """The checkpoint of a run of the first stage alone, from another seed."""
    run(recipe(stages={"pretrain": 2, "joint": 0}, seed=5), tmp_path / "runs" / "other")
    return tmp_path / "runs" / "other" / "images-000000008"


def test_a_stage_taken_from_another_run_is_its_networks_weights(tmp_path, other):
    plan = recipe(stages={}, stages_from={"pretrain": str(other)})
    seen = []

    def take(stage, stepper):
        before = weights(stepper, "generator")
        team = SimpleNamespace(fetched=lambda uri, _options: nullcontext(Path(uri)))
        _take(SimpleNamespace(stages_from={"pretrain": str(other)}, options={}), team, stage, stepper)
        assert not differs(before, weights(stepper, "generator"))
        seen.append((stage.name, weights(stepper, "finder")))

    _, kept = run(plan, tmp_path / "taken", take=take)
    theirs = torch.load(other / "state.pt", weights_only=True)["networks"]["finder"]
    ((name, ours),) = seen
    assert name == "pretrain"
    _same(ours, dict(theirs))
    assert kept.said[0] == f"training: 2 stages: pretrain (from {other}), joint (8 images)"
    # Where the run goes on, it has them already.
    run(plan, tmp_path / "again", tmp_path / "taken" / "images-000000003", take=pytest.fail)
    _same(files(tmp_path / "taken", 8), files(tmp_path / "again", 8))


def test_a_stages_model_is_known_by_its_place_and_digest(other):
    named = recipe(stages={}, stages_from={"pretrain": "other/images-000000008"})
    assert find_stages(recipe()) == {}
    known = {"uri": str(other), "sha256": checkpoint_digest(str(other)), "method": "staged", "run": None}
    assert find_stages(recipe(stages={}, stages_from={"pretrain": str(other)})) == {"pretrain": known}
    (other.parent / "run.json").write_text('{"mlflow_run_id": "abc"}')
    (other.parent / "result.json").write_text(json.dumps({"artefacts": {"best_checkpoint": str(other)}}))
    stored = named.model_copy(
        update={
            "storage": named.storage.model_copy(update={"path": str(other.parents[1])}),
            "training": named.training.model_copy(update={"stages_from": {"pretrain": "other"}}),
        }
    )
    assert find_stages(stored) == {"pretrain": {**known, "run": "abc"}}


@pytest.mark.parametrize(
    ("fields", "culprit"),
    [
        ({"width": 3.0}, "finder.1.weight is absent there, (1, 1, 3, 3) here"),
        ({"width": 3.0}, "; method.width is 1.0 there, 3.0 here"),
        ({"name": "growing"}, ": a model of staged, method.name is growing"),
    ],
)
def test_a_stages_model_that_does_not_fit_is_one_line(other, fields, culprit, mistake):
    plan = recipe(stages={}, stages_from={"pretrain": str(other)})
    plan = plan.model_copy(update={"method": plan.method.model_copy(update=fields)})
    with mistake(f"training.stages_from.pretrain: {other}: ", culprit):
        find_stages(plan)


def test_only_the_networks_of_the_stage_have_to_fit(other):
    state = torch.load(other / "state.pt", weights_only=True)
    state["networks"]["generator"] = {"weight": torch.zeros(7)}
    torch.save(state, other / "state.pt")
    digest = hashlib.sha256((other / "state.pt").read_bytes()).hexdigest()
    (other / "state.sha256").write_text(f"{digest}  state.pt\n")
    assert find_stages(recipe(stages={}, stages_from={"pretrain": str(other)}))


def test_a_method_that_grows_begins_with_no_other_runs_weights(tmp_path, mistake):
    run(growing(), tmp_path)
    with mistake("training.start_from: ", "scale_0.weight is (1, 1, 3, 3) there, absent here"):
        find_start(growing(start_from=str(tmp_path / "images-000000012")))


# Mistakes


@pytest.mark.parametrize(
    ("name", "training", "line"),
    [
        ("staged", {"stages": {"jiont": 3}}, "stages: staged has no stage 'jiont'; its stages are pretrain, joint"),
        ("staged", {"stages_from": {"both": "x"}}, "stages_from: staged has no stage 'both'; its stages are "),
        ("metgan", {"stages": {"joint": 3}}, "stages: metgan has no stage 'joint'; it trains in one, as long as "),
        ("metgan", {"stages": {"": 3}}, "stages: metgan has no stage ''; it trains in one, as long as "),
        ("staged", {"stages": {"pretrain": 0, "joint": 0}}, "stages: every stage of staged is left out or taken"),
        (
            "staged",
            {"stages": {"joint": 0}, "stages_from": {"pretrain": "x"}},
            "stages: every stage of staged is left out or taken",
        ),
        ("staged", {"max_steps": 1}, "max_steps: 1 for 2 stages of staged, each of which takes at least one"),
    ],
)
def test_stages_that_cannot_be_are_one_line(name, training, line, mistake):
    with mistake(f"training.{line}"):
        check_stages(recipe(name, **{"stages": {}, **training}))


def test_stages_that_can_be_are_not_complained_of():
    for plan in (recipe(), recipe(max_steps=2), recipe(stages={"pretrain": 0}, max_steps=1), growing()):
        check_stages(plan)
    check_stages(recipe("metgan", stages={}, max_steps=1))


# A loss that no longer falls

LEVELS = (3.0, 2.0, 2.5, 2.0, 1.0, 0.5, 0.25, 0.25, 0.25, 0.25)  # an epoch's mean; the lowest of the first four is 2


@pytest.fixture
def levels(monkeypatch):
    """The segmentor's loss on real images is as LEVELS say, whatever it has learned."""
    losses = Staged.losses

    def scripted(self, player, batch, made):
        terms, images = losses(self, player, batch, made)
        if "real" in terms:
            terms["real"] = 0 * terms["real"] + batch["level"].mean()
        return terms, images

    def stream(self, start, stop):
        for position in range(start, min(stop, stop if self.stop is None else self.stop)):
            # Within an epoch about its mean, so that one step alone says nothing.
            about = (position % TILES - (TILES - 1) / 2) / 3
            yield {**image(position), "level": torch.full((1,), LEVELS[min(position // TILES, 9)] + about)}

    monkeypatch.setattr(Staged, "losses", scripted)
    monkeypatch.setattr(Small, "stream", stream)


def test_a_stage_ends_when_its_loss_has_not_fallen_for_so_many_epochs(tmp_path, levels):
    plan = recipe(stages={"pretrain": 8})
    _, kept = run(plan, tmp_path)
    # Of patience 2: lowest in the second epoch, so the fourth is the last.
    meta = json.loads((tmp_path / "images-000000024" / "meta.json").read_text())
    assert (meta["ended"], meta["images"]) == ({"pretrain": 16}, 24)
    assert (
        "training 1/2 pretrain: ends at 16 images: for 2 epochs segmentors/real has not been below 2.0000" in kept.said
    )
    assert (tmp_path / "images-000000016").exists()


def test_a_stage_can_watch_the_sum_of_its_players_terms(tmp_path, levels, monkeypatch):
    """Of level l: `real` is l and a further term 5 - 2 l, so that the sum is lowest in the first epoch, at 5 - 3."""
    losses, stages = Staged.losses, Staged.stages

    def with_another(self, player, batch, made):
        terms, images = losses(self, player, batch, made)
        if "real" in terms:
            terms["other"] = 5 - 2 * batch["level"].mean()
        return terms, images

    def watching(recipe):
        first, *rest = stages(recipe)
        return (dataclasses.replace(first, patience=("segmentors", 2)), *rest)

    monkeypatch.setattr(Staged, "losses", with_another)
    monkeypatch.setattr(Staged, "stages", staticmethod(watching))
    _, kept = run(recipe(stages={"pretrain": 8}), tmp_path)
    line = "training 1/2 pretrain: ends at 12 images: for 2 epochs segmentors has not been below 2.0000"
    assert line in kept.said


@pytest.mark.parametrize("stop", [6, 11, 14, 16, 18, 22])
def test_a_stage_that_its_loss_ends_goes_on_and_ends_as_undisturbed(tmp_path, levels, stop):
    plan = recipe(stages={"pretrain": 8})
    run(plan, tmp_path / "whole")
    run(plan, tmp_path / "broken", stop=stop)
    last = max((tmp_path / "broken").iterdir())
    run(plan, tmp_path / "broken", resume_from=last)
    _same(files(tmp_path / "whole", 24), files(tmp_path / "broken", 24))


def test_the_loss_that_ends_a_stage_is_the_mean_of_all_workers(tmp_path, levels):
    """Of which another one has seen its loss rise from epoch to epoch."""
    seen = []

    def mean(value):
        seen.append(value)
        return (value + 100.0 * (1 + (len(seen) - 1) // TILES)) / 2

    run(recipe(stages={"pretrain": 8}), tmp_path, mean=mean)
    meta = json.loads((tmp_path / "images-000000020" / "meta.json").read_text())
    assert meta["ended"] == {"pretrain": 12}


def test_a_training_stops_with_the_stages_name_and_saves(tmp_path):
    _, kept = run(recipe(), tmp_path, stopping=iter([False] * 9 + [True]).__next__)
    assert kept.said[-1] == "training 2/2 joint: saved at 10 of 16 images, to go on from there"
    run(recipe(), tmp_path / "again", resume_from=tmp_path / "images-000000010")
    run(recipe(), tmp_path / "whole")
    _same(files(tmp_path / "whole", 16), files(tmp_path / "again", 16))


# As a training of a run


@pytest.fixture
def assigned(tmp_path):
    """assigned(name): a training of the toy in a run folder of its own, in this process."""
    tiles = write_set(tmp_path / "tiles").uri

    def assign(name, **training):
        short = {"max_steps": 10, "batch_size": 2, "checkpoint_every": 4, "validate_every": 8, "validate_tiles": 2}
        plan = recipe(**{**short, **training}).model_copy(update={"scaling": Scaling(workers=0)})
        return assignment(tmp_path, name, plan, tiles, stages_from=plan.training.stages_from)

    return assign


def test_a_training_that_is_killed_in_its_second_stage_ends_as_the_undisturbed_one(assigned, monkeypatch, capsys):
    whole, broken = assigned("whole"), assigned("broken")
    undisturbed = run_training(whole, print)
    assert undisturbed.images == 20
    with monkeypatch.context() as patch:
        killed_at(patch, 16)
        with pytest.raises(Killed):
            run_training(broken, print)
    capsys.readouterr()
    continued = run_training(broken, print)
    assert "staged 2/2 joint: continuing from 12 of 20 images" in capsys.readouterr().out
    _same(*(files(Path(one.last).parent, 20) for one in (undisturbed, continued)))

    # Its first stage, taken from it: the weights at its end, of the averaged networks where there are any.
    taken = assigned("taken", stages={}, stages_from={"pretrain": undisturbed.last}, max_steps=3)
    run_training(taken, print)
    assert f"staged: 2 stages: pretrain (from {undisturbed.last}), joint (6 images)" in capsys.readouterr().out
    meta = json.loads(Path(taken.folder, "images-000000006", "meta.json").read_text())
    assert (meta["stage"], meta["ended"]) == ("joint", {"pretrain": 0})
