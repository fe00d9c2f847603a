"""A volume to be filled and the generator to fill it with: opened, checked to fit each other, and described."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from metgan_dist.errors import UserError
from metgan_dist.recipe import Data, Recipe, Tiles, VolumeEntry, channel_names, class_names
from metgan_dist.storage import Options, absolute, basename
from metgan_dist.synthesis.model import find_model
from metgan_dist.synthesis.slabs import Layout
from metgan_dist.synthesis.target_range import joint_type, median_ranges
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.volumes.labelled import LabelledVolume, VolumeRef
from metgan_dist.volumes.layers import Layer, layers_of
from metgan_dist.volumes.open import open_volume


@dataclass(frozen=True)
class SourceVolume:
    """What is known before the first voxel is read.

    Attributes:
        recipe: of the job.
        model: of the generator: uri and sha256 of its checkpoint, method, run.
        tiles: the recipe section that the generator's tiles were cut with.
        channels: names of what it makes.
        training: tiles that say between which intensities it was trained.
        ref, volume: anatomy and label, as a worker opens them, and opened.
        layout: tiles on each plane, or crops.
    """

    recipe: Recipe
    model: dict[str, Any]
    tiles: Tiles
    channels: tuple[str, ...]
    training: TileSet
    ref: VolumeRef
    volume: LabelledVolume
    layout: Layout

    @staticmethod
    def of(recipe: Recipe) -> SourceVolume:
        """Open what the recipe's section `synthesis` names.

        Raises UserError (one line) for no model or one that cannot fill a volume, a volume without the channel that it
        was trained on, a label of another shape, and tiles of other channels.
        """
        settings, options = recipe.synthesis, recipe.storage.options
        model = find_model(settings, options)
        tiles, data = model.recipe.tiles, model.recipe.data
        _check_tiles(model.uri, tiles)
        ref = _reference(recipe, data)
        volume = ref.open()
        if settings.format == "nifti" and volume.affine is None:
            raise UserError(
                f"synthesis.format: nifti, but {ref.paths[0]} says nothing of where its voxels lie; only what is made "
                "from a NIfTI volume can be written as one"
            )
        layout = Layout.of(tiles, volume, settings.overlap)
        model.check_organs([settings.volume_organ], "synthesis.volume_organ")
        model.check_generates(layout.shape, settings.model_copy(update={"samples": 1}))
        training = TileSet.open(settings.tiles or model.own_tiles(), options)
        model.check_tiles(training)
        if "tumour" not in training.manifest["roles"]:
            raise UserError(f"synthesis.tiles: {training.uri}: no tumour channel, whose intensities are to be written")
        return SourceVolume(recipe, model.facts, tiles, channel_names(data.tumour), training, ref, volume, layout)

    @property
    def options(self) -> Options:
        """The job's fsspec options, with which its files are opened."""
        return self.recipe.storage.options

    @property
    def label_name(self) -> str:
        """What the label is called in the volume that is written: its file or group, without the extension."""
        return basename(self.recipe.synthesis.volume_label or "label").partition(".")[0] or "label"

    @property
    def as_nifti(self) -> bool:
        """Whether what is made is written as NIfTI, too."""
        return self.volume.affine is not None and self.recipe.synthesis.format != "ome-zarr"

    @property
    def classes(self) -> dict[int, str]:
        """Names of the label's classes by number, without the background: those of the training data, if it has any."""
        named = class_names(self.ref.labels) if self.ref.labels else ()
        return {k: named[k] if named else f"class {k}" for k in range(1, self.volume.classes)}

    @property
    def anatomy(self) -> tuple[Layer, ...]:
        """The layers of the volume that the generator is given."""
        return layers_of("anatomy", len(self.ref.anatomy))

    @property
    def tumour_ranges(self) -> list[tuple[float, float]]:
        """Intensities that -1 and 1 of each channel become: the median low and high of the training tiles."""
        return median_ranges(self.training)

    @property
    def tumour_dtype(self) -> str:
        """Type of the training volumes' tumour channels; one that holds them all where they differ."""
        return joint_type(self.training)

    @property
    def provenance(self) -> dict[str, Any]:
        """What the voxels follow from, and where that came from."""
        settings, layout = self.recipe.synthesis, self.layout
        return {
            "model": self.model,
            "tiles": {"uri": self.training.uri, "digest": self.training.digest},
            "source": {
                "volume": self.ref.paths[0],
                "channels": list(self.ref.anatomy),
                "label": next(iter(self.ref.label_paths), None) or self.ref.entry.label,
                "shape": list(self.volume.shape),
                "dtypes": [str(self.volume.dtypes[layer]) for layer in self.anatomy],
                "affine": None if self.volume.affine is None else self.volume.affine.tolist(),
            },
            "settings": {
                "overlap": settings.overlap,
                "organ": settings.volume_organ,
                "seed": settings.seed,
                "batch_size": settings.batch_size,
                "precision": self.recipe.training.precision,
                "normalise": self.tiles.normalise,
                "percentiles": list(self.tiles.percentiles),
            },
            "layout": {
                "planes_seen": layout.depth if layout.planes is None else layout.planes.edge,
                "planes_imposed": 1 if layout.planes is None else layout.planes.edge,  # of the label
                "tile_voxels": [axis.edge for axis in layout.axes],
                "tile_pixels": list(layout.shape),
                "shared_voxels": [axis.shared for axis in layout.axes],
            },
        }


def _check_tiles(model: str, tiles: Tiles) -> None:
    """UserError for a generator whose tiles cannot be laid on a volume or its planes."""
    what = None
    if tiles.grid is not None:
        what = "tiles of volumes that were all resampled to one grid (tiles.grid); generate tiles instead"
    elif tiles.modality != "light-sheet":
        what = f"{tiles.modality} tiles, whose volumes are preprocessed as a whole; generate tiles instead"
    elif tiles.kind != "crop" and "z" not in tiles.views:
        what = f"views along {', '.join(tiles.views)}; a volume is filled along z"
    if what is not None:
        raise UserError(f"synthesis.model: {model}: trained on {what}")


def _reference(recipe: Recipe, data: Data) -> VolumeRef:
    """The volume and its label, read as `data`, the model's; channels of its names, or the only one, else UserError."""
    settings, options, anatomy = recipe.synthesis, recipe.storage.options, channel_names(data.anatomy)
    assert settings.volume is not None
    path = absolute(settings.volume)
    channels = open_volume(path, options=options, missing_chunks=recipe.data.missing_chunks).channels
    if len(channels) == len(anatomy) == 1:
        anatomy = channels
    lacking = next((name for name in anatomy if name not in channels), None)
    if lacking is not None:
        raise UserError(
            f"synthesis.volume: {path}: no channel '{lacking}', which the generator was trained on; its channels: "
            f"{', '.join(channels)}"
        )
    name = basename(path).partition(".")[0]
    return VolumeRef(
        id=name,
        organ=None,
        patient=None,
        split="unseen",
        entry=VolumeEntry(id=name, path=path, label=settings.volume_label),
        base=absolute("."),
        anatomy=anatomy,
        tumour=(),
        label=None,
        classes=data.classes,
        options=options,
        missing_chunks=recipe.data.missing_chunks,
        labels=data.labels,
        unmapped=data.unmapped,
        orientation=data.orientation,
    )
