"""What tests of all methods need: a batch of noise, a stand-in for VGG19, the players' optimisers, a player's turn."""

import torch
from torch import nn


class FiveFeatures(nn.Module):
    """Stands for VGG19 with five small convolutions."""

    def __init__(self, channels=1):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(channels if i == 0 else 4, 4, 3, 2, 1) for i in range(5))

    def forward(self, image):
        features = []
        for layer in self.layers:
            image = layer(image).relu()
            features.append(image)
        return features


def batch(n=2, channels=1, classes=2, edges=(64, 64), seed=1):
    """Anatomy and tumour (n, channels, *edges) in [-1, 1], label (n, *edges); always the same for one seed."""
    torch.manual_seed(seed)
    return {
        "anatomy": torch.rand(n, channels, *edges) * 2 - 1,
        "tumour": torch.rand(n, channels, *edges) * 2 - 1,
        "label": torch.randint(0, classes, (n, *edges)),
    }


def optimisers(method):
    """Adam of each player, by name."""
    return {
        player.name: torch.optim.Adam(
            [p for name in player.networks for p in method.networks[name].parameters()],
            lr=player.learning_rate,
            betas=player.betas,
        )
        for player in method.players()
    }


def unreached(method, data):
    """Names of the parameters to which their own player's turn brings no gradient; DDP would wait for them for ever."""
    made, missing = {}, []
    for player in method.players():
        method.zero_grad()
        terms, images = method.losses(player.name, data, made)
        sum(terms.values()).backward()
        missing += without_gradient(method, player)
        made |= images
    return missing


def without_gradient(method, player):
    """Names of the player's parameters that have no gradient."""
    return [k for n in player.networks for k, p in method.networks[n].named_parameters() if p.grad is None]


def dice(found, wanted):
    """Overlap of two masks, as a number."""
    return (2 * (found & wanted).sum() / (found.sum() + wanted.sum())).item()


def play(method, player, data, made, optimiser):
    """One update of one player, as the training loop does it."""
    for name, network in method.networks.items():
        network.requires_grad_(name in player.networks)
    optimiser.zero_grad()
    terms, images = method.losses(player.name, data, made)
    sum(terms.values()).backward()
    optimiser.step()
    return terms, made | images


def play_all(method, data, adams):
    """One step: every player in its order; the terms of each."""
    made, terms = {}, {}
    for player in method.players():
        terms[player.name], made = play(method, player, data, made, adams[player.name])
    return terms


def check_trains(method, data):
    """In one step each player's turn reaches all of its parameters, and the terms are finite."""
    adams, made = optimisers(method), {}
    for player in method.players():
        terms, made = play(method, player, data, made, adams[player.name])
        assert all(value.isfinite() for value in terms.values())
        assert without_gradient(method, player) == []


def one_turn_each(method, data):
    """The terms of every player in order, without updates, and all that was made."""
    made, terms = {}, {}
    for player in method.players():
        terms[player.name], images = method.losses(player.name, data, made)
        made |= images
    return terms, made


def least_squares(logits, target):
    """The adversarial loss of least squares, by hand."""
    return ((logits - target) ** 2).mean()
