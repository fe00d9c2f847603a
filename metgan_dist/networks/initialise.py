"""Initial weights: as in CycleGAN's release, which MetGAN's authors build on, as in SPADE's, and as in U-Net's."""

from __future__ import annotations

from torch import nn

from metgan_dist.networks.spectral import raw_weight


def initialise(network: nn.Module, deviation: float = 0.02) -> nn.Module:
    """Draw convolution weights from N(0, `deviation`) and BatchNorm weights from N(1, `deviation`), biases 0, in place.

    Spectral norms are taken off before and put back after: their power iteration starts from the weight at hand, and
    one that starts from another weight misjudges the norm for the first steps. Draws from torch's global random state.
    Returns `network`.
    """
    for module in list(network.modules()):
        if isinstance(module, nn.modules.conv._ConvNd):
            with raw_weight(module):
                nn.init.normal_(module.weight, 0.0, deviation)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            nn.init.normal_(module.weight, 1.0, deviation)
            nn.init.zeros_(module.bias)
    return network


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


def initialise_he(network: nn.Module) -> nn.Module:
    """Draw convolution weights from N(0, 2 / fan in), biases 0, in place (He et al. 2015, as U-Net does).

    For networks without norms, in which a signal keeps its size from layer to layer only so: from N(0, 0.02) it fades,
    and with it the gradient. Draws from torch's global random state. Returns `network`.
    """
    for module in list(network.modules()):
        if isinstance(module, nn.modules.conv._ConvNd):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
