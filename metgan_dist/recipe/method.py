"""What the sections of all methods have in common: the name, the width, and the segmentors that are trained beside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from metgan_dist.recipe.section import Section

SegmentorKind = Annotated[
    Literal["unet", "resnet-34", "dynunet", "unet-stroke"],
    Field(
        description="network of the segmentor: Pan et al.'s U-Net, ResNet34-U-Net, MONAI's DynUNet as nnU-Net lays it "
        "out, or paper 4's U-Net"
    ),
]
SegmentorLoss = Annotated[
    Literal["wbce", "ce-dice"],
    Field(
        description="loss of the segmentors: binary cross-entropy weighted by positive and negative (MetGAN's code), "
        "or cross-entropy + soft Dice (paper 4), which has no weights"
    ),
]


def check_loss_weights(loss: str, weights: Mapping[str, tuple[float, float]]) -> None:
    """ValueError for weights, by the name of their field as (given, default), where the loss has none."""
    changed = next((name for name, (given, default) in weights.items() if given != default), None)
    if loss != "wbce" and changed is not None:
        given, default = weights[changed]
        raise ValueError(f"{changed} {given:g} weighs the loss wbce alone, not {loss}; set it to {default:g}")


class MethodRecipe(Section):
    """The fields of every method, and the base of each method's own section (recipe/methods/).

    A section has the fields that its method reads and no others; their defaults are its paper's values. `name` is the
    method's, by default the only one that the section is for.

    Attributes:
        variant_of: the method that this one is with a part added or left out. A recipe's settings for either hold for
            the other, so that rows of an ablation differ in that part alone (recipe/layers.py).
        paper_training: fields of `training` that its paper sets otherwise than MetGAN's, for the rows of a study.
        for_any: own fields that a recipe may set for any method, as it may the shared ones: no paper found them.
    """

    variant_of: ClassVar[str | None] = None
    paper_training: ClassVar[Mapping[str, Any]] = {}
    for_any: ClassVar[frozenset[str]] = frozenset()

    name: str = Field(description="method")
    width: float = Field(1.0, gt=0, le=4, description="multiplier of all channel numbers; 1 is the paper")
    segmentor: str | None = Field(None, description="checkpoint of train_segmentor; empty: it is trained first")
    segmentor_network: SegmentorKind = "unet"
    segmentor_epochs: int = Field(40, ge=1, description="epochs of the segmentors")
    segmentor_max_steps: int | None = Field(None, ge=1, description="stop the segmentors after this many steps")
    segmentor_batch_size: int = Field(4, ge=1, description="tiles in a batch of the segmentors")
    segmentor_learning_rate: float = Field(1e-4, gt=0, description="Adam's learning rate for the segmentors")
    segmentor_width: float = Field(1.0, gt=0, le=4, description="multiplier of the segmentors' channel numbers")
    segmentor_loss: SegmentorLoss = "wbce"
    segmentor_positive: float = Field(
        2.0, gt=0, description="weight of labelled pixels in the segmentors' cross-entropy"
    )
    segmentor_negative: float = Field(0.5, gt=0, description="weight of background pixels in it")
    segmentor_threshold: float = Field(
        0.5, gt=0, lt=1, description="probability above which the segmentors label a pixel"
    )
    judge: str | None = Field(
        None, description="checkpoint of a second segmentor that only scores label fidelity; empty: it is trained first"
    )
    judge_source: str | None = Field(
        None,
        description="checkpoint of a segmentor of the source domain, which scores what is translated back (S-score); "
        "empty: it is trained first where there are two domains",
    )
    judge_share: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="share of the training patients of each of two domains from which the judges alone learn, where "
        "there are five or more; 0: judges learn from tiles that the method trains on, too",
    )

    @model_validator(mode="after")
    def _check_loss(self) -> Self:
        fields = ("segmentor_positive", "segmentor_negative")
        usual = {name: MethodRecipe.model_fields[name].default for name in fields}
        check_loss_weights(self.segmentor_loss, {name: (getattr(self, name), usual[name]) for name in fields})
        return self

    @classmethod
    def of(cls, method: MethodRecipe) -> Self:
        """`recipe.method` as the section that a method of this class has; TypeError where it is another's."""
        if not isinstance(method, cls):
            raise TypeError(f"{cls.__name__} expected, not the section of {method.name}")
        return method
