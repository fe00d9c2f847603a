"""Loss terms of the papers. Each is a mean over all pixels (or patches) of the batch, computed in float32 at least."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

AdversarialForm = Literal["least-squares", "log", "hinge"]


def generator_loss(fake: Tensor, form: AdversarialForm) -> Tensor:
    """Adversarial loss of a generator from a discriminator's logits on its images.

    least-squares: mean (D - 1)^2.
    log: mean -log sigmoid(D), the non-saturating form of paper 1's equation 1.
    hinge: mean -D.
    """
    fake = full_precision(fake)
    if form == "least-squares":
        return (fake - 1).square().mean()
    if form == "log":
        # -log sigmoid(D) as softplus(-D), which neither overflows nor takes the logarithm of 0.
        return functional.softplus(-fake).mean()
    return -fake.mean()


def discriminator_loss(real: Tensor, fake: Tensor, form: AdversarialForm) -> Tensor:
    """Adversarial loss of a discriminator from its logits on real and generated images.

    least-squares: 0.5 (mean (D(real) - 1)^2 + mean D(fake)^2), as released.
    log: mean -log sigmoid(D(real)) + mean -log(1 - sigmoid(D(fake))), minus paper 1's equation 1 for one domain.
    hinge: mean max(0, 1 - D(real)) + mean max(0, 1 + D(fake)).
    """
    real, fake = full_precision(real), full_precision(fake)
    if form == "least-squares":
        return 0.5 * ((real - 1).square().mean() + fake.square().mean())
    if form == "log":
        return functional.softplus(-real).mean() + functional.softplus(fake).mean()
    return functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()


def judged_together(discriminator: Callable[..., Tensor], *seen: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """A discriminator's logits on several batches of images, asked once; one entry of equal size for each.

    `seen` has what the discriminator takes of each batch: the images, and a condition where it has one. For
    discriminators whose norms treat each image alone, so that it matters to none what is judged beside it.
    """
    together = [torch.cat(parts) for parts in zip(*seen, strict=True)]
    return discriminator(*together).chunk(len(seen))


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor, *, per_pixel: bool = False
) -> Tensor:
    """Mean of (|gradient of the critic's sum| - 1)^2 between real and generated images (Gulrajani et al. 2017).

    Args:
        critic: images -> numbers, one an image or many.
        real, fake: (N, C, ...), without gradients.
        mix: share of the real one, (N, 1, ...) in [0, 1].
        per_pixel: the norm runs over the channels of each pixel, and the mean over pixels too, as SinGAN's code has it;
            otherwise over all values of an image.
    """
    # A square of a norm of a gradient has no bits to spare: never in half precision.
    with torch.enable_grad(), torch.autocast(real.device.type, enabled=False):
        between = (mix * real + (1 - mix) * fake).requires_grad_(True)
        (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        length = torch.linalg.vector_norm(slope if per_pixel else slope.flatten(1), dim=1)
        return (length - 1).square().mean()


def l1(image: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference: the norm of the cycle and pair losses (paper 1, equations 2 and 3)."""
    return (full_precision(image) - full_precision(target)).abs().mean()


def weighted_cross_entropy(logits: Tensor, target: Tensor, *, positive: float, negative: float) -> Tensor:
    """Binary cross-entropy with weights for foreground and background; mean over pixels and channels.

    Args:
        logits: before the sigmoid, any shape.
        target: of the same shape, in [0, 1].
        positive, negative: weights of foreground and background pixels. The sum is divided by the number of pixels,
            not by the sum of the weights, so a background pixel at chance contributes negative * log 2.
    """
    logits, target = full_precision(logits), full_precision(target)
    # From logits, not probabilities: a pixel that is wrong and sure keeps a finite loss and its gradient.
    foreground = positive * target * functional.softplus(-logits)
    background = negative * (1 - target) * functional.softplus(logits)
    return (foreground + background).mean()


def full_precision(x: Tensor) -> Tensor:
    """Half-precision tensors as float32; others as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Multi-class cross-entropy of logits (N, classes, ...) against a label map (N, ...) of 0..classes-1.

    All classes weigh the same, background included (paper 5, equation 2).
    """
    return functional.cross_entropy(full_precision(logits), label.long())


def segmentation_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy + Dice of logits (N, classes, [D,] H, W) against a label map (N, [D,] H, W) of 0..classes-1."""
    return frequency_weighted_cross_entropy(logits, label) + dice_loss(logits, label)


def frequency_weighted_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy with the class weights 1 - frequency in the batch, so that large classes do not drown small ones.

    The sum is divided by the number of pixels, not by the sum of the weights. A batch of one class alone gives 0.
    """
    logits = full_precision(logits)
    target = functional.one_hot(label.long(), logits.shape[1]).to(logits.dtype)
    frequency = target.mean(dim=tuple(range(target.dim() - 1)))
    # torch's own mean divides by the sum of the weights: the loss would change its scale with the label.
    return functional.cross_entropy(logits, label.long(), weight=1 - frequency, reduction="none").mean()


def cross_entropy_and_dice(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy + soft Dice of the foreground as paper 4's equation 2 has it, of the same as `segmentation_loss`.

    Classes weigh the same in the cross-entropy, and probabilities are not squared in the Dice.
    """
    return cross_entropy(logits, label) + dice_loss(logits, label, squares=False, background=False)


def dice_loss(logits: Tensor, label: Tensor, *, squares: bool = True, background: bool = True) -> Tensor:
    """1 - mean over classes of 2 sum(p t) / (sum(p^2) + sum(t)), p the softmax, t the label's indicator.

    The sums run over the batch. A class that the batch does not hold has a Dice of 0, and no gradient. Without
    `squares` it is sum(p) in place of sum(p^2); without `background` class 0 is left out of the mean.
    """
    probability = full_precision(logits).softmax(dim=1)
    target = functional.one_hot(label.long(), logits.shape[1]).movedim(-1, 1).to(probability.dtype)
    axes = (0, *range(2, logits.dim()))
    # Squared probabilities, as in V-Net (Milletari et al. 2016) and SIFA's release.
    own = probability.square() if squares else probability
    overlap, size = (probability * target).sum(axes), (own + target).sum(axes)
    # 1e-7 matters only where a class is neither there nor predicted: 0 / 0.
    return 1 - (2 * overlap / (size + 1e-7))[0 if background else 1 :].mean()
