"""VGG19's features, for the perceptual loss."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from metgan_dist.errors import UserError

# relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1 among torchvision's layers.
TAPS = (1, 6, 11, 20, 29)
# Of the images that the published weights were trained on, red, green, blue in [0, 1].
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Vgg19Features(nn.Module):
    """torchvision's VGG19 up to relu5_1, frozen, with the weights of a state dict of `torchvision.models.vgg19`.

    Every channel of an image counts as a grey image and is repeated to red, green and blue: a microscope's channels are
    no colours, and any number of them will do.

    Args:
        weights: path of the state dict (torchvision's `vgg19-dcbb9e9d.pth`; its classifier is not read). Raises
            UserError when it cannot be read or is not of a VGG19.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, weights: str | Path) -> None:
        super().__init__()
        from torchvision.models import vgg19  # loads torch's compiler: not in each process that knows of methods

        with torch.device("meta"):  # without memory for the classifier's 120 million weights
            layers = vgg19(weights=None).features[: TAPS[-1] + 1]
        self.layers = cast(nn.Sequential, layers)
        self.layers.load_state_dict(_feature_weights(weights, self.layers), assign=True)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(IMAGENET_DEVIATION).view(3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor) -> list[Tensor]:
        """Five features (N C, 64, H, W) to (N C, 512, H/16, W/16) of images (N, C, H, W) in [-1, 1].

        The image is taken to [0, 1], then normalised by ImageNet's mean and deviation.
        """
        x = (image.flatten(0, 1).unsqueeze(1) + 1) / 2
        # One channel less three means makes three: so the grey image becomes red, green and blue.
        x = (x - self.mean) / self.deviation
        features = []
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number in TAPS:
                features.append(x)
        return features


def _feature_weights(path: str | Path, layers: nn.Module) -> dict[str, Tensor]:
    """The weights in `path` that `layers` takes, each of the right shape."""
    advice = "METGAN_WEIGHTS needs the state dict of torchvision's vgg19 (vgg19-dcbb9e9d.pth)"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file that is no state dict makes of the unpickler
        raise UserError(f"{path}: not readable as weights ({type(error).__name__}); {advice}") from error
    found = {}
    for name, expected in layers.state_dict().items():
        value = state.get(f"features.{name}") if isinstance(state, dict) else None
        if not isinstance(value, Tensor) or value.shape != expected.shape:
            raise UserError(f"{path}: no weight features.{name} of shape {tuple(expected.shape)}; {advice}")
        found[name] = value.float()
    return found
