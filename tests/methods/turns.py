"""What tests of all methods need: a batch of noise, the players' optimisers, and a player's turn."""

import torch


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


def play(method, player, data, made, optimiser):
    """One update of one player, as the training loop does it."""
    for name, network in method.networks.items():
        network.requires_grad_(name in player.networks)
    optimiser.zero_grad()
    terms, images = method.losses(player.name, data, made)
    sum(terms.values()).backward()
    optimiser.step()
    return terms, made | images
