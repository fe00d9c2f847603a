"""What a segmentation of any number of classes is trained with: cross-entropy that minds rare classes, and Dice."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from metgan_dist.methods.losses import full_precision


def segmentation_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy + Dice loss of logits (N, classes, H, W) against a label map (N, H, W) of 0..classes-1."""
    return frequency_weighted_cross_entropy(logits, label) + dice_loss(logits, label)


def frequency_weighted_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy with the class weights 1 - frequency in the batch, so that large classes do not drown small ones.

    The sum is divided by the number of pixels, not by the sum of the weights. A batch of one class alone gives 0.
    """
    logits = full_precision(logits)
    target = functional.one_hot(label.long(), logits.shape[1]).to(logits.dtype)
    frequency = target.mean(dim=(0, 1, 2))
    return functional.cross_entropy(logits, label.long(), weight=1 - frequency, reduction="none").mean()


def dice_loss(logits: Tensor, label: Tensor) -> Tensor:
    """1 - mean over classes of 2 sum(p t) / (sum(p^2) + sum(t)), p the softmax, t the label's indicator.

    The sums run over the batch. A class that the batch does not hold has a Dice of 0, and no gradient.
    """
    probability = full_precision(logits).softmax(dim=1)
    target = functional.one_hot(label.long(), logits.shape[1]).movedim(-1, 1).to(probability.dtype)
    axes = (0, 2, 3)
    overlap, size = (probability * target).sum(axes), (probability.square() + target).sum(axes)
    return 1 - (2 * overlap / (size + 1e-7)).mean()
