"""What becomes of a run: scores, records, files."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from metgan_dist.recipe.section import Section, comma_list

Score = Literal["mae", "msd", "ssim", "psnr", "correlation", "cycle_mae", "fid", "kid", "lpips", "label_fidelity"]
# Of whole volumes of two domains: assd and hd95 of what is translated, segmented_... of what a method segments itself.
WholeScore = Literal[
    "s_score",
    "s_score_target",
    "s_score_source",
    "assd_target",
    "assd_source",
    "hd95_target",
    "hd95_source",
    "dice_target",
    "dice_source",
    "segmented_assd_target",
    "segmented_assd_source",
    "segmented_hd95_target",
    "segmented_hd95_source",
]


def _not_single_tiles(value: Any) -> Any:
    """Runs of earlier versions say "tile", and stay readable; tiles that overlap are no longer paired one by one."""
    return "auto" if value == "tile" else value


class Scores(Section):
    """How trained methods are scored and compared (evaluate.py, run_study.py)."""

    names: Annotated[tuple[Literal[Score, WholeScore], ...], BeforeValidator(comma_list)] = Field(
        (),
        description="columns of the table, in this order; empty: those of the methods' task; fid, kid and lpips need "
        "METGAN_WEIGHTS; those from s_score on are of whole test volumes of two domains",
    )
    splits: Annotated[tuple[Literal["test", "unseen"], ...], BeforeValidator(comma_list)] = Field(
        ("test", "unseen"),
        min_length=1,
        description="held-out tiles that a training is scored on at its end; in a study: test, as its table is",
    )
    missing_weights: Literal["error", "skip"] = Field(
        "error", description="without the weights of a score: stop before the work, or leave the score out and say so"
    )
    reference: str | None = Field(
        None, description="run or method that the others are tested against; empty: a study's own, metgan, or the first"
    )
    test: Literal["t", "wilcoxon"] = Field(
        "t", description="paired test that the table marks, after Holm's correction; the CSV has both"
    )
    group: Annotated[Literal["auto", "volume", "block"], BeforeValidator(_not_single_tiles)] = Field(
        "auto",
        description="what is independent: scores are averaged over it and paired; volume: all volumes of a patient; "
        "block: cubes of a volume, as wide as a tile; auto: volumes where there are two or more, else blocks",
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of the bootstrap intervals; 1 minus it marks a test")
    resamples: int = Field(2000, ge=100, description="resamples of the bootstrap")
    block: int = Field(256, ge=2, description="test tiles that one task scores; FID's last digits depend on it")
    pictures: int = Field(6, ge=1, le=32, description="rows of the grid, tiles with foreground first")


class Tracking(Section):
    """Where MLflow keeps the run."""

    uri: str | None = Field(None, description="MLflow tracking URI; empty: SQLite under storage.path")
    experiment: str = Field("metgan", description="MLflow experiment")
    run: str | None = Field(None, description="name of the run; starting again with the same name continues it")
    parent: str | None = Field(None, description="MLflow run that this one is shown under, as a study's rows are")
    artifacts: str | None = Field(
        None, description="where a new experiment keeps artefacts; empty: the server's choice"
    )
    patience: float = Field(
        120, ge=0, description="seconds to wait for an absent server at the end before spooling to disk"
    )


class Storage(Section):
    """Where everything is written."""

    path: str = Field(
        "runs", min_length=1, description="folder or object-store URI for tiles, checkpoints, pictures and results"
    )
    options: dict[str, Any] = Field(
        {}, description="fsspec options, e.g. {endpoint_url: ...}; secrets belong in the environment"
    )
