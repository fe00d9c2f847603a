"""The whole experiment as one typed tree.

A recipe is data: it imports nothing of the package but its error type. Presets are the YAML files in ``recipes/``; a
field is also a command-line flag (``--section.field value``) on every job, parsed by pydantic-settings because
the same pydantic models then give validation, help text and YAML in one place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from metgan_dist.errors import UserError

RECIPES = Path(__file__).parent / "recipes"


def _comma_list(value: Any) -> Any:
    """Let ``--tiles.views z,y`` and ``--tiles.size 86,112,112`` stand for lists on a command line."""
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int | float) else value


class Section(BaseModel):
    """A part of the recipe; unknown fields are mistakes, and nothing changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Put each number's range into its description, so that ``--help`` shows it."""
        for field in cls.model_fields.values():
            limits = [
                f"{sign} {getattr(rule, name)}"
                for rule in field.metadata
                for name, sign in _SIGNS
                if hasattr(rule, name)
            ]
            if limits and field.description and not field.description.endswith("]"):
                field.description += f" [{', '.join(limits)}]"


_SIGNS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
Triple = Annotated[tuple[float, float, float], BeforeValidator(_comma_list)]


class VolumeEntry(Section):
    """One volume of a data set, as `dataset.yaml` or a recipe lists it."""

    id: str = Field(description="name of the volume, unique in the data set")
    path: str | dict[str, str] = Field(description="file or folder, or one per channel name; relative to the data set")
    label: str | None = Field(None, description="label volume: a path, or the name of a label group of an OME-Zarr")
    level: str | None = Field(None, description="pyramid level of an OME-Zarr by its path; default: the finest")
    axes: str | None = Field(None, description="axes of the file, e.g. zyx or czyx, where the file does not say")
    channels: list[str] | None = Field(None, description="channel names in file order, where the file has none")
    spacing: Triple | None = Field(None, description="voxel size (z, y, x), where the file has none")
    unit: Literal["micrometer", "millimeter"] | None = Field(None, description="unit of `spacing`")
    organ: str | None = Field(None, description="organ, for stratified splits")
    patient: str | None = Field(None, description="patient or animal: all its volumes stay on one side of a split")
    split: Literal["auto", "train", "val", "test", "unseen"] = Field(
        "auto", description="fixes the split of the whole volume; `unseen` is scored apart, never trained on"
    )
    table: str | None = Field(None, description="folders of images: CSV with columns file, organ, patient")


class Phantom(Section):
    """Volumes that the package draws itself when a recipe has no data path."""

    modality: Literal["light-sheet", "brain-dwi", "cardiac"] = Field("light-sheet", description="kind of phantom")
    volumes: int = Field(4, ge=1, description="how many volumes")
    shape: Annotated[tuple[int, int, int], BeforeValidator(_comma_list)] = Field(
        (32, 192, 192), description="voxels (z, y, x) of each"
    )
    seed: int = Field(0, ge=0, description="seed of the first volume; the others count on")


class Data(Section):
    """Where the volumes are and which channel plays which part."""

    path: str | None = Field(
        None,
        description="a volume, a folder with dataset.yaml, a dataset.yaml, a folder of tiles from make_tiles, or the "
        "folder that `volumes` is relative to; any fsspec URI; empty: the phantom",
    )
    anatomy: str = Field("autofluorescence", description="channel that gives the anatomy (x in the paper)")
    tumour: str = Field("tumour", description="channel to generate (y in the paper)")
    label: str | None = Field(None, description="label group or channel, for volumes that name no label of their own")
    classes: int = Field(2, ge=2, le=255, description="number of label classes, background included")
    volumes: list[VolumeEntry] = Field([], description="the data set, where it has no dataset.yaml")
    phantom: Phantom = Phantom()
    shuffled_labels: float = Field(
        0.0,
        ge=0,
        le=1,
        description="fraction of training tiles whose label is exchanged with another's (robustness study)",
    )
    missing_chunks: Literal["error", "fill"] = Field(
        "error", description="an absent chunk of a Zarr image: a damaged copy, or a region never written"
    )
    damaged: Literal["error", "skip"] = Field(
        "error", description="a file that cannot be read: stop, or skip and count it"
    )


class Tiles(Section):
    """How volumes become training tiles."""

    kind: Literal["projection", "slice", "crop"] = Field(
        "projection", description="maximum projections of sub-volumes, single slices, or 3D crops"
    )
    modality: Literal["light-sheet", "brain-dwi", "cardiac-ct", "cardiac-mr"] = Field(
        "light-sheet", description="preprocessing rules"
    )
    size: Annotated[tuple[int, ...], BeforeValidator(_comma_list)] = Field(
        (256,), description="edge of a tile in source pixels (after `spacing`), one number or one per axis"
    )
    depth: int | None = Field(
        None, ge=1, description="voxels a projection runs through (projections only); default: the tile's size"
    )
    views: Annotated[tuple[Literal["z", "y", "x"], ...], BeforeValidator(_comma_list)] = Field(
        ("z",), description="axes to project or slice along"
    )
    stride: Annotated[tuple[int, ...], BeforeValidator(_comma_list)] | None = Field(
        None, description="pixels between neighbouring tiles in the tile's plane; default: the size (no overlap)"
    )
    step: int | None = Field(
        None, ge=1, description="voxels between tiles along the view (not for crops); default: the depth, 1 for slices"
    )
    edge: Literal["shift", "drop", "pad"] = Field(
        "shift", description="last tile of a row: moved inwards, left out, or padded with zeros"
    )
    resize: int | None = Field(
        None, ge=8, description="edge of the tile after resizing (300 -> 256 in the paper), pixels"
    )
    spacing: Triple | None = Field(None, description="resample to this voxel size (z, y, x) in the volume's unit")
    min_foreground: int = Field(0, ge=0, description="label pixels that a tile must hold to be kept")
    normalise: Literal["percentile", "minmax", "none"] = Field("percentile", description="to [-1, 1], by which range")
    percentiles: Annotated[tuple[float, float], BeforeValidator(_comma_list)] = Field(
        (0.5, 99.8), description="lower and upper percentile that become -1 and 1"
    )
    normalise_over: Literal["volume", "plane", "tile"] = Field(
        "volume", description="what the range is taken over; `plane`: tiles at the same position along the view"
    )
    clip: bool = Field(True, description="clip to [-1, 1] (values outside the range cannot be inverted)")
    test: float = Field(
        0.2, ge=0, lt=1, description="fraction of volumes (or of the slab axis) held out for the scores"
    )
    val: float = Field(0.1, ge=0, lt=1, description="fraction held out to choose the best checkpoint")
    folds: int = Field(5, ge=2, description="folds over what is left, for the downstream study")
    split_by: Literal["auto", "volume", "slab"] = Field(
        "auto", description="hold out whole volumes, or a slab of each; auto: volumes when there are enough"
    )
    slab_axis: Literal["auto", "z", "y", "x"] = Field(
        "auto", description="axis that slabs are cut along; auto: the longest"
    )
    gap: int = Field(16, ge=0, description="voxels kept free between tiles on two sides of a split")

    @model_validator(mode="after")
    def _check(self) -> Tiles:
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError("percentiles must be two numbers with 0 <= lower < upper <= 100")
        if self.test + self.val >= 1:
            raise ValueError("test + val must leave something to train on (their sum must be below 1)")
        if any(s < 1 for s in (*self.size, *(self.stride or ()))):
            raise ValueError("size and stride must be positive")
        if len(self.size) not in ({1, 3} if self.kind == "crop" else {1, 2}):
            raise ValueError("size takes one number, or one per axis of the tile")
        return self


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
METHOD_NAMES = (
    "metgan, metgan_minus, metgen_cycle, metgen_cond, metgen_cond_seg, pix2pix, pix2pix_seg, cyclegan, cyclegan_seg, "
    "spade, spade_vae, sean, sean_vae, sifa, redgan"
)


class MethodRecipe(Section):
    """Which method, how wide, and its loss weights (paper 1, equation 4).

    Fields that are left out take the defaults below, or what the method's own paper sets (METHOD_DEFAULTS). A weight of
    a term that the method does not have is ignored.
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
    stochastic_inference: bool = Field(False, description="keep unet-256's dropout on when images are generated")
    feature_matching: float = Field(10.0, ge=0, description="weight of feature matching (SPADE, SEAN, RedGAN)")
    perceptual: float = Field(
        10.0, ge=0, description="weight of the VGG19 perceptual loss (SPADE, SEAN); needs METGAN_WEIGHTS; redgan: 0"
    )
    kl: float = Field(
        0.05, ge=0, description="weight of the Kullback-Leibler term (summed over the latent) of the VAEs"
    )
    latent: int = Field(256, ge=1, description="numbers in the VAEs' latent vector")
    global_classes: int = Field(1, ge=1, description="classes of RedGAN's global class vector")
    segmentor: str | None = Field(None, description="checkpoint of train_segmentor; empty: it is trained first")
    segmentor_network: Literal["unet", "resnet-34"] = Field(
        "unet", description="network of the segmentor: Pan et al.'s U-Net, or ResNet34-U-Net; redgan: resnet-34"
    )
    segmentor_epochs: int = Field(40, ge=1, description="epochs of the segmentors")
    segmentor_max_steps: int | None = Field(None, ge=1, description="stop the segmentors after this many steps")
    segmentor_batch_size: int = Field(4, ge=1, description="tiles in a batch of the segmentors")
    segmentor_learning_rate: float = Field(1e-4, gt=0, description="Adam's learning rate for the segmentors")
    segmentor_width: float = Field(1.0, gt=0, le=4, description="multiplier of the segmentors' channel numbers")
    judge: str | None = Field(
        None, description="checkpoint of a second segmentor that only scores label fidelity; empty: it is trained first"
    )

    @model_validator(mode="before")
    @classmethod
    def _as_its_paper(cls, given: Any) -> Any:
        """Fill what is left out with the method's own defaults, so that the resolved recipe shows them."""
        if not isinstance(given, dict):
            return given
        return {**METHOD_DEFAULTS.get(given.get("name", "metgan"), {}), **given}


class Training(Section):
    """The loop: how long, how fast, how often to look."""

    epochs: int = Field(200, ge=1, description="passes over the training tiles")
    max_steps: int | None = Field(
        None, ge=1, description="stop after this many optimiser steps, if before the epochs end"
    )
    batch_size: int = Field(1, ge=1, description="tiles on one worker in one step")
    accumulate: int = Field(1, ge=1, description="batches whose gradients make one step")
    learning_rate: float = Field(2e-4, gt=0, description="Adam's learning rate")
    decay_from: float = Field(
        0.5, ge=0, le=1, description="fraction of the run after which the rate falls linearly to 0"
    )
    seed: int = Field(0, ge=0, description="seed of weights, order and augmentation")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 on GPUs that have it, else fp32")
    augment: bool = Field(True, description="random flips and quarter turns")
    ema_half_life: int = Field(
        0,
        ge=0,
        description="images in which the averaged generator forgets half, at most 5 % of those seen; 0: no average",
    )
    validate_every: int = Field(2000, ge=1, description="images between validations")
    validate_tiles: int = Field(64, ge=1, description="tiles scored in a validation, at most")
    checkpoint_every: int = Field(2000, ge=1, description="images between checkpoints")
    log_every: int = Field(1, ge=1, description="steps between two logged losses")
    max_failures: int = Field(3, ge=0, description="restarts from the last checkpoint after a worker is lost")
    compile: bool = Field(False, description="torch.compile the players' forward")


class Scaling(Section):
    """What the run may take of the machine or cluster."""

    workers: int = Field(1, ge=1, description="training processes")
    gpus_per_worker: float | Literal["auto"] = Field(
        "auto", description="GPUs of one; auto: one each if the cluster has them"
    )
    cpus_per_worker: float | Literal["auto"] = Field("auto", description="CPUs reserved by one")
    cluster: str = Field(
        "auto", description="auto: RAY_ADDRESS if set, else a cluster on this machine; `local`; or an address"
    )
    grow: bool = Field(False, description="the cluster autoscales: ask it for the missing nodes and wait for them")
    wait: float = Field(300, ge=0, description="seconds to wait for a busy or growing cluster before giving up")
    tile_memory: int = Field(256, ge=16, description="MiB of voxels that one tiling task may hold")
    tile_tasks: int | None = Field(None, ge=1, description="tiling tasks at once; default: one more than CPUs")
    trainings: int | Literal["auto"] = Field(
        "auto", description="trainings of a study at once; auto: as many as have room with the workers' CPUs and GPUs"
    )


class Tuning(Section):
    """Search over loss weights (nothing to set yet)."""


class Synthesis(Section):
    """Generation of image-label pairs (nothing to set yet)."""


class Segmentation(Section):
    """Downstream segmentation (nothing to set yet)."""


Score = Literal["mae", "msd", "ssim", "psnr", "correlation", "fid", "kid", "lpips", "label_fidelity"]


class Scores(Section):
    """How trained methods are scored and compared (evaluate.py, run_study.py)."""

    names: Annotated[tuple[Score, ...], BeforeValidator(_comma_list)] = Field(
        get_args(Score),
        min_length=1,
        description="columns of the table, in this order; fid, kid and lpips need METGAN_WEIGHTS",
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
    group: Literal["tile", "volume"] = Field(
        "tile", description="what is paired; volume: scores are averaged over each volume's tiles first"
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

    path: str = Field("runs", description="folder or object-store URI for tiles, checkpoints, pictures and results")
    options: dict[str, Any] = Field(
        {}, description="fsspec options, e.g. {endpoint_url: ...}; secrets belong in the environment"
    )


class Recipe(Section):
    """Everything that defines an experiment."""

    data: Data = Data()
    tiles: Tiles = Tiles()
    method: MethodRecipe = MethodRecipe()
    training: Training = Training()
    scaling: Scaling = Scaling()
    tuning: Tuning = Tuning()
    synthesis: Synthesis = Synthesis()
    segmentation: Segmentation = Segmentation()
    scores: Scores = Scores()
    tracking: Tracking = Tracking()
    storage: Storage = Storage()

    def to_yaml(self) -> str:
        """The recipe as YAML that loads back into the same recipe."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def tile_edges(recipe: Recipe) -> tuple[int, ...]:
    """Edges in pixels of the tiles as the networks see them: (H, W), or (D, H, W) for crops."""
    tiles, axes = recipe.tiles, 3 if recipe.tiles.kind == "crop" else 2
    if tiles.resize is not None:
        return (tiles.resize,) * axes
    return tiles.size if len(tiles.size) == axes else tiles.size * axes


def recipe_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_tree(name_or_path: str) -> dict[str, Any]:
    """The raw tree of a preset or a YAML file, before validation.

    Raises UserError when it is neither a preset nor a readable YAML file with the recipe's sections.
    """
    path = RECIPES / f"{name_or_path}.yaml"
    if not path.is_file():
        path = Path(name_or_path)
        if not path.is_file():
            raise UserError(f"--recipe {name_or_path}: no such preset or file; presets: {', '.join(recipe_names())}")
    try:
        tree = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path}: a recipe is a YAML mapping with the sections {', '.join(Recipe.model_fields)}")
    return tree
