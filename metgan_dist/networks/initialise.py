"""Initial weights as in CycleGAN's release, which MetGAN's authors build on."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm


def initialise(network: nn.Module, deviation: float = 0.02) -> nn.Module:
    """Draw convolution weights from N(0, `deviation`) and BatchNorm weights from N(1, `deviation`), biases 0, in place.

    Spectral norms are taken off before and put back after: their power iteration starts from the weight at hand, and
    one that starts from another weight misjudges the norm for the first steps. Draws from torch's global random state.
    Returns `network`.
    """
    for module in list(network.modules()):
        if isinstance(module, nn.modules.conv._ConvNd):
            normalised = parametrize.is_parametrized(module, "weight")
            if normalised:
                parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
            nn.init.normal_(module.weight, 0.0, deviation)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if normalised:
                spectral_norm(module)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            nn.init.normal_(module.weight, 1.0, deviation)
            nn.init.zeros_(module.bias)
    return network
