"""Initial weights of SPADE, SEAN and RedGAN."""

from __future__ import annotations

from torch import nn

from metgan_dist.networks.spectral import raw_weight


def initialise_xavier(network: nn.Module, gain: float = 0.02) -> nn.Module:
    """Draw weights of convolutions and linear layers from N(0, 2 gain^2 / (fan in + fan out)), biases 0, in place.

    Under spectral norm it is the raw weight that is drawn; its scale says how far an Adam step turns it. Draws from
    torch's global random state. Returns `network`.
    """
    for module in list(network.modules()):
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            with raw_weight(module):
                nn.init.xavier_normal_(module.weight, gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
