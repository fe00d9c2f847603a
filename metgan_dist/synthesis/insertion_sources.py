"""The volumes that get tumours and those that give them, and who gets whose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from metgan_dist.errors import UserError
from metgan_dist.lineage.untouched import HELD_OUT
from metgan_dist.recipe import Data, Insertion, Recipe, Tiles, VolumeEntry, class_names
from metgan_dist.storage import Options, absolute, basename, exists, is_folder, join, parent
from metgan_dist.synthesis.inserting import Case, Source
from metgan_dist.tiles.tile_set import MANIFEST
from metgan_dist.volumes.dataset import resolve_data, volume_refs
from metgan_dist.volumes.labelled import VolumeRef, open_image

TUMOUR = "tumour"  # what the only class of labels is called where nobody names it


class Sources(NamedTuple):
    """The volumes of a data set that are not held out, and the entries of those that are."""

    data: Data
    all: tuple[Source, ...]
    held_out: tuple[VolumeEntry, ...]

    @property
    def synthetic(self) -> bool:
        """Whether the volumes were made by a generator."""
        return self.data.synthesis is not None

    @property
    def facts(self) -> dict[str, Any]:
        """Where the set is, and by what its voxels are known where it is a synthetic one."""
        return {"uri": self.data.path, "voxels_sha256": (self.data.synthesis or {}).get("voxels_sha256")}


def targets_of(recipe: Recipe, rules: Tiles) -> tuple[Sources, list[str]]:
    """The volumes that get tumours, and a line on those that are held out; UserError where none is left."""
    settings, data = recipe.insertion, recipe.data
    if data.path is None and not data.volumes:
        raise UserError("data.path: none given; name the volumes that are to get tumours")
    if data.path is not None and exists(join(data.path, MANIFEST), recipe.storage.options):
        raise UserError(f"data.path: {data.path}: tiles; tumours are put into whole volumes, so name the data set")
    options = recipe.storage.options
    found = _sources(only_channel(one_image(resolve_data(data, options)), options), rules, options)
    with_image = [source for source in found.all if source.ref.tumour]
    ids = [entry.id for entry in found.held_out] + [source.ref.id for source in with_image]
    if unknown := next((name for name in settings.volumes if name not in ids), None):
        raise UserError(f"insertion.volumes: no volume {unknown!r} with the image that tumours are to be put into")
    held = {entry.id: entry.split for entry in found.held_out}
    if named := next((name for name in settings.volumes if name in held), None):
        raise UserError(f"insertion.volumes: volume {named!r} is held out ({held[named]}); name others")
    chosen = [source for source in with_image if not settings.volumes or source.ref.id in settings.volumes]
    if not chosen:
        raise UserError(f"data.path: {data.path}: no volume with an image that is not held out, so none gets a tumour")
    lines = [f"left out, because they are held out: {', '.join(held)}"] if held and not settings.volumes else []
    return found._replace(all=tuple(chosen)), lines


def donors_of(recipe: Recipe, targets: Sources, rules: Tiles) -> Sources:
    """The volumes that give tumours: those of `insertion.masks`, else the targets themselves, each with its class.

    UserError where none has a label, where it is not said which class is the tumour, and for masks without an image
    whose intensity is not given.
    """
    settings, options = recipe.insertion, recipe.storage.options
    if settings.masks is None:
        found, field = targets, "data.path"
    else:
        found, field = _sources(_donor_data(recipe), rules, options), "insertion.masks"
    own = [source for source in found.all if source.ref.labelled and not source.ref.entry.healthy]
    if settings.masks is None and len(own) < len(found.all):
        unlabelled = next(source.ref.id for source in found.all if source not in own)
        raise UserError(
            f"insertion.masks: volume {unlabelled!r} has no label of its own; name a set of tumours, or other volumes"
        )
    if not own:
        raise UserError(
            f"{field}: {found.data.path}: no volume with a label that is not held out, so none has a tumour"
        )
    givers = tuple(replace(source, tumour=tumour_class(source.ref, settings.tumour)) for source in own)
    givers = tuple(replace(one, constant=one.constant or settings.intensity is not None) for one in givers)
    imageless = next((one.ref.id for one in givers if one.constant), None)
    if imageless is not None and settings.intensity is None:
        raise UserError(f"insertion.intensity: mask {imageless!r} has no image; say how bright tumours are, in [0, 1]")
    return found._replace(all=givers)


def real_tumours(targets: Sources, donors: Sources) -> tuple[Source, ...]:
    """The real volumes that show how such tumours look in the targets' kind of image: the targets' own.

    Of synthetic targets, whose labels are others', it is the donors of the domain that they imitate.
    """
    if not targets.synthetic:
        return tuple(source for source in targets.all if source.tumour)
    domain = targets.all[0].ref.domain
    return tuple(one for one in donors.all if domain and one.ref.domain == domain and not one.constant)


def tumour_class(ref: VolumeRef, wanted: str | None) -> int:
    """The number of the class that is the tumour; UserError where there are several, or none of that name."""
    names = label_classes(ref)
    if wanted is None and len(names) == 2:
        return 1
    if wanted in names[1:]:
        return names.index(str(wanted))
    if wanted is not None and wanted.isdigit() and 0 < int(wanted) < len(names):
        return int(wanted)
    listed = ", ".join(names[1:])
    if wanted is None:
        raise UserError(f"insertion.tumour: labels of volume {ref.id!r} have the classes {listed}; say which it is")
    raise UserError(f"insertion.tumour: {wanted!r} is no class of the labels of volume {ref.id!r}, which have {listed}")


def label_classes(ref: VolumeRef) -> tuple[str, ...]:
    """Names of the classes of a volume's labels, background first."""
    if ref.labels is not None:
        return class_names(ref.labels)
    return ("background", TUMOUR) if ref.classes == 2 else tuple(f"class {k}" for k in range(ref.classes))


def cases_of(settings: Insertion, targets: Sequence[Source], donors: Sequence[Source]) -> list[Case]:
    """What is to be made: a volume of each target, or `count` of them, drawn by the seed over and over."""
    order = list(targets)
    if settings.count is not None:
        random = np.random.default_rng(settings.seed)
        passes = -(-settings.count // len(targets))
        order = [targets[k] for _ in range(passes) for k in random.permutation(len(targets))][: settings.count]
    seen: dict[str, int] = {}
    cases = []
    for number, target in enumerate(order):
        again = seen[target.ref.id] = seen.get(target.ref.id, 0) + 1
        name = f"{target.ref.id}-inserted" + (f"-{again}" if again > 1 else "")
        cases.append(Case(number, name, target, _donor(settings, target, donors, number)))
    return cases


def _donor(settings: Insertion, target: Source, donors: Sequence[Source], number: int) -> Source:
    """Whose tumour a volume gets."""
    if settings.pairs == "drawn":
        # A stream of its own, beside that of places.
        return donors[int(np.random.default_rng([settings.seed, number, 1]).integers(len(donors)))]
    patient = target.ref.patient
    for alike in (
        [one for one in donors if target.ref.id == one.ref.id],
        [one for one in donors if target.origin == one.ref.id],
        [one for one in donors if patient and one.ref.patient == patient],
        list(donors),
    ):
        if len(alike) == 1:
            return alike[0]
    raise UserError(
        f"insertion.pairs: volume {target.ref.id!r} has no tumour of its own among {len(donors)} in insertion.masks, "
        "by id, by the volume that it was made from or by patient; set it to drawn, or name other volumes"
    )


def form_of(settings: Insertion, targets: Sequence[Source]) -> str:
    """As what volumes are written; UserError for separate images, and for NIfTI without an affine."""
    volumes = [source.ref.open() for source in targets]
    separate = next((volume.id for volume in volumes if volume.names is not None), None)
    if separate is not None:
        raise UserError(f"data.path: {separate!r} is a folder of separate images; tumours are put into volumes")
    nowhere = next((volume.id for volume in volumes if volume.affine is None), None)
    if settings.format == "nifti" and nowhere is not None:
        raise UserError(
            f"insertion.format: nifti, but volume {nowhere!r} says nothing of where its voxels lie; leave it out"
        )
    return settings.format or ("ome-zarr" if nowhere is not None else "nifti")


def _sources(data: Data, rules: Tiles, options: Options) -> Sources:
    """The volumes of a resolved data set, those that are held out by their entries alone."""
    origins = {
        str(one["id"]): str(one["volume"]) for one in (data.synthesis or {}).get("volumes", ()) if "volume" in one
    }
    refs = volume_refs(data, options)
    free = (ref for ref in refs if ref.split not in HELD_OUT)
    found = tuple(
        Source(ref, 0, data.rules(rules, ref.domain), origins.get(ref.id, ref.id), not (ref.anatomy or ref.tumour))
        for ref in free
    )
    return Sources(data, found, tuple(entry for entry in data.volumes if entry.split in HELD_OUT))


def one_image(data: Data) -> Data:
    """A data set without the anatomy images that stand beside those that get tumours; two domains as they are."""
    return data if data.domains else data.model_copy(update={"anatomy": ""})


def only_channel(data: Data, options: Options) -> Data:
    """A data set of one volume that has one channel, of which nobody says how it is called: that one is meant."""
    if "tumour" in data.model_fields_set or data.domains or len(data.volumes) != 1 or data.volumes[0].path is None:
        return data
    channels = open_image(volume_refs(data, options)[0]).channels
    return data.model_copy(update={"tumour": channels[0]}) if len(channels) == 1 else data


def _donor_data(recipe: Recipe) -> Data:
    """The data set of `insertion.masks`: that at `data.path` as it is read there, else as it describes itself."""
    settings, options = recipe.insertion, recipe.storage.options
    place = absolute(str(settings.masks))
    if not exists(place, options):
        raise UserError(f"insertion.masks: {place}: not found; name a data set of tumours, or a mask")
    given = {} if settings.channel is None else {"tumour": settings.channel}
    if recipe.data.path is not None and absolute(recipe.data.path) == place:
        data = resolve_data(recipe.data.model_copy(update=given), options)
    elif not is_folder(place, options) and not place.endswith((".yaml", ".yml")):
        name = basename(place)
        mask = VolumeEntry.model_validate({"id": name.partition(".")[0], "label": name})
        return Data(path=parent(place), anatomy="", tumour="", volumes=[mask])
    else:
        data = resolve_data(Data.model_validate({"path": place, **given}), options)
    if all(entry.path is None for entry in data.volumes):
        return data.model_copy(update={"anatomy": "", "tumour": ""})
    return one_image(data) if data.tumour else data
