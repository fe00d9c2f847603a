"""A method on images larger than its tiles, such as whole volumes: window by window, blended where windows overlap."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metgan_dist.methods.method import Batch, Method
from metgan_dist.methods.segmentor import Segmentor, likeliest

# What of a batch is cut into windows; the rest, such as organs, goes along with each.
_IMAGES, _LABELS = ("anatomy", "tumour"), ("label", "tumour_label")


@torch.no_grad()
def translate_in_windows(
    method: Method, batch: Batch, window: Sequence[int], *, overlap: float = 0.5, at_once: int = 1, back: bool = False
) -> Tensor:
    """What `method.translate` gives of a batch, made of windows by MONAI's sliding_window_inference.

    Windows count by a Gaussian about their middle, so that none of their borders shows. Of segmentors it is the
    probabilities that are blended; what is smaller than a window is continued by its border for the while.

    Args:
        method: in eval mode.
        batch: images (N, C, [D,] H, W) in [-1, 1] and labels (N, [D,] H, W), those that the method looks at.
        window: edges of the tiles that it was trained on, ([D,] H, W).
        overlap: of neighbouring windows, 0 to 1.
        at_once: windows in one forward pass.
        back: what `method.translate_back` gives instead.

    Returns:
        Images (N, C, [D,] H, W), or of segmentors label maps (N, [D,] H, W) int64.
    """
    blended = _all_blended(method, batch, window, overlap, at_once, back)
    return likeliest(blended, method.network.threshold) if isinstance(method, Segmentor) else blended


@torch.no_grad()
def chances_in_windows(
    segmentor: Segmentor, images: Tensor, window: Sequence[int], *, overlap: float = 0.5, at_once: int = 1
) -> Tensor:
    """Probabilities (N, classes - 1, [D,] H, W) of the foreground classes in images (N, C, [D,] H, W), which may be
    larger than the tiles that it was trained on; arguments as of `translate_in_windows`."""
    return _all_blended(segmentor, {"tumour": images}, window, overlap, at_once, False)


def _all_blended(
    method: Method, batch: Batch, window: Sequence[int], overlap: float, at_once: int, back: bool
) -> Tensor:
    single = [{name: value[n : n + 1] for name, value in batch.items()} for n in range(len(next(iter(batch.values()))))]
    return torch.cat([_blended(method, one, window, overlap, at_once, back) for one in single])


def _blended(method: Method, one: Batch, window: Sequence[int], overlap: float, at_once: int, back: bool) -> Tensor:
    """Images, or probabilities of segmentors, (1, C, [D,] H, W) of a single image."""
    from monai.inferers.utils import sliding_window_inference  # MONAI takes many seconds to import

    parts = {name: one[name].float() for name in _IMAGES if name in one}
    labels = [name for name in _LABELS if name in one]
    for name in labels:
        parts[name] = one[name][:, None].float()  # whole numbers, which float32 keeps
    others = {name: value for name, value in one.items() if name not in parts}
    channels = [part.shape[1] for part in parts.values()]

    def predicted(windows: Tensor) -> Tensor:
        """Of windows (n, channels of all parts, *window)."""
        seen = dict(zip(parts, windows.split(channels, dim=1), strict=True))
        if isinstance(method, Segmentor):
            return method.network.probabilities(seen["tumour"])
        for name in labels:
            seen[name] = seen[name][:, 0].long()
        repeated = {name: value.expand(len(windows), *value.shape[1:]) for name, value in others.items()}
        return (method.translate_back if back else method.translate)({**repeated, **seen}).float()

    made = sliding_window_inference(
        torch.cat(list(parts.values()), dim=1),
        tuple(window),
        at_once,
        predicted,
        overlap=overlap,
        mode="gaussian",
        padding_mode="replicate",
    )
    assert isinstance(made, Tensor)
    return made
