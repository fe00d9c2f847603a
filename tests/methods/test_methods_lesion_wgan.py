"""The lesion mask GAN: its terms by hand, its moves, what it refuses, that it learns and goes on where it was."""

import copy

import pytest
import torch
from torch import nn
from turns import optimisers, play

from metgan_dist.errors import UserError
from metgan_dist.methods import build_method, check_methods
from metgan_dist.methods.lesion_wgan import LesionWGAN
from metgan_dist.methods.losses import gradient_penalty
from metgan_dist.recipe import Recipe
from metgan_dist.training.step import Stepper

EDGES = (8, 16, 16)
CPU = torch.device("cpu")


def recipe(**sections):
    method = {"name": "lesion_wgan", "width": 1 / 16, "latent": 4, **sections.pop("method", {})}
    training = {"augment": False, "batch_size": 4, "learning_rate": 1e-3, **sections.pop("training", {})}
    tiles = {"kind": "crop", "size": list(EDGES)}
    return Recipe.model_validate({"tiles": tiles, "method": method, "training": training, **sections})


def masks(count=4, seed=1):
    """Balls about one place."""
    random = torch.Generator().manual_seed(seed)
    z, y, x = torch.meshgrid(*(torch.arange(edge) for edge in EDGES), indexing="ij")
    radius = 2 + 2 * torch.rand(count, generator=random).view(-1, 1, 1, 1)
    return (((z - 4) ** 2 + (y - 6) ** 2 + (x - 9) ** 2) < radius**2).long()


class Quadratic(nn.Module):
    """D(x) = sum(a x) + sum(b x^2) / 2 of x (N, C, D, H, W), whose derivatives are written down in the test."""

    def __init__(self, shape):
        super().__init__()
        self.a = nn.Parameter(torch.randn(shape, dtype=torch.float64))
        self.b = nn.Parameter(torch.randn(shape, dtype=torch.float64))

    def forward(self, x):
        return (self.a * x + self.b * x.square() / 2).flatten(1).sum(dim=1)


def test_penalty_is_that_of_a_double_backward_written_by_hand():
    torch.manual_seed(0)
    shape, count = (2, 3, 4, 5), 3
    critic = Quadratic(shape)
    real, fake = (torch.rand(count, *shape, dtype=torch.float64) for _ in range(2))
    mix = torch.rand(count, 1, 1, 1, 1, dtype=torch.float64)
    found = gradient_penalty(critic, real, fake, mix)
    found.backward()
    # By hand: at x the gradient is g = a + b x, of length n; d(n - 1)^2 = 2 (n - 1) / n g dg, dg = da + x db.
    x = mix * real + (1 - mix) * fake
    g = critic.a.detach() + critic.b.detach() * x
    n = g.square().sum(dim=(1, 2, 3, 4)).sqrt()
    pull = (2 * (n - 1) / n).view(-1, 1, 1, 1, 1) * g / count
    assert found.item() == pytest.approx(((n - 1) ** 2).mean().item(), rel=1e-12)
    torch.testing.assert_close(critic.a.grad, pull.sum(dim=0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(critic.b.grad, (pull * x).sum(dim=0), rtol=1e-12, atol=1e-12)


def test_penalty_stays_in_float32_under_autocast_and_works_where_gradients_are_off():
    torch.manual_seed(0)
    method = LesionWGAN(edges=EDGES, width=1 / 8, latent=4)
    critic = method.networks["discriminator"]
    real, fake, mix = torch.rand(2, 2, *EDGES), torch.rand(2, 2, *EDGES), torch.rand(2, 1, 1, 1, 1)
    exact = gradient_penalty(critic, real, fake, mix)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gradient_penalty(critic, real, fake, mix), exact)
    with torch.no_grad():
        assert torch.equal(gradient_penalty(critic, real, fake, mix), exact)


def test_terms_are_those_of_the_wasserstein_distance():
    method, batch = LesionWGAN(edges=EDGES, width=1 / 8, latent=4).double(), {"label": masks()}
    critic, generator = method.networks["discriminator"], method.networks["generator"]
    real = torch.stack([1 - batch["label"], batch["label"]], dim=1).double()
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(3)
        terms, made = method.losses("critic", batch, {})
        torch.manual_seed(3)
        fake, mix = generator(torch.randn(4, 4)).detach(), torch.rand(4, 1, 1, 1, 1)
        torch.manual_seed(3)
        own, nothing = method.losses("generator", batch, {})
    finally:
        torch.set_default_dtype(torch.float32)
    assert made == nothing == {}
    assert set(terms) == {"distance", "penalty"}
    assert terms["distance"].item() == pytest.approx((critic(fake).mean() - critic(real).mean()).item())
    x = (mix * real + (1 - mix) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(critic(x).sum(), x)
    expected = 10 * ((slope.square().sum(dim=(1, 2, 3, 4)).sqrt() - 1) ** 2).mean()
    assert terms["penalty"].item() == pytest.approx(expected.item())
    assert own["adversarial"].item() == pytest.approx(-critic(fake).mean().item())


def test_critic_moves_five_times_and_each_player_moves_its_own_parameters_alone():
    method, batch = build_method(recipe()), {"label": masks()}
    critic, generator = method.players()
    assert (critic.moves, critic.compiled, generator.moves) == (5, False, 1)
    assert critic.betas == generator.betas == (0.0, 0.9)
    adams = optimisers(method)
    for player, moved in ((critic, "discriminator"), (generator, "generator")):
        before = copy.deepcopy(dict(method.named_parameters()))
        play(method, player, batch, {}, adams[player.name])
        changed = {name.split(".")[1] for name, p in method.named_parameters() if not torch.equal(p, before[name])}
        assert changed == {moved}
    stepper, moves = Stepper(method, CPU), []
    stepper.optimisers["critic"].register_step_post_hook(lambda *_: moves.append("critic"))
    stepper.optimisers["generator"].register_step_post_hook(lambda *_: moves.append("generator"))
    report = stepper.step([batch])
    assert moves == ["critic"] * 5 + ["generator"]
    assert set(report) == {"critic/distance", "critic/penalty", "generator/adversarial"}


def test_some_dozens_of_steps_bring_the_masks_to_their_place():
    method, label = build_method(recipe(training={"learning_rate": 2e-3})), masks(8)
    stepper = Stepper(method, CPU)

    def share():
        """Of the foreground's probability, how much lies where masks are."""
        with torch.no_grad():
            z = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
            soft = method.networks["generator"](z)[:, 1]
        return (soft * (label.sum(dim=0) > 0)).sum().item() / soft.sum().item()

    before = share()
    for _ in range(60):
        stepper.step([{"label": label}])
    assert before < 0.2
    assert share() > 2 * before


def test_a_mask_follows_from_its_seed_alone():
    method = build_method(recipe()).eval()
    tiles = {"label": masks(3), "tile": torch.tensor([7, 3, 7])}
    probabilities = method._probabilities([(1, 7), (1, 3)])
    assert (probabilities[0] - probabilities[1]).abs().max() > 1e-3
    first = method.translate(tiles)
    assert torch.equal(first[0], first[2])
    assert torch.equal(first[:1], method.draw([(1, 7)]))
    assert torch.equal(method.translate({**tiles, "label": torch.zeros_like(tiles["label"])}), first)


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"training": {"augment": True}}, r"^training\.augment: flips and turns take masks out of their place"),
        ({"training": {"augment": "affine"}}, r"^training\.augment: "),
    ],
)
def test_what_masks_have_no_use_for_is_refused_in_a_line(sections, line):
    with pytest.raises(UserError, match=line):
        check_methods(recipe(**sections), EDGES)


def test_masks_need_no_edges_of_a_judge():
    check_methods(recipe(), (12, 20, 20))  # a U-Net would halve them three times
    with pytest.raises(UserError, match=r"^tiles\.size: .* multiple of 4, at least 8"):
        check_methods(recipe(), (6, 16, 16))
