"""The segmentor: a U-Net that finds tumours in real images and then, frozen, judges the generator (paper 1, 2.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from metgan_dist.errors import UserError
from metgan_dist.methods.losses import cross_entropy_and_dice, full_precision, weighted_cross_entropy
from metgan_dist.methods.method import Batch, Best, Losses, Method, Player
from metgan_dist.networks.dynunet import DynUNet, dynunet_layout
from metgan_dist.networks.nnunet_plan import LEAST_EDGE
from metgan_dist.networks.resnet_unet import ResNetUNet
from metgan_dist.networks.spade import one_hot_label
from metgan_dist.networks.unet import LEAST_HALVINGS, UNet, centre_values, halvings_of
from metgan_dist.networks.unet_stroke import UNetStroke
from metgan_dist.recipe.methods.segmentor import SegmentorRecipe

if TYPE_CHECKING:
    from metgan_dist.recipe import Recipe

Architecture = Literal["unet", "resnet-34", "dynunet", "unet-stroke"]
SegmentorLoss = Literal["wbce", "ce-dice"]

# Weights of tumour and background pixels with which the authors trained their segmentor, and its threshold.
POSITIVE, NEGATIVE, THRESHOLD = 2.0, 0.5, 0.5
# What share of the pixels an untrained segmentor takes for foreground, and the deviation of its last layer's weights.
PRIOR, NEAR_ZERO = 0.01, 0.01
# An output of half the resolution counts half as much (nnU-Net's deep supervision).
COARSER = 0.5
# An image whose brightest pixel is below this fraction of the range counts as black and is not stretched to it.
DARKEST_MAXIMUM = 1e-3


def normalise_by_local_maximum(image: Tensor) -> Tensor:
    """Take images (N, C, ...) from [-1, 1] to [0, 1] and divide each channel by its own brightest pixel.

    Each image alone: what else is in the batch does not change it; and each of its channels alone, since a bright one
    says nothing of how bright another can be. A black or constant image gives finite values.
    Differentiable, the maximum included.
    """
    # The authors' code scales a whole batch at once, and divides by zero on a constant image (MetGAN's release).
    positive = (full_precision(image) + 1) / 2
    brightest = positive.amax(dim=tuple(range(2, image.dim())), keepdim=True)
    return positive / brightest.clamp_min(DARKEST_MAXIMUM)


def one_versus_rest(label: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """A label map (N, H, W) of 0..classes-1 as one binary map per foreground class, (N, classes - 1, H, W)."""
    return one_hot_label(label, classes, dtype)[:, 1:]


def likeliest(scores: Tensor, least: float) -> Tensor:
    """Hard labels (N, H, W) int64 of scores (N, classes - 1, H, W): the class of the highest above `least`, else 0."""
    highest, index = scores.max(dim=1)
    return torch.where(highest > least, index + 1, 0)


def expect_little(output: nn.modules.conv._ConvNd, *, background: bool = False) -> None:
    """Start a last layer, which follows a ReLU, at the probability PRIOR everywhere and at weights near 0, in place.

    As RetinaNet's (Lin et al., ICCV 2017, section 4.1), for labels that are rare. From torch's own start all pixels of
    the background first push the weights down. Where all are negative (a narrow U-Net has six), background is what is
    active, and foreground, where nothing is, has the bias as its logit: 0 at best, and falling. From here background
    asks for little, and the foreground chooses the signs. nnU-Net's last layer follows a LeakyReLU, and stays as it is.

    With `background` the first output is that of background, against which the others have this probability each.
    """
    assert output.bias is not None
    nn.init.normal_(output.weight, 0.0, NEAR_ZERO)
    nn.init.constant_(output.bias, math.log(PRIOR / (1 - PRIOR)))
    if background:
        nn.init.zeros_(output.bias[:1])


class SegmentorNetwork(nn.Module):
    """A network with one output channel per foreground class, behind the local-maximum normalisation.

    Args:
        classes: label classes, background included.
        channels: channels of the tumour images.
        width: multiplier of all channel numbers.
        network: `unet`, that of Pan et al. (MetGAN's release); `resnet-34`, RedGAN's ResNet34-U-Net (2D only);
            `dynunet`, nnU-Net's; or `unet-stroke`, paper 4's, whose softmax has an output for background, too: what
            `forward` gives of it are differences from that, which softmax and, of two classes, sigmoid read alike.
        edges: pixels of a tile, (H, W) or (D, H, W); `dynunet` is as deep as they allow, and `unet` in 3D.
        spacing: size of a pixel along each axis, where it is known: `dynunet` spares thick slices.
        threshold: probability above which a pixel is foreground.
    """

    def __init__(
        self,
        classes: int = 2,
        *,
        channels: int = 1,
        width: float = 1.0,
        network: Architecture = "unet",
        edges: Sequence[int] = (256, 256),
        spacing: Sequence[float] | None = None,
        threshold: float = THRESHOLD,
    ) -> None:
        super().__init__()
        # The threshold as a logit, so that no sigmoid is needed for a label.
        self.classes, self.threshold, self.cut = classes, threshold, math.log(threshold / (1 - threshold))
        self.unet: UNet | ResNetUNet | DynUNet | UNetStroke
        if network == "resnet-34":
            self.unet = ResNetUNet(channels, classes - 1, width=width)
        elif network == "dynunet":
            self.unet = DynUNet(channels, classes - 1, edges, spacing=spacing, width=width)
        elif network == "unet-stroke":
            self.unet = UNetStroke(channels, classes, width=width, dimensions=len(edges))
        else:
            self.unet = UNet(channels, classes - 1, width=width, dimensions=len(edges), halvings=halvings_of(edges))
        if not isinstance(self.unet, DynUNet):
            expect_little(self.unet.output, background=isinstance(self.unet, UNetStroke))
        self.divisor: int | tuple[int, ...] = self.unet.divisor

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, classes - 1, H, W), before a sigmoid, of tumour images (N, channels, H, W) in [-1, 1]."""
        logits: Tensor = self.unet(normalise_by_local_maximum(image))
        return logits[:, 1:] - logits[:, :1] if isinstance(self.unet, UNetStroke) else logits

    def supervised(self, image: Tensor) -> list[Tensor]:
        """What is compared with the label in training: the logits, and those of coarser levels where there are any."""
        if isinstance(self.unet, DynUNet):
            return self.unet.supervised(normalise_by_local_maximum(image))
        return [self(image)]

    def label_map(self, image: Tensor) -> Tensor:
        """Hard labels (N, H, W) int64: the likeliest class where its probability exceeds the threshold, else 0."""
        return likeliest(self(image), self.cut)

    def probabilities(self, image: Tensor) -> Tensor:
        """Of each foreground class, (N, classes - 1, H, W) float32: what overlapping tiles are averaged by."""
        return full_precision(self(image)).sigmoid()

    def class_scores(self, image: Tensor) -> Tensor:
        """Of every class, (N, classes, H, W) float32, whose highest is the label: background has the threshold."""
        chances = self.probabilities(image)
        return torch.cat([torch.full_like(chances[:, :1], self.threshold), chances], dim=1)


class Segmentor(Method):
    """Training of the segmentor on real tumour images and their labels.

    Adam 1e-4, weighted binary cross-entropy [2, 0.5], threshold 0.5 (MetGAN's release). More than two classes are
    segmented one versus rest; with the loss `ce-dice` they share a softmax, in which background has the logit 0.

    Args:
        network: what is trained.
        learning_rate: Adam's.
        positive, negative: weights of foreground and background pixels in the loss `wbce`.
        loss: `wbce`, weighted binary cross-entropy; `ce-dice`, cross-entropy + soft Dice (paper 4).
    """

    inference = ("segmentor",)
    dimensions: ClassVar[tuple[int, ...]] = (2, 3)
    task = "segmentation"
    judged = False

    def __init__(
        self,
        network: SegmentorNetwork,
        *,
        learning_rate: float = 1e-4,
        positive: float = POSITIVE,
        negative: float = NEGATIVE,
        loss: SegmentorLoss = "wbce",
    ) -> None:
        super().__init__({"segmentor": network})
        self.loss: SegmentorLoss = loss
        self.classes = network.classes
        self.learning_rate = learning_rate
        self.weights = {"positive": positive, "negative": negative}

    @classmethod
    def criterion(cls, recipe: Recipe) -> Best:
        """The Dice score, higher being better."""
        return ("dice", "max")

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """UserError for a network of 2D images on crops, and for tiles too small for DynUNet's levels."""
        if recipe.method.segmentor_network == "resnet-34" and recipe.tiles.dimensions == 3:
            raise UserError(
                "method.segmentor_network: resnet-34 has a 2D encoder, and tiles.kind crop gives 3D tiles; use unet or "
                "dynunet"
            )
        if recipe.method.segmentor_network == "dynunet":
            try:
                dynunet_layout(recipe.tiles.shape, recipe.tiles.pixel_size)
            except ValueError as error:
                raise UserError(f"tiles.size: {error}") from error

    @classmethod
    def divisor(cls, recipe: Recipe) -> int:
        """That of its network; DynUNet is laid out for the tiles, each of whose edges it halves."""
        of_unet = 2 ** LEAST_HALVINGS[recipe.tiles.dimensions]
        divisors = {
            "unet": of_unet,
            "resnet-34": ResNetUNet.divisor,
            "dynunet": 2,
            "unet-stroke": UNetStroke.divisor,
        }
        return divisors[recipe.method.segmentor_network]

    @classmethod
    def least_edge(cls, recipe: Recipe) -> int:
        """DynUNet leaves four pixels or more."""
        return 2 * LEAST_EDGE if recipe.method.segmentor_network == "dynunet" else cls.divisor(recipe)

    @classmethod
    def fewest_values(cls, recipe: Recipe, edges: Sequence[int]) -> int | None:
        """Those at the U-Net's centre, after the last stage of ResNet34 or the first transposed convolution of paper 4.

        DynUNet has no BatchNorm.
        """
        match recipe.method.segmentor_network:
            case "unet":
                return centre_values(edges)
            case "resnet-34":
                return math.prod(edge // ResNetUNet.divisor for edge in edges)
            case "unet-stroke":
                return math.prod(2 * edge // UNetStroke.divisor for edge in edges)
        return None

    @classmethod
    def from_recipe(
        cls, recipe: Recipe, segmentor: nn.Module | None = None, perceptual: nn.Module | None = None
    ) -> Self:
        """The segmentor that the recipe describes; one that is passed in is trained on."""
        network = build_segmentor_network(recipe) if segmentor is None else segmentor
        if not isinstance(network, SegmentorNetwork):
            raise TypeError(f"a SegmentorNetwork expected, got {type(network).__name__}")
        method = recipe.method
        return cls(
            network,
            learning_rate=method.segmentor_learning_rate,
            positive=method.segmentor_positive,
            negative=method.segmentor_negative,
            loss=method.segmentor_loss,
        )

    @property
    def network(self) -> SegmentorNetwork:
        """The network that is trained, the only one."""
        network = self.networks["segmentor"]
        assert isinstance(network, SegmentorNetwork)
        return network

    def players(self) -> tuple[Player, ...]:
        """One: Adam with its usual betas."""
        return (Player("segmentor", ("segmentor",), self.learning_rate, (0.9, 0.999)),)

    def losses(self, player: str, batch: Batch, made: dict[str, Tensor]) -> Losses:
        """The term `segmentation`, coarser outputs included; makes nothing."""
        outputs = self.network.supervised(batch["tumour"])
        shares = [COARSER**level for level in range(len(outputs))]
        terms = [share * self._loss(logits, batch["label"]) for share, logits in zip(shares, outputs, strict=True)]
        # By the sum of the shares, so that the term has one scale whatever the number of levels.
        return {"segmentation": torch.stack(terms).sum() / sum(shares)}, {}

    def _loss(self, logits: Tensor, label: Tensor) -> Tensor:
        if self.loss == "ce-dice":
            return cross_entropy_and_dice(torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1), label)
        return weighted_cross_entropy(logits, one_versus_rest(label, self.classes, logits.dtype), **self.weights)

    @torch.no_grad()
    def translate(self, batch: Batch) -> Tensor:
        """Hard label map (N, H, W) int64 of the tumour images; needs `tumour` only."""
        return self.network.label_map(batch["tumour"])

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The columns tumour, label, predicted."""
        return {
            "tumour": batch["tumour"],
            "label": label_picture(batch["label"], self.classes),
            "predicted": label_picture(self.translate(batch), self.classes),
        }


def label_picture(label: Tensor, classes: int) -> Tensor:
    """A label map (N, H, W) as an image (N, 1, H, W): background -1, the highest class 1."""
    return label.unsqueeze(1).float() * (2 / (classes - 1)) - 1


def build_segmentor_network(recipe: Recipe) -> SegmentorNetwork:
    """An untrained segmentor as the recipe describes it, to be trained or to load a checkpoint into."""
    method = recipe.method
    return SegmentorNetwork(
        recipe.data.classes,
        channels=recipe.data.channel_numbers[1],
        width=method.segmentor_width,
        network=method.segmentor_network,
        edges=recipe.tiles.shape,
        spacing=recipe.tiles.pixel_size,
        threshold=method.segmentor_threshold,
    )


def judge_recipe(recipe: Recipe) -> Recipe:
    """The recipe that trains the judge of `recipe`: as its segmentor, but another network from another seed.

    What a segmentor cannot see, a generator that was trained to please it need not draw; a judge of the same family
    would see as little.
    """
    network = "unet" if recipe.method.segmentor_network == "dynunet" else "dynunet"
    return segmentor_recipe(recipe, seed_offset=1, network=network)


def segmentor_recipe(recipe: Recipe, seed_offset: int = 0, network: str | None = None) -> Recipe:
    """The recipe that pretrains the segmentor of `recipe` (MetGAN's release: Adam 1e-4, batch 4, 40 epochs).

    `network` overrides `method.segmentor_network`.
    """
    method = recipe.method
    own = SegmentorRecipe.beside(method, segmentor_network=network or method.segmentor_network)
    training = recipe.training.model_copy(
        update={
            "epochs": method.segmentor_epochs,
            "max_steps": method.segmentor_max_steps,
            # The paper's 4 are those of a step, of all workers together.
            "batch_size": max(1, method.segmentor_batch_size // recipe.scaling.processes),
            "learning_rate": method.segmentor_learning_rate,
            # What belongs to the method alone is off: the falling rate, accumulation, averaged weights, its start, its
            # stages, its share of the data, the choice among its checkpoints.
            "decay_from": 1.0,
            "accumulate": 1,
            "ema_half_life": 0,
            "start_from": None,
            "stages": {},
            "stages_from": {},
            "shares": {},
            "keep": None,
            "keep_floor": None,
            "seed": recipe.training.seed + seed_offset,
        }
    )
    # Which cases a segmentor for itself learns from is no matter of one that serves a method.
    every = recipe.segmentation.model_copy(update={"cases": None, "least_lesion": 0, "test_every": None})
    return recipe.model_copy(update={"method": own, "training": training, "segmentation": every})
