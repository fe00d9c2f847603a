"""Losses that SPADE, SEAN and RedGAN share: multi-scale hinge, feature matching, perceptual, KL.

A discriminator's output here is a list per scale of a list of tensors: the features of its layers and, last, its
logits. All losses are computed in float32 at least.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metgan_dist.methods.losses import AdversarialForm, discriminator_loss, full_precision, generator_loss, l1

Judged = Sequence[Sequence[Tensor]]

# Weights of VGG19's relu1_1, relu2_1, relu3_1, relu4_1, relu5_1.
PERCEPTUAL_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)


def multiscale_generator_loss(fake: Judged, form: AdversarialForm) -> Tensor:
    """`generator_loss` of each scale's logits, the mean over scales."""
    return torch.stack([generator_loss(scale[-1], form) for scale in fake]).mean()


def multiscale_discriminator_loss(real: Judged, fake: Judged, form: AdversarialForm) -> Tensor:
    """`discriminator_loss` of each scale's logits, the mean over scales."""
    pairs = zip(real, fake, strict=True)
    return torch.stack([discriminator_loss(r[-1], f[-1], form) for r, f in pairs]).mean()


def feature_matching(fake: Judged, real: Judged) -> Tensor:
    """L1 between the features of generated and real images: summed over layers but the last, mean over scales.

    The real features are the target and get no gradient.
    """
    scales = [
        torch.stack([l1(f, r.detach()) for f, r in zip(fakes[:-1], reals[:-1], strict=True)]).sum()
        for fakes, reals in zip(fake, real, strict=True)
    ]
    return torch.stack(scales).mean()


def perceptual_loss(vgg: Callable[[Tensor], Sequence[Tensor]], image: Tensor, target: Tensor) -> Tensor:
    """L1 between VGG19's features of two images in [-1, 1], weighted 1/32, 1/16, 1/8, 1/4, 1 from shallow to deep.

    `vgg` gives the five features of an image. The target gets no gradient.
    """
    with torch.no_grad():
        wanted = vgg(target)
    found = vgg(image)
    terms = zip(PERCEPTUAL_WEIGHTS, found, wanted, strict=True)
    return torch.stack([weight * l1(f, w) for weight, f, w in terms]).sum()


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL of N(mean, exp(log_variance)) from N(0, 1), both (N, latent): summed over the latent, mean over the batch."""
    # The exponential of a log-variance above 11 is no float16 any more.
    mean, log_variance = full_precision(mean), full_precision(log_variance)
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()


def split_fake_and_real(judged: Judged) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """Undo a batch whose first half is generated and second half real: (fake, real), each per scale and layer."""
    fake = [[feature.chunk(2)[0] for feature in scale] for scale in judged]
    real = [[feature.chunk(2)[1] for feature in scale] for scale in judged]
    return fake, real
