"""The label path of MetGen: seven SPADE ResNet blocks of which MetGen uses six (papers 1 and 2, figure 2)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from metgan_dist.networks.dimensions import check_edges, layers_of, scaled
from metgan_dist.networks.spade import HIDDEN, PADDING, Norm, SpadeBlock, one_hot_label

# Level of the coarsest features: they are at 1/32 of the edge.
COARSEST = 5


class LabelPath(nn.Module):
    """Turn a label map into the features that MetGen merges into its U-Net's decoder.

    The authors also compute a block at full resolution and drop its result. By default it is not built, which keeps to
    the network that they trained at about half the label path's work; `merge_full_resolution` builds it and merges its
    features.

    Args:
        classes: label classes, background included.
        width: multiplier of all channel numbers (at least 2; SPADE's hidden channels at least 8).
        merge_full_resolution: also give features at level 0.
        norm: of the SPADE blocks. The authors' is `batch`. On the coarsest grids most labels are empty, and then
            nothing varies but by the zeros beyond the border. BatchNorm enlarges that to variance 1: the features tell
            places in the tile instead of labels, and images have marks at fixed places. With `pixel` a label of one
            class gives the same features everywhere.
        halvings: how often each axis halves, as in the U-Net beside it; by default five times.

    `channels` tells the channels per level: {4: 128, 3: 128, 2: 32, 1: 16} at width 1, level L being 1/2^L of the edge.
    """

    def __init__(
        self,
        classes: int,
        *,
        width: float = 1.0,
        merge_full_resolution: bool = False,
        dimensions: int = 2,
        norm: Norm = "batch",
        halvings: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.halvings = tuple(min(times, COARSEST) for times in halvings or (COARSEST,) * dimensions)
        self.divisor = tuple(2**times for times in self.halvings)
        # A narrow network would otherwise squeeze the label through a channel or two.
        hidden = scaled(HIDDEN, width, least=8)
        wide, c64, c32, c16, c8 = (scaled(channels, width) for channels in (128, 64, 32, 16, 8))

        def block(in_channels: int, out_channels: int) -> SpadeBlock:
            """A SPADE block that takes the one-hot label, its hidden channels scaled as the path's."""
            return SpadeBlock(in_channels, out_channels, classes, hidden=hidden, dimensions=dimensions, norm=norm)

        self.first = layers_of(dimensions).convolution(
            classes, wide, kernel_size=3, padding=1, padding_mode=PADDING[norm]
        )
        self.head = block(wide, wide)
        self.middle_0, self.middle_1 = block(wide, wide), block(wide, wide)
        self.up_0, self.up_1, self.up_2 = block(wide, c64), block(c64, c32), block(c32, c16)
        self.up_3 = block(c16, c8) if merge_full_resolution else None
        self.channels = {4: wide, 3: wide, 2: c32, 1: c16} | ({0: c8} if merge_full_resolution else {})

    def forward(self, label: Tensor) -> dict[int, Tensor]:
        """Features per level of a label map (N, H, W) of integers 0..classes-1, H and W multiples of 32."""
        one_hot = one_hot_label(label, self.classes, self.first.weight.dtype)
        check_edges(label.shape[1:], self.divisor)
        coarsest = [edge // divisor for edge, divisor in zip(label.shape[1:], self.divisor, strict=True)]
        # Nearest neighbour keeps it one-hot: each coarse pixel is of one class, no mean of several.
        x = self.first(functional.interpolate(one_hot, size=coarsest, mode="nearest"))
        x = self._double(self.head(x, one_hot), 4)
        x = self.middle_1(self.middle_0(x, one_hot), one_hot)
        features = {4: x}
        # No block of its own at 1/8: what is merged there is that of 1/16, enlarged (128 channels both, as in
        # MetGAN's release).
        x = features[3] = self._double(x, 3)
        x = self._double(self.up_0(x, one_hot), 2)
        x = features[2] = self.up_1(x, one_hot)
        x = features[1] = self.up_2(self._double(x, 1), one_hot)
        if self.up_3 is not None:
            features[0] = self.up_3(self._double(x, 0), one_hot)
        return features

    def _double(self, x: Tensor, level: int) -> Tensor:
        """Features enlarged to `level` from the one below it, along the axes that halve between the two."""
        factors = [2.0 if times > level else 1.0 for times in self.halvings]
        return functional.interpolate(x, scale_factor=factors, mode="nearest")
