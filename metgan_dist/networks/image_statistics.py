"""BatchNorm at inference as it was in training on single images: by the statistics of the image itself.

A network that trains on one image a step, as pix2pix, CycleGAN and MetGAN do, never sees how bright an image is as a
whole: its norms take that away from each. Running statistics are those of no single image, and what is made under them
may be flat or patchy while the rates are high (docs/training.md has numbers). Isola et al. (CVPR 2017, section 3.4)
make their images by the statistics of the test image. Then the brightness of an image as a whole counts for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def image_statistics(network: nn.Module) -> Iterator[None]:
    """Within it, norms of `network` in eval mode take mean and variance over each image's own pixels.

    So what is made of an image does not depend on those that share its batch. Norms in training mode go on as they are,
    and no running statistics change. A map of a single pixel, whose variance is 0, is normalised by the running ones.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and not module.training]
    for norm in norms:
        norm.forward = _by_image(norm, norm.forward)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward  # the class's own is found again


def _by_image(norm: _BatchNorm, by_running: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        if x[0, 0].numel() == 1:
            return by_running(x)
        return functional.instance_norm(x, weight=norm.weight, bias=norm.bias, eps=norm.eps)

    return forward
