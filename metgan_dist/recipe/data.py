"""Which volumes, and what their channels are."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from metgan_dist.errors import UserError
from metgan_dist.recipe.labels import (
    AnyLabelNames,
    LabelNames,
    Labels,
    check_counted,
    chosen,
    counted,
    label_names,
    parenchyma_of,
)
from metgan_dist.recipe.orientation import Orientation
from metgan_dist.recipe.section import Section, Seed, VoxelSize, comma_list
from metgan_dist.recipe.tiles import Modality, Normalise, Percentiles, Tiles, check_percentiles


def _one_or_several(names: str | list[str]) -> str | list[str]:
    """Channel names as a recipe keeps them: a single one is a string, however it was given."""
    if isinstance(names, str):
        return names
    if len(names) > 1 and not all(names):
        raise ValueError("an empty channel name among several; leave it out")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"channel {twice!r} is named twice; name it once")
    return names if len(names) > 1 else "".join(names)


# Fields that sets from before them were not known by.
LATER = (
    *("domains", "source", "target", "labels", "unmapped", "orientation", "synthesis"),
    *("parenchyma", "floor", "floor_relative", "tissue_map"),
)
LATER_OF_VOLUMES = ("domain", "healthy")

# What is written of volumes that were translated; each of the volumes has `id`, `volume`, `patient`, `voxels_sha256`.
WRITTEN = ("model", "tiles", "settings", "volumes", "voxels_sha256")


def _as_written(synthesis: dict[str, Any]) -> dict[str, Any]:
    """ValueError for a section `synthesis` that lacks what synthesize.py wrote."""
    lacking = next((name for name in WRITTEN if name not in synthesis), None)
    if lacking is not None:
        raise ValueError(f"says nothing of {lacking!r}: synthesize.py writes this section; leave it as it wrote it")
    return synthesis


Channels = Annotated[str | list[str], AfterValidator(_one_or_several)]
"""One name, or a list of several; "" for none."""


def channel_names(channels: str | list[str] | None) -> tuple[str, ...]:
    """The names in a field of type `Channels`, in the order of the images' channels."""
    return ((channels,) if channels else ()) if isinstance(channels, str | None) else tuple(channels)


def _pairs(labels: Labels) -> list[list[Any]]:
    """The pairs of a map, whose order counts; of several label files the pairs of each beside its name."""
    return [[value, _pairs(name) if isinstance(name, dict) else name] for value, name in labels.items()]


def _label_files(label: Any) -> Any:
    """ValueError, one for all that the union below would tell of, for what is no label of a volume."""
    files = label.values() if isinstance(label, dict) else [label]
    if not all(isinstance(file, str) or (file == [] and isinstance(label, dict)) for file in files):
        raise ValueError("a label is a path, or of several labels a path for each by its name, [] for an empty one")
    return label


LabelFiles = Annotated[str | dict[str, str | list[str]], BeforeValidator(_label_files)]
"""The label of a volume, or several by name, of which [] is an empty one."""


class VolumeEntry(Section):
    """One volume of a data set, as `dataset.yaml` or a recipe lists it."""

    id: str = Field(description="name of the volume, unique in the data set")
    path: str | dict[str, str] | None = Field(
        None,
        description="file or folder, or one per channel name; relative to the data set; left out: a mask without an "
        "image, which is its `label`",
    )
    domain: str | None = Field(
        None, min_length=1, description="kind of image, where a data set has two that are no pairs (ct and mr, say)"
    )
    label: LabelFiles | None = Field(
        None,
        description="label volume: a path, or the name of a label group of an OME-Zarr; of several labels each by its "
        "name, {tissue: t.nii.gz, lesion: l.nii.gz}, [] for one that is empty here",
    )
    healthy: bool = Field(False, description="a label that is not there is empty: nothing to be found in this volume")
    level: str | None = Field(None, description="pyramid level of an OME-Zarr by its path; default: the finest")
    axes: str | None = Field(None, description="axes of the file, e.g. zyx or czyx, where the file does not say")
    label_axes: str | None = Field(
        None, description="axes of the label's file, where it does not say; needed where `axes` turns the image"
    )
    channels: list[str] | None = Field(None, description="channel names in file order, where the file has none")
    spacing: VoxelSize | None = Field(None, description="voxel size (z, y, x), where the file has none")
    unit: Literal["micrometer", "millimeter"] | None = Field(None, description="unit of `spacing`")
    organ: str | None = Field(None, description="organ, for stratified splits and RedGAN's global class")
    patient: str | None = Field(None, description="patient or animal: all its volumes stay on one side of a split")
    split: Literal["auto", "train", "val", "test", "unseen"] = Field(
        "auto", description="fixes the split of the whole volume; `unseen` is scored apart, never trained on"
    )
    table: str | None = Field(None, description="folders of images: CSV with columns file, organ, patient")

    @model_validator(mode="after")
    def _is_something(self) -> VolumeEntry:
        if self.path is None and self.label is None:
            raise ValueError(f"volume {self.id!r} needs a path, or a label where it is a mask without an image")
        if self.path is None and not isinstance(self.label, str):
            raise ValueError(f"volume {self.id!r} is a mask without an image, which has one label file")
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        """The volume's one path, or that of each channel, as the data set gives them; of a mask alone its label's."""
        if self.path is None:
            return (str(self.label),)
        return tuple(self.path.values()) if isinstance(self.path, dict) else (self.path,)


class Domain(Section):
    """A kind of image of a data set that has two: its channels, and how they become tiles where that is its own."""

    channels: Channels | None = Field(
        None, description="its image's channel, or several; default: data.anatomy or data.tumour, else the only one"
    )
    modality: Modality | None = Field(None, description="preprocessing rules; default: tiles.modality")
    normalise: Normalise | None = Field(None, description="to [-1, 1], by which range; default: tiles.normalise")
    percentiles: Percentiles | None = Field(
        None, description="lower and upper percentile that become -1 and 1; default: tiles.percentiles"
    )
    labels: LabelNames | None = Field(
        None, description="values of its label files and the names of their classes; default: data.labels"
    )
    unmapped: Literal["background"] | None = Field(
        None, description="label values that `labels` does not name; default: data.unmapped"
    )

    @model_validator(mode="after")
    def _check(self) -> Domain:
        if self.percentiles is not None:
            check_percentiles(self.percentiles)
        return self

    def rules(self, tiles: Tiles) -> Tiles:
        """`tiles` with what the domain has of its own."""
        own = {name: getattr(self, name) for name in ("modality", "normalise", "percentiles")}
        return tiles.model_copy(update={name: value for name, value in own.items() if value is not None})


class Phantom(Section):
    """Volumes that the package draws itself when a recipe has no data path."""

    modality: Literal["light-sheet", "brain-dwi", "cardiac", "cardiac-unpaired", "head", "stroke"] = Field(
        "light-sheet",
        description="kind of phantom; cardiac: CT and MR of each chest; cardiac-unpaired: CT of one, MR of the next, "
        "with hearts of other sizes, poses and walls; head: MR in T1 of one, in T2 of the next, each with a small "
        "tumour at the ear; stroke: DWI of many patients, healthy ones among them, with maps of tissues and lesions",
    )
    volumes: int = Field(4, ge=1, le=100_000, description="how many volumes")
    shape: Annotated[tuple[int, int, int], BeforeValidator(comma_list)] = Field(
        (32, 192, 192), description="voxels (z, y, x) of each"
    )
    seed: Seed = Field(0, description="seed of the first volume; the others count on")
    healthy: float | None = Field(None, ge=0, le=1, description="stroke: fraction without a lesion; default: 0.5")
    tissue_maps: str | None = Field(
        None,
        description="stroke: folder of NIfTI maps of real tissues in FreeSurfer's numbers, bent and mirrored for each "
        "patient; default: drawn brains",
    )
    lesion_masks: str | None = Field(
        None,
        description="stroke: folder of NIfTI masks of real lesions in standard (MNI) space; default: drawn lesions",
    )

    def told(self) -> dict[str, Any]:
        """The section as JSON, by which phantoms are known: without later fields that say nothing."""
        return self.model_dump(mode="json", exclude_none=True)

    @model_validator(mode="after")
    def _check(self) -> Phantom:
        given = [name for name in ("healthy", "tissue_maps", "lesion_masks") if getattr(self, name) is not None]
        if given and self.modality != "stroke":
            raise ValueError(f"{given[0]}: {self.modality} phantoms know nothing of it; set modality to stroke")
        return self


class Data(Section):
    """Where the volumes are and which channel plays which part."""

    path: str | None = Field(
        None,
        description="a volume, a folder with dataset.yaml, a dataset.yaml, a folder of tiles from make_tiles, or the "
        "folder that `volumes` is relative to; any fsspec URI; empty: the phantom",
    )
    anatomy: Channels = Field(
        "autofluorescence", description="channel that gives the anatomy (x in the paper), or several"
    )
    tumour: Channels = Field("tumour", description="channel to generate (y in the paper), or several")
    one_channel: bool = Field(
        False,
        description="`anatomy` and `tumour` may have a channel in common: for segmentation alone, a generator would "
        "copy it",
    )
    domains: dict[str, Domain] = Field(
        {},
        description="by name, the two kinds of image of a data set whose volumes are no pairs, each with channels, "
        "modality, normalise and percentiles of its own",
    )
    source: str | None = Field(
        None, description="domain whose images are the anatomy (x in the papers); default: the first"
    )
    target: str | None = Field(
        None, description="domain whose images are to be generated (y in the papers); default: the second"
    )
    unpaired: bool = Field(
        False,
        description="draw anatomy and tumour images of one place independently, as if they were no pairs; images of "
        "two domains always are",
    )
    # A list is what the command line makes of it.
    label: Annotated[Channels | None, BeforeValidator(lambda name: None if name in ("", [""]) else name)] = Field(
        None,
        description="label group or channel, for volumes that name no label of their own; of several label files the "
        "one that is used, or several, the later laid over the earlier (default: all that `labels` names); empty, or "
        '"": they have none',
    )
    labels: AnyLabelNames | None = Field(
        None,
        description="values of the label files and the names of their classes, {500: left ventricle, 205: myocardium}; "
        "numbered in this order, several values may have one name, 0 is background; `classes` follows; of several "
        "label files each its own, {tissue: {2: white matter}, lesion: {1: lesion}}; `freesurfer` for its numbers",
    )
    unmapped: Literal["background"] | None = Field(
        None, description="label values that `labels` does not name: background; empty: a mistake"
    )
    classes: int = Field(2, ge=2, le=255, description="number of label classes, background included")
    parenchyma: Annotated[list[str], BeforeValidator(comma_list)] | None = Field(
        None,
        min_length=1,
        description="classes of the tissue into which lesions may be laid; default: white matter, grey matter, deep "
        "grey matter, brain-stem, cerebellum, those of them that the set has",
    )
    tissue_map: Literal["kmeans"] | None = Field(
        None,
        description="for brains without a map of tissues, the label `tissue`: CSF, white matter and grey matter, told "
        "apart in the image by k-means of its intensities; empty: none is made",
    )
    floor: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="intensity below which voxels of images are background, and become 0, after tiles.grid (35 for the "
        "scanners of paper 4); default: 35 for brain-dwi tiles, none for others",
    )
    floor_relative: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="the same as a share of the upper percentile of the volume, which does not depend on the scanner",
    )
    orientation: Orientation | None = Field(
        None,
        description="sides towards which x, y, z of every NIfTI volume are made to run, by its affine, e.g. RAS; "
        "`stored` (or empty): as the file has them",
    )
    volumes: list[VolumeEntry] = Field(
        [],
        description="the data set, in place of a dataset.yaml; the list of a preset yields to one that is there",
    )
    synthesis: Annotated[dict[str, Any], AfterValidator(_as_written)] | None = Field(
        None,
        description="how the volumes of a synthetic data set were made, as synthesize.py writes it into dataset.yaml; "
        "it may have one domain alone, which is its target",
    )
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

    @model_validator(mode="before")
    @classmethod
    def _count(cls, section: Any) -> Any:
        return counted(section)

    @model_validator(mode="after")
    def _agree(self) -> Data:
        if self.labels is not None:
            check_counted(chosen(self.labels, label_names(self.label)), self.classes)
        if None not in (self.floor, self.floor_relative):
            raise ValueError("floor and floor_relative both say below what there is background; give one of the two")
        return self

    @property
    def apart(self) -> bool:
        """Whether anatomy and tumour images are drawn independently: of two domains, or pairs taken as none."""
        return self.unpaired or bool(self.domains)

    def rules(self, tiles: Tiles, domain: str) -> Tiles:
        """How volumes of a domain become tiles; `tiles` itself for "", volumes of none."""
        return self.domains[domain].rules(tiles) if domain else tiles

    def told(self) -> dict[str, Any]:
        """What the section says of tiles, as JSON, by which sets are known.

        Without later fields that say nothing, so that sets from before these fields are known again, and without how
        tiles are drawn. `labels` become pairs, whose order numbers the classes and counts.
        """
        fields = self.model_dump(mode="json", exclude={"unpaired"})
        for name in LATER:
            if fields[name] in (None, "", {}):
                del fields[name]
        fields["phantom"] = self.phantom.told()
        if self.labels is not None:
            fields["labels"] = _pairs(self.labels)
        for name, domain in self.domains.items():
            if domain.labels is not None:
                fields["domains"][name]["labels"] = _pairs(domain.labels)
        for entry in fields["volumes"]:
            for name in LATER_OF_VOLUMES:
                if not entry[name]:
                    del entry[name]
        return fields

    @property
    def tissue(self) -> dict[int, str]:
        """The classes, by number, into which lesions may be laid; UserError where the set has none."""
        if self.labels is None:
            raise UserError("data.parenchyma: the classes have no names; name the values of the labels in `labels`")
        try:
            return parenchyma_of(self.labels, self.parenchyma)
        except ValueError as error:
            raise UserError(f"data.parenchyma: {error}") from error

    @property
    def channel_numbers(self) -> tuple[int, int]:
        """How many channels anatomy and tumour images have; 1 for a role that names none."""
        anatomy, tumour = (max(1, len(channel_names(role))) for role in (self.anatomy, self.tumour))
        return anatomy, tumour
