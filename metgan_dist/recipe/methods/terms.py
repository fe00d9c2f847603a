"""Fields that several methods have: their types, ranges and descriptions; each section says its paper's values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from metgan_dist.recipe.method import MethodRecipe
from metgan_dist.recipe.section import comma_list

AdversarialWeight = Annotated[float, Field(ge=0, description="weight of the adversarial loss")]
AdversarialForm = Annotated[
    Literal["least-squares", "log", "hinge"],
    Field(description="form of the adversarial loss (MetGAN's paper writes log, its code runs least squares)"),
]
Pool = Annotated[int, Field(ge=0, description="past fakes kept for the discriminators; 0: none")]
CycleWeight = Annotated[float, Field(ge=0, description="weight of the cycle loss (L1, both directions)")]
IdentityWeight = Annotated[float, Field(ge=0, description="weight of CycleGAN's identity loss (L1)")]
SegmentationWeight = Annotated[float, Field(ge=0, description="weight of the segmentation loss (mean over pixels)")]
PairWeight = Annotated[float, Field(ge=0, description="weight of the pair loss (L1, in all directions that there are)")]
FeatureMatchingWeight = Annotated[float, Field(ge=0, description="weight of feature matching")]
PerceptualWeight = Annotated[
    float, Field(ge=0, description="weight of the VGG19 perceptual loss; above 0 it needs METGAN_WEIGHTS")
]


StochasticInference = Annotated[
    bool, Field(description="keep the dropout of unet-256, and of pix2pix_stroke, on when images are generated")
]
LatentNumbers = Annotated[int, Field(ge=1, description="numbers in the latent vector")]


class LabelToImageRecipe(MethodRecipe):
    """What SPADE, SEAN and RedGAN have: images from labels, judged at several scales."""

    adversarial: AdversarialForm = "hinge"
    feature_matching: FeatureMatchingWeight = 10.0
    perceptual: PerceptualWeight = 10.0


class VaeRecipe(MethodRecipe):
    """What SPADE's variational auto-encoder adds (Park et al. 2019)."""

    kl: float = Field(0.05, ge=0, description="weight of the Kullback-Leibler term (summed over the latent)")
    latent: LatentNumbers = 256


def organs_of(method: MethodRecipe) -> tuple[str, ...]:
    """The organs that a method is told of, in the order of their global classes; () where it is told of none."""
    return method.organs if isinstance(method, OrgansRecipe) else ()


class OrgansRecipe(MethodRecipe):
    """What a method that is told of organs has; training then sees to it that the tiles name theirs."""

    global_classes: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="classes of the global class vector, one an organ [>= 1]; auto: as many as the tiles name",
    )
    organs: Annotated[tuple[str, ...], BeforeValidator(comma_list)] = Field(
        (), description="organs in the order of their global classes; empty: those of the tiles, in alphabetical order"
    )

    @model_validator(mode="after")
    def _check(self) -> OrgansRecipe:
        if len(set(self.organs)) < len(self.organs) or "" in self.organs:
            raise ValueError("organs must be names that differ")
        if self.global_classes != "auto" and len(self.organs) > self.global_classes:
            raise ValueError(f"organs are {len(self.organs)}, but global_classes is {self.global_classes}")
        return self
