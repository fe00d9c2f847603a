"""Which method, and how its terms are weighted."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from metgan_dist.recipe.section import Section, comma_list

# What a method's own paper sets otherwise than MetGAN's; used for fields that a recipe leaves out.
_PIX2PIX = {"backbone": "unet-256", "alpha4": 100.0, "adversarial": "log", "pool": 0}
_SPADE = {"adversarial": "hinge"}
_CYCLEGAN = {"backbone": "unet-256", "identity": 5.0}
METHOD_DEFAULTS: dict[str, dict[str, Any]] = {
    "pix2pix": _PIX2PIX,
    "pix2pix_seg": _PIX2PIX,
    "cyclegan": _CYCLEGAN,
    "cyclegan_seg": _CYCLEGAN,
    "spade": _SPADE,
    "spade_vae": _SPADE,
    "sean": _SPADE,
    "sean_vae": _SPADE,
    "redgan": {**_SPADE, "perceptual": 0.0, "segmentor_network": "resnet-34"},
}
# Likewise of `training`, for the rows of a study; other papers have MetGAN's batch of 1 at a rate of 2e-4.
METHOD_TRAINING: dict[str, dict[str, Any]] = {"sifa": {"batch_size": 8}}
# Fields that hold for one method: its paper found them for it.
METHOD_SETTINGS = frozenset(
    {
        *("alpha1", "alpha2", "alpha3", "alpha4", "identity", "feature_matching", "perceptual", "kl", "latent"),
        *("backbone", "adversarial", "segmentation_loss", "pool", "merge_full_resolution", "label_norm", "statistics"),
        *("shape", "from_scratch", "synthetic"),
    }
)
# Methods that are another one with a part added or left out. They share its settings: rows of an ablation are to differ
# in that part alone.
_VARIANTS = {
    **dict.fromkeys(("metgan_minus", "metgen_cycle", "metgen_cond", "metgen_cond_seg"), "metgan"),
    **{"pix2pix_seg": "pix2pix", "cyclegan_seg": "cyclegan", "spade_vae": "spade", "sean_vae": "sean"},
}
METHOD_NAMES = (
    "metgan, metgan_minus, metgen_cycle, metgen_cond, metgen_cond_seg, pix2pix, pix2pix_seg, cyclegan, cyclegan_seg, "
    "spade, spade_vae, sean, sean_vae, sifa, redgan, cycle_shape"
)


class MethodRecipe(Section):
    """Which method, how wide, and its loss weights (paper 1, equation 4).

    Fields that are left out take the defaults below, or what the method's own paper sets (METHOD_DEFAULTS); a recipe's
    METHOD_SETTINGS hold for the method that it names alone (recipe/layers.py). A weight of a term that the method does
    not have is ignored.
    """

    name: str = Field("metgan", description=f"method: {METHOD_NAMES}")
    width: float = Field(1.0, gt=0, le=4, description="multiplier of all channel numbers; 1 is the paper")
    alpha1: float = Field(1.0, ge=0, description="weight of the adversarial loss")
    alpha2: float = Field(10.0, ge=0, description="weight of the cycle loss (L1, both directions)")
    alpha3: float = Field(100.0, ge=0, description="weight of the segmentation loss (mean over pixels)")
    alpha4: float = Field(10.0, ge=0, description="weight of the pair loss (L1, both directions); pix2pix: 100")
    identity: float = Field(0.0, ge=0, description="weight of CycleGAN's identity loss (L1); cyclegan: 5")
    backbone: Literal["metgen", "unet-256", "resnet-9"] = Field(
        "metgen", description="generator of the methods of table 2; pix2pix and cyclegan: unet-256"
    )
    adversarial: Literal["least-squares", "log", "hinge"] = Field(
        "least-squares",
        description="form of the adversarial loss (MetGAN's paper writes log, its code runs least squares); "
        "pix2pix: log; spade, sean, redgan: hinge",
    )
    segmentation_loss: Literal["wbce", "l1"] = Field(
        "wbce", description="weighted cross-entropy (paper) or L1 (its code)"
    )
    pool: int = Field(50, ge=0, description="past fakes kept for the discriminators; 0: none; pix2pix: 0")
    merge_full_resolution: bool = Field(
        False, description="also merge the label path's last block at full resolution (the authors compute and drop it)"
    )
    label_norm: Literal["batch", "pixel"] = Field(
        "batch",
        description="norm of metgen's label path: over the batch, as in the authors' code, with which an empty label "
        "tells places in the tile; or over the channels of each pixel, with which it does not",
    )
    statistics: Literal["running", "image"] = Field(
        "running",
        description="what the BatchNorm of pix2pix, CycleGAN and MetGAN normalises by when images are made: the "
        "training's running statistics, the same for all tiles (for whole volumes always these); or each image's own, "
        "as in training on one image a step",
    )
    stochastic_inference: bool = Field(False, description="keep unet-256's dropout on when images are generated")
    feature_matching: float = Field(10.0, ge=0, description="weight of feature matching (SPADE, SEAN, RedGAN)")
    perceptual: float = Field(
        10.0, ge=0, description="weight of the VGG19 perceptual loss (SPADE, SEAN); needs METGAN_WEIGHTS; redgan: 0"
    )
    kl: float = Field(
        0.05, ge=0, description="weight of the Kullback-Leibler term (summed over the latent) of the VAEs"
    )
    latent: int = Field(256, ge=1, description="numbers in the VAEs' latent vector")
    shape: float = Field(
        1.0, ge=0, description="weight of cycle_shape's shape consistency (cross-entropy); 0: translation without it"
    )
    from_scratch: bool = Field(
        False, description="train all players of cycle_shape together from the start, for training.epochs"
    )
    synthetic: Literal["online", "offline", "none"] = Field(
        "online",
        description="what cycle_shape's segmentors learn from beside real volumes in its last two stages: what the "
        "generators make while they learn, too (paper 5); what finished ones make (its baseline ADA); or nothing",
    )
    global_classes: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="classes of RedGAN's global class vector, one an organ [>= 1]; auto: as many as the tiles name",
    )
    organs: Annotated[tuple[str, ...], BeforeValidator(comma_list)] = Field(
        (), description="organs in the order of their global classes; empty: those of the tiles, in alphabetical order"
    )
    segmentor: str | None = Field(None, description="checkpoint of train_segmentor; empty: it is trained first")
    segmentor_network: Literal["unet", "resnet-34", "dynunet"] = Field(
        "unet",
        description="network of the segmentor: Pan et al.'s U-Net, ResNet34-U-Net, or MONAI's DynUNet as nnU-Net lays "
        "it out; redgan: resnet-34",
    )
    segmentor_epochs: int = Field(40, ge=1, description="epochs of the segmentors")
    segmentor_max_steps: int | None = Field(None, ge=1, description="stop the segmentors after this many steps")
    segmentor_batch_size: int = Field(4, ge=1, description="tiles in a batch of the segmentors")
    segmentor_learning_rate: float = Field(1e-4, gt=0, description="Adam's learning rate for the segmentors")
    segmentor_width: float = Field(1.0, gt=0, le=4, description="multiplier of the segmentors' channel numbers")
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

    @model_validator(mode="before")
    @classmethod
    def _as_its_paper(cls, given: Any) -> Any:
        """Fill what is left out with the method's own defaults, so that the resolved recipe shows them."""
        if not isinstance(given, dict):
            return given
        return {**METHOD_DEFAULTS.get(given.get("name", "metgan"), {}), **given}

    @model_validator(mode="after")
    def _check(self) -> MethodRecipe:
        if len(set(self.organs)) < len(self.organs) or "" in self.organs:
            raise ValueError("organs must be names that differ")
        if self.global_classes != "auto" and len(self.organs) > self.global_classes:
            raise ValueError(f"organs are {len(self.organs)}, but global_classes is {self.global_classes}")
        return self


def base_method(name: str) -> str:
    """The method that `name` is a variant of, with a part added or left out; itself where it is none."""
    return _VARIANTS.get(name, name)


def settings_of(name: str) -> frozenset[str]:
    """Fields that a method does not take over from a recipe that was written for another one."""
    return METHOD_SETTINGS | METHOD_DEFAULTS.get(name, {}).keys()
