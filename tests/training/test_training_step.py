"""One step of all players: what is made once in it and what again, how often each moves, a gradient in a loss."""

from types import SimpleNamespace

import pytest
import torch
from toys import Staged, Wasserstein, image

from metgan_dist.methods import build_method
from metgan_dist.methods.metgan import MetGAN
from metgan_dist.methods.method import Stage
from metgan_dist.recipe import Recipe
from metgan_dist.recipe.methods.pix2pix import Pix2PixRecipe
from metgan_dist.training import worker
from metgan_dist.training.step import Stepper

CPU = torch.device("cpu")
EDGES = (256, 256)


def pix2pix(**options):
    torch.manual_seed(0)
    return Stepper(build_method(Recipe(method=Pix2PixRecipe(width=0.05))), CPU, **options)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_pix2pix_makes_its_image_once_for_both_players(autocast):
    stepper = pix2pix(autocast=autocast)
    generator, judge = (stepper.method.networks[name] for name in ("generator", "discriminator_tumour"))
    made, judged = [], []
    generator.register_forward_hook(lambda _module, _inputs, image: made.append(image))
    judge.register_forward_pre_hook(lambda _module, inputs: judged.append(inputs[0]))
    before = [weight.detach().clone() for weight in generator.parameters()]
    stepper.step([image(0, EDGES)])
    assert len(made) == 1
    # The discriminator's turn (real and fake in one batch), then the generator's.
    assert torch.equal(judged[0][1:], made[0])
    assert not judged[0].requires_grad
    assert judged[1] is made[0]
    assert all(not torch.equal(*pair) for pair in zip(before, generator.parameters(), strict=True))


def test_pix2pix_holds_no_graphs_of_several_batches():
    stepper = pix2pix()
    made = []
    stepper.method.networks["generator"].register_forward_hook(
        lambda _module, _inputs, image: made.append(image.requires_grad)
    )
    stepper.step([image(0, EDGES), image(1, EDGES)])
    assert made == [False, False, True, True]


@pytest.mark.parametrize("name", ["pix2pix", "cyclegan"])
def test_a_method_that_makes_nothing_ahead_is_not_asked(name, monkeypatch):
    asked, ahead = [], MetGAN.ahead
    monkeypatch.setattr(MetGAN, "ahead", lambda self, batch: asked.append(name) or ahead(self, batch))
    Stepper(build_method(Recipe.model_validate({"method": {"name": name, "width": 0.05}})), CPU).step([image(0, EDGES)])
    assert asked == (["pix2pix"] if name == "pix2pix" else [])


# Several moves, and a gradient penalty


def wasserstein(**options):
    torch.manual_seed(0)
    return Stepper(Wasserstein.from_recipe(Recipe()).double(), CPU, **options)


def pair():
    """Two images in float64."""
    both = [image(position, dtype=torch.float64) for position in (0, 1)]
    return {name: torch.cat([one[name] for one in both]) for name in both[0]}


def gradients_by_hand(critic, real, fake, mix):
    """Of E f(fake) - E f(real) + 10 E (|df/dx| - 1)^2 for f(x) = w . tanh(W x): by W and by w, images in rows."""
    inner, outer = critic.inner.weight.detach(), critic.outer.weight.detach()[0]
    by_inner, by_outer = torch.zeros_like(inner), torch.zeros_like(outer)
    for sign, images in ((1, fake), (-1, real)):
        for x in images:
            t = torch.tanh(inner @ x)
            by_outer += sign * t / len(images)
            by_inner += sign * torch.outer(outer * (1 - t**2), x) / len(images)
    for x in mix * real + (1 - mix) * fake:
        t = torch.tanh(inner @ x)
        s = 1 - t**2  # tanh'
        slope = inner.T @ (outer * s)  # df/dx
        u = 10 * 2 * (slope.norm() - 1) * slope / slope.norm() / len(real)  # of the penalty by the slope
        by_outer += s * (inner @ u)
        by_inner += torch.outer(outer * s, u)  # the W that the slope is multiplied by
        by_inner += torch.outer((inner @ u) * outer * (-2 * t * s), x)  # the W within tanh'
    return by_inner, by_outer


def test_each_of_five_moves_follows_the_gradient_of_a_penalty_of_its_own():
    stepper, batch = wasserstein(), pair()
    critic, generator = stepper.method.networks["critic"], stepper.method.networks["generator"]
    real, fake = batch["tumour"].flatten(1), generator(batch["anatomy"]).detach().flatten(1)
    found, expected, draws = [], [], torch.Generator().manual_seed(3)

    def note(*_):
        mix = torch.rand(2, 1, 1, 1, dtype=torch.float64, generator=draws)[..., 0, 0]
        expected.append(gradients_by_hand(critic, real, fake, mix))
        found.append((critic.inner.weight.grad.clone(), critic.outer.weight.grad[0].clone()))

    moved = []
    stepper.optimisers["critic"].register_step_pre_hook(note)
    stepper.optimisers["generator"].register_step_pre_hook(lambda *_: moved.append(len(found)))
    torch.manual_seed(3)  # as `draws`
    stepper.step([batch])
    assert moved == [5]  # once, after the critic
    assert len(found) == 5
    for (inner, outer), (by_inner, by_outer) in zip(found, expected, strict=True):
        torch.testing.assert_close(inner, by_inner, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(outer, by_outer, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(found[0][0], found[1][0])


def test_losses_are_the_mean_over_moves_and_batches():
    stepper, batches = wasserstein(), [image(0, dtype=torch.float64), image(1, dtype=torch.float64)]
    losses, seen = stepper.method.losses, []

    def noted(player, batch, made):
        terms, images = losses(player, batch, made)
        seen.append((player, float(terms.get("penalty", 0.0))))
        return terms, images

    stepper.method.losses = noted
    report = stepper.step(batches)
    penalties = [penalty for player, penalty in seen if player == "critic"]
    assert len(penalties) == 10
    assert len(set(penalties)) == 10
    assert float(report["critic/penalty"]) == pytest.approx(sum(penalties) / 10, rel=1e-6)


def test_a_player_of_several_moves_sees_what_those_before_it_made_each_time(monkeypatch):
    """Not what it made itself in a move before; the players after it get what it made last."""
    stepper = wasserstein()
    seen = []

    def losses(player, batch, made):
        seen.append((player, {name: float(value) for name, value in made.items()}))
        network = stepper.method.networks["critic" if player == "critic" else "generator"]
        return {"loss": sum(p.sum() for p in network.parameters())}, {player: torch.tensor(float(len(seen)))}

    stepper.method.losses = losses
    monkeypatch.setattr(Wasserstein, "MOVES", 3)
    stepper.begin(Stage("", ("generator", "critic", "generator")))
    stepper.step([pair()])
    assert seen == [
        ("generator", {}),
        *[("critic", {"generator": 1.0})] * 3,
        ("generator", {"generator": 1.0, "critic": 4.0}),
    ]


def test_a_player_that_is_not_to_be_compiled_is_not():
    compiled = {name: turn._compiled_call_impl for name, turn in wasserstein(compile_turns=True).turns.items()}
    assert compiled["critic"] is None
    assert compiled["generator"] is not None


def test_a_stage_of_a_player_that_there_is_none_of_is_told():
    with pytest.raises(ValueError, match="stage joint: no player judges; there are segmentors, generators"):
        Stepper(Staged.from_recipe(Recipe()), CPU).begin(Stage("joint", ("judges",)))


@pytest.mark.parametrize(
    ("training", "rounded", "views"),
    [({}, False, False), ({"gradients": "bf16"}, True, False), ({"gradient_views": True}, False, True)],
)
def test_the_recipe_says_how_workers_exchange_gradients(monkeypatch, training, rounded, views):
    monkeypatch.setattr(
        worker, "build_method", lambda *_: SimpleNamespace(begins_at=None, seed_pools=lambda _seed: None)
    )
    monkeypatch.setattr(worker, "Stepper", lambda _method, _device, **options: options)
    recipe = Recipe.model_validate({"method": {"name": "pix2pix"}, "training": training})
    options = worker._stepper(SimpleNamespace(recipe=recipe, segmentor=None), None, torch.device("cpu"), 0, 2)
    assert (options["bf16_gradients"], options["gradient_views"]) == (rounded, views)
