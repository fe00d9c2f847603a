"""What every method of the registry promises to the training loop, to checkpoints and to synthesis."""

import copy
import io
from functools import cache
from typing import NamedTuple

import pytest
import torch
from owned import owned
from turns import FiveFeatures, batch, optimisers, play

from metgan_dist.errors import UserError
from metgan_dist.methods import (
    METHODS,
    Method,
    Player,
    build_method,
    build_segmentor_network,
    enter_stage,
    method_class,
)
from metgan_dist.recipe import Recipe
from metgan_dist.recipe.methods import SECTIONS
from metgan_dist.weights import PUBLISHED

CLASSES = 3


def recipe(name, classes=CLASSES, seed=0):
    """The method, narrow, on tiles of 64 pixels."""
    return Recipe.model_validate(
        {
            "data": {"classes": classes},
            "tiles": {"size": [64]},
            "method": owned(name, width=1 / 32, segmentor_width=1 / 16, latent=4, pool=2),
            "training": {"seed": seed},
        }
    )


def grown(method, settings):
    """The method in its last stage, with all networks that it ever has."""
    for stage in method.stages(settings):
        enter_stage(method, settings, stage)
    return method


def build(name, classes=CLASSES, seed=0):
    """The method, grown, with all that its training needs: an untrained segmentor, a stand-in for VGG19."""
    settings, chosen = recipe(name, classes, seed), method_class(name)
    torch.manual_seed(0)
    segmentor = build_segmentor_network(settings) if "segmentor" in chosen.needs(settings) else None
    perceptual = FiveFeatures() if "vgg19" in chosen.needs(settings) else None
    return grown(build_method(settings, segmentor, perceptual), settings)


class Turn(NamedTuple):
    """What one turn did; gradients of all parameters of the method, and the names of those that moved."""

    player: Player
    terms: dict[str, torch.Tensor]
    made: dict[str, torch.Tensor]
    gradients: dict[str, torch.Tensor | None]
    moved: set[str]


built = cache(build)


@cache
def stepped(name) -> tuple[Method, list[Turn]]:
    """The method after one step, and the step's turns."""
    method = copy.deepcopy(built(name))
    adams, made, turns = optimisers(method), {}, []
    for player in method.players():
        method.zero_grad()
        before = copy.deepcopy(dict(method.named_parameters()))
        terms, made = play(method, player, batch(classes=CLASSES), made, adams[player.name])
        parameters = dict(method.named_parameters())
        gradients = {key: None if p.grad is None else p.grad.clone() for key, p in parameters.items()}
        moved = {key for key, p in parameters.items() if not torch.equal(p, before[key])}
        turns.append(Turn(player, terms, made, gradients, moved))
    for network in set(method.networks) - set(method.frozen):
        method.networks[network].requires_grad_(True)  # the last turn left it to its own player's alone
    return method, turns


@pytest.fixture(params=METHODS)
def name(request):
    return request.param


@pytest.fixture
def method(name):
    """Untrained, and the test's own."""
    return copy.deepcopy(built(name))


@pytest.fixture
def trained(name):
    """After one step, in eval mode, and the test's own."""
    return copy.deepcopy(stepped(name)[0]).eval()


def inputs(name, **options):
    """A batch without what a method may not look at when it translates."""
    hidden = ("anatomy", "label") if name == "segmentor" else ("tumour",)
    return {key: value for key, value in batch(classes=CLASSES, **options).items() if key not in hidden}


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# Players


def test_each_network_that_is_not_frozen_has_one_player(name, method):
    players = method.players()
    trained = [network for player in players for network in player.networks]
    assert sorted(trained) == sorted(set(method.networks) - set(method.frozen))
    assert len({player.name for player in players}) == len(players)
    assert all(player.learning_rate > 0 and 0 <= min(player.betas) <= max(player.betas) < 1 for player in players)
    assert any(player.discriminates for player in players) == (name != "segmentor")


def test_stages_have_names_that_differ_and_together_train_all_players(name, method):
    stages = method.stages(recipe(name))
    assert len({stage.name for stage in stages}) == len(stages)
    playing = {player.name for stage in stages for player in method.playing(stage)}
    assert playing == {player.name for player in method.players()}


def test_only_where_the_discriminator_moves_first_an_image_is_made_ahead_of_it(name, method):
    assert method.makes_ahead == name.startswith("pix2pix")
    if method.makes_ahead:
        assert method.ahead(batch(classes=CLASSES))["tumour"].requires_grad


def test_a_turn_moves_its_own_players_parameters_and_no_others(name):
    for turn in stepped(name)[1]:
        own = {key for key in turn.gradients if key.split(".")[1] in turn.player.networks}
        reached = {key for key, gradient in turn.gradients.items() if gradient is not None}
        assert reached == own  # DistributedDataParallel would wait for a missing one for ever
        assert all(turn.gradients[key].isfinite().all() for key in own)
        # A bias before a norm without mean has no influence, so only weights must move.
        assert {key for key in own if not key.endswith("bias")} <= turn.moved <= own


def test_terms_are_finite_numbers_and_what_is_made_has_no_gradient(name):
    for turn in stepped(name)[1]:
        assert turn.terms
        for term in turn.terms.values():
            assert (term.shape, term.dtype, term.requires_grad) == ((), torch.float32, True)
            assert term.isfinite()
        assert all(image.isfinite().all() and not image.requires_grad for image in turn.made.values())


def test_black_tiles_without_foreground_give_finite_losses_and_gradients(method):
    black = torch.full((2, 1, 64, 64), -1.0)
    data, made = {"anatomy": black, "tumour": black, "label": torch.zeros(2, 64, 64, dtype=torch.int64)}, {}
    for player in method.players():
        terms, images = method.losses(player.name, data, made)
        sum(terms.values()).backward()
        made |= images
        assert all(term.isfinite() for term in terms.values())
    trainable = [p for p in method.parameters() if p.requires_grad]
    assert all(p.grad.isfinite().all() for p in trainable)


def test_bfloat16_losses_are_float32_and_near_full_precision(name, method):
    twin, data, made = copy.deepcopy(method.eval()), batch(classes=CLASSES), stepped(name)[1][-1].made
    for player in method.players():
        torch.manual_seed(0)  # the latent vectors
        exact, _ = twin.losses(player.name, data, made)
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            terms, images = method.losses(player.name, data, made)
        for term, value in terms.items():
            assert value.dtype == torch.float32
            assert value.item() == pytest.approx(exact[term].item(), rel=0.05, abs=0.02)
        assert all(images[key].dtype == torch.float32 for key in ("tumour", "anatomy", "cycled") if key in images)


@pytest.mark.parametrize("classes", [2, 5])
def test_any_number_of_classes(name, classes):
    method, data, made = build(name, classes), batch(classes=classes), {}
    with torch.no_grad():
        for player in method.players():
            terms, images = method.losses(player.name, data, made)
            assert all(term.isfinite() for term in terms.values())
            made |= images
    assert len(method.eval().translate(data)) == 2


# Frozen networks


def test_frozen_networks_are_those_that_training_needs_and_one_step_leaves_them_as_they_were(name, method):
    settings, chosen = recipe(name), method_class(name)
    needed = {"segmentor": "segmentor" in chosen.needs(settings), "vgg": "vgg19" in chosen.needs(settings)}
    if not method.grows:  # what has been trained in earlier stages may be frozen, too
        assert set(method.frozen) == {network for network, is_needed in needed.items() if is_needed}
    assert set(method.unsaved) == set(method.frozen) & {"vgg"}
    assert set(method.saved()) == set(method.networks) - set(method.unsaved)
    method.eval()
    method.train()
    for network, module in method.networks.items():
        assert module.training == (network not in method.frozen)
    for network in method.frozen:
        assert not any(module.training for module in method.networks[network].modules())
        assert not any(parameter.requires_grad for parameter in method.networks[network].parameters())
        after = stepped(name)[0].networks[network].state_dict()
        torch.testing.assert_close(after, method.networks[network].state_dict(), rtol=0, atol=0)


def test_what_training_needs_is_asked_for_with_its_field_and_translation_does_without(name):
    settings, chosen = recipe(name), method_class(name)
    method, data, made = grown(build_method(settings), settings), batch(classes=CLASSES), {}
    assert len(copy.deepcopy(method).eval().translate(data)) == 2
    needed = {"segmentor": "segmentor" in chosen.needs(settings), "perceptual": "vgg19" in chosen.needs(settings)}
    if not any(needed.values()):
        method.losses(method.players()[0].name, data, made)
        return
    field = next(field for field, is_needed in needed.items() if is_needed)
    generators = next(player.name for player in method.players() if not player.discriminates)
    with pytest.raises(UserError, match=rf"^method\.{field}: "):
        method.losses(generators, data, made)


# Inference


def test_translation_is_an_image_or_a_label_map_without_gradient_and_the_same_each_time(name, trained):
    data = inputs(name)
    torch.manual_seed(3)
    output = trained.translate(data)
    torch.manual_seed(4)
    assert torch.equal(trained.translate(data), output)
    assert not output.requires_grad
    if method_class(name).task in ("segmentation", "mask_generation"):
        assert (output.shape, output.dtype) == ((2, 64, 64), torch.int64)
        assert 0 <= output.min() <= output.max() < CLASSES
    else:
        assert (output.shape, output.dtype) == ((2, 1, 64, 64), torch.float32)
        assert output.abs().max() <= 1


def test_networks_for_inference_are_enough_to_translate(name, trained):
    expected = trained.translate(inputs(name))
    assert set(trained.inference) <= set(trained.saved())
    for network in set(trained.networks) - set(trained.inference):
        del trained.networks[network]
    assert torch.equal(trained.translate(inputs(name)), expected)


def test_pictures_are_grey_images_of_one_range(trained):
    columns = trained.pictures(batch(classes=CLASSES))
    assert len(columns) >= 3
    for picture in columns.values():
        assert (picture.shape, picture.dtype) == ((2, 1, 64, 64), torch.float32)
        assert picture.abs().max() <= 1
        assert not picture.requires_grad
    if "label" in columns:
        assert set(columns["label"].unique().tolist()) == {-1.0, 0.0, 1.0}


def test_best_checkpoint_is_picked_by_a_score_that_the_method_can_have(name, trained):
    score, direction = method_class(name).criterion(recipe(name))
    assert (score, direction) in {
        *(("mae", "min"), ("cycle_mae", "min"), ("label_fidelity", "max"), ("dice", "max"), ("mask_distance", "min")),
        ("reconstruction_rmse", "min"),
    }
    assert (score == "dice") == (name == "segmentor")
    assert (score == "mask_distance") == (method_class(name).task == "mask_generation")
    assert (score == "reconstruction_rmse") == (method_class(name).task == "one_image")
    data = batch(classes=CLASSES)
    cycled = trained.cycle(data, trained.translate(data))
    assert cycled is not None or score != "cycle_mae"
    if cycled is not None:
        assert cycled.shape == (2, 1, 64, 64)
        assert not cycled.requires_grad


def test_loss_weights_are_fields_of_the_recipe(name):
    settings = recipe(name)
    weights = method_class(name).loss_weights(settings)
    assert len(set(weights)) == len(weights)
    assert bool(weights) == (name != "segmentor")
    assert all(isinstance(getattr(settings.method, weight), float) for weight in weights)


def test_a_section_of_the_recipe_has_the_methods_name_and_is_read_by_it_alone(name):
    section = SECTIONS[name]
    assert section().name == name
    other = recipe("metgan" if name != "metgan" else "sifa")
    if name != "segmentor":  # whose fields are those that all methods have
        with pytest.raises(TypeError, match=f"not the section of {other.method.name}"):
            section.of(other.method)


def test_a_method_asks_for_what_others_made_by_names_that_are_known(name):
    assert method_class(name).needs(recipe(name)) <= {"segmentor", *PUBLISHED}


def test_only_what_draws_a_latent_vector_has_samples(name, trained):
    data = batch(classes=CLASSES)
    if (drawn := trained.latents(2, torch.Generator().manual_seed(4))) is None:
        assert not name.endswith("_vae")
        with pytest.raises(UserError, match=r"^synthesis\.samples: "):
            trained.sample(data, 2)
        return
    first, again = (trained.sample(data, 3, torch.Generator().manual_seed(4)) for _ in range(2))
    assert first.shape == (2, 3, 1, 64, 64)
    assert first.abs().max() <= 1
    assert torch.equal(first, again)
    # A batch may bring its latent vectors: one for all its images, or one for each.
    assert torch.equal(trained.translate({**data, "latent": drawn}), trained.from_label(data["label"], drawn))


# Seeds and state


def test_seed_alone_decides_the_weights_and_global_random_numbers_stay(name, method):
    given = [method.networks[network] if network in method.frozen else None for network in ("segmentor", "vgg")]
    torch.manual_seed(7)
    state = torch.get_rng_state()
    settings = [recipe(name, seed=seed) for seed in (0, 1)]
    again, other = (grown(build_method(own, *given), own) for own in settings)
    assert torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(again.state_dict(), method.state_dict(), rtol=0, atol=0)
    for player in method.players():
        for network in player.networks:
            mine, theirs = method.networks[network].parameters(), other.networks[network].parameters()
            different = [not torch.equal(one, another) for one, another in zip(mine, theirs, strict=True)]
            assert any(different) or not different


def test_saved_networks_travel_through_a_file(name, trained):
    other = build(name, seed=1).eval()
    data = inputs(name)
    for network, module in trained.saved().items():
        other.networks[network].load_state_dict(through_a_file(module.state_dict()))
    torch.testing.assert_close(other.state_dict(), trained.state_dict(), rtol=0, atol=0)
    assert torch.equal(other.translate(data), trained.translate(data))


def test_pools_travel_through_a_file_and_go_on_as_if_never_stopped(trained, method):
    assert all(len(pool.entries) == 2 for pool in trained.pools.values())
    method.seed_pools(5)
    method.load_pool_state(through_a_file(trained.pool_state()))
    for key, pool in trained.pools.items():
        parts = [torch.zeros(8, *part.shape) + torch.arange(8.0).view(8, 1, 1, 1) for part in pool.entries[0]]
        for mine, theirs in zip(method.pools[key].query(*parts), pool.query(*parts), strict=True):
            assert torch.equal(mine, theirs)
    with pytest.raises(ValueError, match="does not fit"):
        method.load_pool_state({"nobody": {}})
