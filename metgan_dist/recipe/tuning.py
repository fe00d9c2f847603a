"""Search over loss weights, or any other field that changes a training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from metgan_dist.recipe.section import Section, Seed, comma_list

Score = Literal["mae", "msd", "ssim", "psnr", "correlation", "cycle_mae", "label_fidelity"]


class Range(Section):
    """The values that a field of the space takes: from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = True

    @model_validator(mode="after")
    def _check(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low must be below high, not {self.low:g} to {self.high:g}; exchange the bounds")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range starts above 0, not at {self.low:g}; raise low, or set log: false")
        return self


# Told apart by their looks, so that a mistake in one is not also reported as a bad other.
Values = Annotated[
    Annotated[Range, Tag("range")] | Annotated[list[Any], Tag("list")],
    Discriminator(lambda given: "list" if isinstance(given, list) else "range"),
]


class Tuning(Section):
    """Search over loss weights (tune_loss_weights.py)."""

    trials: int = Field(16, ge=2, description="trials; the first has the recipe's own values")
    search: Literal["random", "optuna", "pareto"] = Field(
        "optuna", description="how values are drawn: at random, by Optuna's TPE, or by TPE for two objectives at once"
    )
    scheduler: Literal["none", "asha", "pbt"] = Field(
        "asha",
        description="asha: bad trials are stopped at a fraction of their length; pbt: they go on from a good one's "
        "checkpoint with other values; none: all run to their end",
    )
    space: dict[str, Values] = Field(
        {},
        description='fields and their values, e.g. {"method.alpha1": {"low": 0.1, "high": 10, "log": true}, '
        '"method.backbone": ["metgen", "resnet-9"]}; empty: the method\'s loss weights, each from a tenth to ten times '
        "its paper's (log)",
    )
    objectives: Annotated[tuple[Score, ...], BeforeValidator(comma_list)] = Field(
        (),
        max_length=2,
        description="validation scores to improve, two for pareto; empty: the method's own, with label_fidelity",
    )
    images: int | None = Field(
        None, ge=1, description="images of a whole trial; none: as many as the recipe's training has"
    )
    reports: int = Field(9, ge=2, description="validations of a whole trial, after each of which it may be stopped")
    grace: float = Field(
        0.11, gt=0, lt=1, description="fraction of a whole trial that each has before asha or pbt first judges it"
    )
    reduction: float = Field(3.0, gt=1, description="asha lets one in so many go on, at each multiple of the grace")
    concurrent: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="trials at once, sharing GPUs if need be; auto: as many as have a CPU, or GPU, each"
    )
    seed: Seed = Field(0, description="seed of the search; every trial trains with training.seed")
    collapse_loss: float = Field(
        0.002,
        ge=0,
        description="a discriminator below this loss has collapsed the game: the generator learns nothing more of it "
        "(guessing gives 0.25 with least-squares, 1.39 with log, 2 with hinge); 0: never",
    )
    collapse_reports: int = Field(3, ge=1, description="validations in a row below collapse_loss that end a trial")

    @model_validator(mode="after")
    def _check(self) -> Tuning:
        if self.scheduler == "pbt" and self.search != "random":
            raise ValueError(f"scheduler pbt changes values itself and goes with search random, not {self.search}")
        if self.scheduler == "asha" and self.search == "pareto":
            raise ValueError("scheduler asha stops trials by one score, search pareto wants two; use scheduler none")
        if self.objectives and len(self.objectives) != (2 if self.search == "pareto" else 1):
            raise ValueError("objectives takes two scores for search pareto, and one for the others")
        return self
