"""SinGAN: its terms by hand, what moves and what stays, how scales follow each other, that it learns, and refusals."""

import copy

import pytest
import torch
from turns import optimisers, play

from metgan_dist.errors import UserError
from metgan_dist.methods import build_method, check_methods, enter_stage
from metgan_dist.methods.losses import gradient_penalty
from metgan_dist.networks.resize import resize
from metgan_dist.recipe import Recipe
from metgan_dist.training.step import Stepper

CPU = torch.device("cpu")
EDGES = (28, 30)


def recipe(edges=EDGES, **sections):
    method = {"name": "singan", "width": 1 / 8, **sections.pop("method", {})}
    training = {"augment": False, "learning_rate": 5e-4, **sections.pop("training", {})}
    tiles = {"kind": "crop" if len(edges) == 3 else "slice", "size": list(edges)}
    return Recipe.model_validate({"tiles": tiles, "method": method, "training": training, **sections})


def entered(settings, scale=None):
    """The method at a scale, by default the finest."""
    method = build_method(settings)
    for stage in method.stages(settings)[: None if scale is None else scale + 1]:
        enter_stage(method, settings, stage)
    return method


def picture(edges=EDGES, channels=1):
    """A disc on a ramp, with a fine grating in it, (1, C, ...) in [-1, 1]."""
    axes = torch.meshgrid(*(torch.linspace(-1, 1, edge) for edge in edges), indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.4
    image = 0.4 * axes[-1] - 0.4 + inside * (0.6 + 0.3 * torch.sin(18 * axes[-2]))
    return {"tumour": image.expand(1, channels, *edges).clone()}


class Waves(torch.nn.Module):
    """D(x) = w . sin(x) over channels, at each pixel; its gradient at a pixel is w cos(x)."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([0.7, -1.3, 0.4], dtype=torch.float64))

    def forward(self, x):
        return torch.einsum("c,nc...->n...", self.w, x.sin())[:, None]


@pytest.mark.parametrize("edges", [(4, 5), (3, 4, 5)])
def test_the_penalty_takes_the_norm_over_channels_at_each_pixel(edges):
    torch.manual_seed(0)
    critic = Waves()
    real, fake = (torch.randn(2, 3, *edges, dtype=torch.float64) for _ in range(2))
    mix = torch.rand(2, *(1,) * (1 + len(edges)), dtype=torch.float64)
    found = gradient_penalty(critic, real, fake, mix, per_pixel=True)
    found.backward()
    # By hand: g = w cos(x) at a pixel, of length n; d(n - 1)^2 = 2 (n - 1) / n g dg, dg = cos(x) dw.
    cosine = (mix * real + (1 - mix) * fake).cos()
    w = critic.w.detach().view(3, *(1,) * len(edges))
    length = (w * cosine).square().sum(dim=1, keepdim=True).sqrt()
    assert found.item() == pytest.approx((length - 1).square().mean().item(), rel=1e-12)
    pull = 2 * (length - 1) / length * w * cosine.square() / length.numel()
    torch.testing.assert_close(critic.w.grad, pull.transpose(0, 1).flatten(1).sum(dim=1), rtol=1e-12, atol=1e-12)
    whole = gradient_penalty(critic, real, fake, mix)
    assert whole.item() == pytest.approx(((w * cosine).flatten(1).norm(dim=1) - 1).square().mean().item(), rel=1e-12)


def test_terms_are_those_of_the_released_code_worked_out_by_hand():
    method, batch = entered(recipe()), picture()
    real = resize(batch["tumour"], EDGES)  # the finest of three scales
    below, generator = method.generators[:-1], method.generators[-1]
    critic = method.networks["discriminator_2"]
    edges = method.scales.edges
    image = torch.zeros(1, 1, *edges[0])
    for scale, (own, noise) in enumerate(zip(below, (below[0].fixed, None), strict=True)):
        own.amplitude.fill_(1.0 if scale == 0 else 0.2)
        image = own(resize(image, edges[scale]), noise)
    reconstructed = resize(image, edges[2]).detach()
    torch.manual_seed(3)
    terms, made = method.losses("critic_2", batch, {})
    assert generator.amplitude.item() == pytest.approx(0.1 * (reconstructed - real).square().mean().sqrt().item())
    torch.manual_seed(3)
    image = torch.zeros(1, 1, *edges[0])
    for own, size in zip(method.generators, edges, strict=True):
        image = own(resize(image, size), torch.randn(1, 1, *size)).detach()
    distance = critic(image).mean() - critic(real).mean()
    x = (mix := torch.rand(1, 1, 1, 1)) * real + (1 - mix) * image
    (slope,) = torch.autograd.grad(critic(x.requires_grad_()).sum(), x)
    assert made == {}
    assert set(terms) == {"distance", "penalty"}
    assert terms["distance"].item() == pytest.approx(distance.item(), abs=1e-6)
    assert terms["penalty"].item() == pytest.approx(0.1 * (slope.abs() - 1).square().mean().item(), rel=1e-5)
    torch.manual_seed(3)
    terms, made = method.losses("generator_2", batch, {})
    assert made == {}
    assert set(terms) == {"adversarial", "reconstruction"}
    assert terms["adversarial"].item() == pytest.approx(-critic(image).mean().item(), abs=1e-6)
    error = (generator(reconstructed, None) - real).square().mean()
    assert terms["reconstruction"].item() == pytest.approx(10 * error.item(), rel=1e-5)


@pytest.mark.parametrize("edges", [EDGES, (26, 27, 28)])
def test_each_player_moves_three_times_and_its_own_parameters_of_its_scale_alone(edges):
    settings = recipe(edges)
    method, batch = entered(settings), picture(edges)
    critic, generator = method.players()
    last = len(method.scales) - 1
    assert (critic.name, generator.name) == (f"critic_{last}", f"generator_{last}")
    assert (critic.moves, generator.moves, critic.compiled) == (3, 3, False)
    assert critic.betas == generator.betas == (0.5, 0.999)
    adams = optimisers(method)
    for player, moved in ((critic, f"discriminator_{last}"), (generator, f"generator_{last}")):
        before = copy.deepcopy(dict(method.named_parameters()))
        play(method, player, batch, {}, adams[player.name])
        changed = {name.split(".")[1] for name, p in method.named_parameters() if not torch.equal(p, before[name])}
        assert changed == {moved}
    stepper, moves = Stepper(method, CPU), []
    for player in (critic, generator):
        stepper.optimisers[player.name].register_step_post_hook(lambda *_, name=player.name: moves.append(name))
    frozen = copy.deepcopy({name: method.networks[name].state_dict() for name in method.frozen})
    assert set(stepper.step([batch])) == {
        f"critic_{last}/distance", f"critic_{last}/penalty",
        f"generator_{last}/adversarial", f"generator_{last}/reconstruction",
    }  # fmt: skip
    assert moves == [critic.name] * 3 + [generator.name] * 3
    # Running statistics, noise and amplitude of coarser scales stay what they are, too.
    assert len(frozen) == 2 * last
    for name, state in frozen.items():
        torch.testing.assert_close(method.networks[name].state_dict(), state, rtol=0, atol=0)


def test_a_scale_begins_with_the_weights_below_where_it_is_as_wide():
    settings = recipe((64, 64))
    method = build_method(settings)
    assert (dict(method.networks), method.players()) == ({}, ())
    stages, batch, before = method.stages(settings), picture((64, 64)), {}
    assert [stage.name for stage in stages] == [f"scale-{scale}" for scale in range(6)]
    assert {(stage.epochs, stage.decay_from, stage.falls_to) for stage in stages} == {(None, None, 0.1)}
    for scale, stage in enumerate(stages):
        enter_stage(method, settings, stage)
        kinds = ("generator", "discriminator")
        assert set(method.networks) == {f"{kind}_{own}" for kind in kinds for own in range(scale + 1)}
        assert set(method.frozen) == {f"{kind}_{own}" for kind in kinds for own in range(scale)}
        for kind in kinds:
            layers = method.networks[f"{kind}_{scale}"].layers.state_dict()
            if scale in (0, 4):  # 4: twice the channels
                assert not before or layers["1.norm.weight"].shape != before[kind]["1.norm.weight"].shape
            else:
                torch.testing.assert_close(layers, before[kind], rtol=0, atol=0)
        Stepper(method, CPU).step([batch])
        before = {kind: copy.deepcopy(method.networks[f"{kind}_{scale}"].layers.state_dict()) for kind in kinds}


def test_weights_noise_and_fixed_noise_follow_from_the_seed():
    one, again, other = (entered(recipe(training={"seed": seed})) for seed in (0, 0, 1))
    torch.testing.assert_close(one.state_dict(), again.state_dict(), rtol=0, atol=0)
    assert not torch.equal(one.generators[0].fixed, other.generators[0].fixed)


def test_a_short_run_learns_the_image_scale_by_scale():
    settings = recipe(method={"width": 1 / 4}, training={"learning_rate": 2e-3})
    method, batch, errors = build_method(settings), picture(), {}
    stepper = Stepper(method, CPU)
    torch.manual_seed(0)
    for scale, stage in enumerate(method.stages(settings)):
        enter_stage(method, settings, stage)
        stepper.begin(stage)
        for step in range(60):
            stepper.step([batch])
            if step in (0, 59):
                with stepper.inference() as ready:
                    made, real = ready.pyramid.reconstruct()[-1], ready.pyramid.real(batch["tumour"], scale)
                errors.setdefault(scale, []).append((made - real).square().mean().sqrt().item())
    assert len(errors) == 3
    assert errors[0][1] < 0.7 * errors[0][0], errors
    assert errors[2][1] < 0.5 * batch["tumour"].std(), errors


def test_several_channels_share_the_coarsest_noise_and_have_their_own_above():
    method = entered(recipe(data={"anatomy": "", "tumour": ["t1", "t2"]}))
    seen = []
    for generator in method.generators:
        generator.amplitude.fill_(0.5)
        generator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].shape))
    assert set(method.losses("critic_2", picture(channels=2), {})[0]) == {"distance", "penalty"}
    assert [shape[1] for shape in seen] == [1, 2, 2]
    assert method.eval().pyramid.sample([0])[-1].shape == (1, 2, *EDGES)


def test_blocks_that_are_computed_twice_give_the_same_step():
    """The penalty is differentiated twice through them."""
    reports, states = [], []
    for again in (False, True):
        settings = recipe(training={"checkpoint_gradients": again})
        method = entered(settings, 1)
        torch.manual_seed(1)
        reports.append(Stepper(method, CPU).step([picture()]))
        states.append(method.state_dict())
    assert reports[0] == reports[1]
    torch.testing.assert_close(*states, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"scaling": {"workers": 2}}, "scaling.workers: 2 workers have one image between them; singan trains on 1"),
        ({"training": {"batch_size": 2}}, "training.batch_size: a step of singan is its one image; set it to 1"),
        ({"training": {"accumulate": 2}}, "training.accumulate: "),
        ({"training": {"augment": True}}, "training.augment: the fixed noise stands for the image as it is"),
        ({"training": {"ema_half_life": 10}}, "training.ema_half_life: each scale of singan builds on those below"),
        ({"training": {"start_from": "run"}}, "training.start_from: singan begins without any network; take another"),
        ({"training": {"stages": {"scale-1": 0}}}, "training.stages: scale-1 cannot be left out"),
        ({"method": {"judge": "runs/judge"}}, "method.judge: no segmentor looks at what singan makes"),
        ({"edges": (24, 64)}, "tiles.size: tiles of 24 pixels do not fit singan, which needs at least 25; use 25"),
        ({"edges": (60, 1000)}, "tiles.size: an edge of 15 pixels, once the longest of 1000 is brought to 250"),
        ({"edges": (30, 20, 64)}, "tiles.size: tiles of 20 pixels"),
    ],
    ids=str,
)
def test_what_does_not_go_with_one_image_is_refused_in_a_line(sections, line, mistake):
    settings = recipe(**sections)
    with mistake(line):
        check_methods(settings, settings.tiles.shape)


def test_an_image_of_another_size_than_the_pyramids_is_refused():
    with pytest.raises(UserError, match=r"^tiles\.size: tiles of 64 x 64 pixels, but the pyramid is laid out for 28 x"):
        entered(recipe()).losses("critic_2", picture((64, 64)), {})
