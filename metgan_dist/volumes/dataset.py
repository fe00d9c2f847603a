"""A data set: its description (a dataset.yaml, a known layout, or part of a recipe) and references to its volumes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationError, model_validator

from metgan_dist.errors import UserError
from metgan_dist.recipe import (
    AnyLabelNames,
    Channels,
    Data,
    Domain,
    Labels,
    Orientation,
    Section,
    VolumeEntry,
    by_file,
    channel_names,
    chosen,
    class_names,
    label_names,
)
from metgan_dist.recipe.labels import TISSUE, check_counted, counted
from metgan_dist.recipe.mistakes import first_mistake
from metgan_dist.recipe.yaml_file import read_yaml
from metgan_dist.storage import Options, absolute, basename, exists, is_local, join, parent, read_bytes
from metgan_dist.volumes.domains import resolve_domains, role_channels
from metgan_dist.volumes.labelled import LabelledVolume, Role, VolumeRef, open_image, open_labels
from metgan_dist.volumes.layouts import layout_of
from metgan_dist.volumes.made_tissue import with_made_tissue
from metgan_dist.volumes.phantoms import phantom_description

__all__ = ["Description", "LabelledVolume", "Role", "VolumeRef", "described_at", "resolve_data", "volume_refs"]

DESCRIPTION = "dataset.yaml"
# Fields of a description that a recipe's section `data` has, too.
SAID = (
    "anatomy",
    "tumour",
    "labels",
    "unmapped",
    "classes",
    "parenchyma",
    "tissue_map",
    "orientation",
    "source",
    "target",
    "synthesis",
)


class Description(Section):
    """What a `dataset.yaml` holds; paths are relative to its folder."""

    anatomy: Channels | None = Field(None, description="channel(s) that give the anatomy; default for data.anatomy")
    tumour: Channels | None = Field(None, description="channel(s) to generate; default for data.tumour")
    labels: AnyLabelNames | None = Field(None, description="values of label files, names of classes; see data.labels")
    unmapped: Literal["background"] | None = Field(None, description="label values that `labels` does not name")
    classes: int | None = Field(None, ge=2, le=255, description="number of label classes; default for data.classes")
    parenchyma: list[str] | None = Field(None, min_length=1, description="tissue for lesions; see data.parenchyma")
    tissue_map: Literal["kmeans"] | None = Field(None, description="made maps of tissues; see data.tissue_map")
    domains: dict[str, Domain] | None = Field(None, description="kinds of image; default for data.domains")
    source: str | None = Field(None, description="domain of the anatomy images; default for data.source")
    target: str | None = Field(None, description="domain of the images to generate; default for data.target")
    orientation: Orientation | None = Field(None, description="sides towards which axes run; see data.orientation")
    synthesis: dict[str, Any] | None = Field(None, description="how the volumes were made; see data.synthesis")
    volumes: list[VolumeEntry] = Field(min_length=1, description="the volumes")

    @model_validator(mode="before")
    @classmethod
    def _count(cls, section: Any) -> Any:
        return counted(section)

    @model_validator(mode="after")
    def _agree(self) -> Description:
        check_counted(self.labels, self.classes)
        return self


class Described(NamedTuple):
    """A description as it was found: where (a file, or the folder of a layout), what its paths are relative to, and the
    layout's name, None for a dataset.yaml."""

    place: str
    base: str
    description: Description
    layout: str | None


def resolve_data(data: Data, options: Options | None = None) -> Data:
    """`data` with the data set's description read in: volumes listed, path their base, what it says for defaults.

    The description is `data.volumes`, else a dataset.yaml at `data.path` or in that folder, else that of the layout in
    which the folder lies, else `data.path` is one volume. A recipe may name other channels ("" for no tumour channel),
    another source and target, another orientation, fields of domains, and other classes by `labels` of its own; another
    number of classes is an error. Domains are completed (volumes/domains.py). Applied to its own result it changes
    nothing.
    """
    if data.volumes:
        return _completed(data.model_copy(update={"path": absolute(data.path or ".")}))
    if not data.path:
        raise UserError("data.path: empty; give a volume, a folder with dataset.yaml, or a dataset.yaml")
    path = absolute(data.path)
    if not exists(path, options):
        raise UserError(f"{path}: not found; check data.path")
    found = described_at(path, options)
    if found is None:
        entry = VolumeEntry.model_validate({"id": basename(path).partition(".")[0], "path": basename(path)})
        return _completed(data.model_copy(update={"path": parent(path), "volumes": [entry]}))
    return _filled(data, found)


def as_described(data: Data, options: Options | None = None) -> Data:
    """`data` of a phantom as its dataset.yaml will have them once it is drawn; other data as they are.

    So a mistake on domains is told before anything is drawn. Raises UserError as `resolve_data` does.
    """
    if data.path is not None or data.volumes:
        return data
    place = f"the {data.phantom.modality} phantom"
    return _filled(data, Described(place, "", _validated(place, phantom_description(data.phantom, options)), None))


def _filled(data: Data, found: Described) -> Data:
    """`data` with what a description says for defaults."""
    update: dict[str, Any] = {"path": found.base, "volumes": found.description.volumes}
    said = _of_chosen(found.description, data)
    for name in SAID:
        given, wanted = getattr(said, name), getattr(data, name)
        if given is None or (name in ("labels", "classes") and data.labels is not None):
            continue
        own = name in data.model_fields_set and wanted not in (given, Data.model_fields[name].default)
        if own and name == "classes":
            raise UserError(f"data.classes: the recipe says {wanted}, but {found.place} says {given}; make them agree")
        if not own:
            update[name] = given
    if found.description.domains:
        update["domains"] = _both(found.description.domains, data.domains)
    return _completed(data.model_copy(update=update))


def _of_chosen(description: Description, data: Data) -> Description:
    """A description with as many classes as those of its label files have that `data` takes."""
    if description.labels is None or data.labels is not None or data.tissue_map or description.tissue_map:
        return description
    return description.model_copy(update={"classes": len(class_names(_chosen(description.labels, data)))})


def _completed(data: Data) -> Data:
    """`data` with the label files that are laid over each other chosen, and its domains filled in.

    Of several files that `labels` names those of `data.label` stay, in its order, and count; of one alone the plain
    map. Applied to its own result it changes nothing.
    """
    data = with_made_tissue(data)
    names = label_names(data.label)
    every = () if data.labels is None else class_names(data.labels)
    unknown = next((name for name in data.parenchyma or () if name not in every), None)
    if unknown is not None:
        there = ", ".join(every[1:]) or "its classes have no names, which `labels` gives"
        raise UserError(f"data.parenchyma: {unknown!r} is no class of the data set ({there})")
    files = by_file(data.labels or {})
    if "" in files:
        if len(names) > 1:
            raise UserError(
                f"data.labels: data.label lays several labels over each other ({', '.join(names)}); name the values of "
                f"each, {{{names[0]}: {{1: ...}}, {names[1]}: {{1: ...}}}}{_or_made(names)}"
            )
        return resolve_domains(data)
    _check_by_file(data, files)
    labels = _chosen(data.labels or {}, data)
    classes = class_names(labels)
    # The tissue counts for those who ask for a label with tissue.
    tissue = [name for name in data.parenchyma or () if name in classes]
    names = names or tuple(files)
    label = names[0] if len(names) == 1 else list(names)
    update = {"label": label, "labels": labels, "classes": len(classes), "parenchyma": tissue or None}
    return resolve_domains(data.model_copy(update=update))


def _check_by_file(data: Data, files: Iterable[str]) -> None:
    """UserError where `labels` names several label files, and volumes do not."""
    names = ", ".join(files)
    if any(entry.domain for entry in data.volumes):
        raise UserError(f"data.labels: several label files ({names}), but volumes of two domains, which have one each")
    single = next((entry for entry in data.volumes if isinstance(entry.label, str)), None)
    if single is not None:
        raise UserError(
            f"data.volumes: {single.id!r} has one label, {single.label}, and `labels` names the values of several "
            f"({names}); say which of them it is, label: {{{next(iter(files))}: {single.label}}}"
        )


def _chosen(labels: Labels, data: Data) -> Labels:
    try:
        return chosen(labels, label_names(data.label))
    except ValueError as error:
        raise UserError(
            f"data.{error}; correct it{_or_made(set(label_names(data.label)) - {*by_file(labels)})}"
        ) from error


def _or_made(lacking: Iterable[str]) -> str:
    """What else helps where a map of tissues is lacking."""
    return ", or set data.tissue_map to kmeans, which makes a rough map of the image" if TISSUE in lacking else ""


def _both(described: Mapping[str, Domain], asked: Mapping[str, Domain]) -> dict[str, Domain]:
    """The domains of a description with the fields that a recipe gives, in the order of the description."""
    own = {name: domain.model_dump(exclude_none=True) for name, domain in asked.items()}
    laid = {name: domain.model_copy(update=own.pop(name, {})) for name, domain in described.items()}
    return {**laid, **{name: asked[name] for name in own}}


def described_at(path: str, options: Options | None = None) -> Described | None:
    """What describes the data set at a path: a dataset.yaml, it itself or in the folder, else a layout that is known.

    None where there is neither. Raises UserError for a description that does not validate.
    """
    location = _description_at(path, options)
    if location is not None:
        tree = read_yaml(location, read_bytes(location, options)) or {}
        return Described(location, parent(location), _validated(location, tree), None)
    found = layout_of(path, options)
    if found is None:
        return None
    name, tree = found
    return Described(path, path, _validated(f"{path} (read as {name})", tree), name)


def check_channels(data: Data) -> None:
    """UserError where a generator would learn to copy its input: never in two domains, whose volumes are others."""
    known = () if data.domains else channel_names(data.anatomy)
    shared = next((name for name in channel_names(data.tumour) if name in known), None)
    if shared is not None and not data.one_channel:
        raise UserError(
            f"data.tumour: {shared!r} is {'in ' if len(known) > 1 else ''}data.anatomy as well, which leaves nothing "
            "to generate; name another channel, or set data.one_channel for segmentation alone"
        )


def fields_of_its_own(data: Data, options: Options | None = None) -> set[str]:
    """Fields of `data` that are for the data set at `data.path` to say, and not for a preset made for another one.

    What its dataset.yaml or layout gives; without one the list of volumes, where none of those listed is there.
    """
    assert data.path is not None
    path = absolute(data.path)
    parts = [part for entry in data.volumes for part in entry.paths]
    there = any(exists(join(path, part), options) for part in parts)
    found = None if there and _description_at(path, options) is None else described_at(path, options)
    if found is not None:
        given = found.description
        own = {name for name in Description.model_fields if getattr(given, name) is not None}
        # Of domains, the channels are each one's own, and labels where a volume names them.
        parted = given.domains or any(entry.domain for entry in given.volumes)
        return own | {"anatomy", "tumour", "label"} if parted else _less_for_one_image(own, given, data)
    return set() if there else {"volumes"}


def _less_for_one_image(own: set[str], given: Description, data: Data) -> set[str]:
    """Of those fields what a preset may still say: to do without the anatomy image, and which of several labels."""
    if not data.anatomy and data.tumour and data.tumour == given.tumour:
        own = own - {"anatomy"}
    files = {*by_file(given.labels or {}), *((TISSUE,) if data.tissue_map or given.tissue_map else ())}
    return own if "" in files or set(label_names(data.label)) <= files else own | {"label"}


def _description_at(path: str, options: Options | None) -> str | None:
    """The dataset.yaml that a path is, or that lies in the folder; None without one."""
    place = path if path.endswith((".yaml", ".yml")) else join(path, DESCRIPTION)
    return place if exists(place, options) else None


def volume_refs(data: Data, options: Options | None = None) -> list[VolumeRef]:
    """References to the volumes of a data set, in its order, without those of domains that are not used.

    Raises UserError for a description that does not validate, and as `check_list`, `volume_ref` and `check_listed_once`
    do. Existence is all that is looked at; shapes and channels are checked when a volume is opened.
    """
    described = resolve_data(data, options)
    check_list(described, data.path)
    found = (volume_ref(described, entry, options) for entry in described.volumes)
    refs = [ref for ref in found if ref is not None]
    check_listed_once(refs)
    return refs


def check_list(described: Data, place: str | None) -> None:
    """UserError for `unmapped` without `labels`, and for an id that two volumes have; `place`: of the data set."""
    mapped = described.labels is not None or any(domain.labels for domain in described.domains.values())
    if described.unmapped is not None and not mapped:
        raise UserError(
            "data.unmapped: says what becomes of values that `labels` does not name, but there is none; leave it out"
        )
    ids = [entry.id for entry in described.volumes]
    doubled = next((name for name in ids if ids.count(name) > 1), None)
    if doubled is not None:
        raise UserError(f"{place or 'data.volumes'}: two volumes have the id '{doubled}'; give each its own")


def volume_ref(described: Data, entry: VolumeEntry, options: Options | None = None) -> VolumeRef | None:
    """The reference to one volume of a data set as `resolve_data` gives it; None where its domain is not used.

    Raises UserError for a path, label or table that does not exist.
    """
    channels = role_channels(described, entry)
    if channels is None:
        return None
    own = described.domains[entry.domain] if entry.domain else Domain()
    ref = VolumeRef(
        id=entry.id,
        organ=entry.organ,
        patient=entry.patient,
        split=entry.split,
        entry=entry,
        base=str(described.path),
        anatomy=channels[0],
        tumour=channels[1],
        label=described.label,
        classes=described.classes,
        options=dict(options or {}),
        missing_chunks=described.missing_chunks,
        domain=entry.domain or "",
        labels=own.labels or described.labels,
        unmapped=own.unmapped or described.unmapped,
        orientation=described.orientation,
        tissue_map=described.tissue_map,
    )
    _check_exists(ref)
    return ref


def check_listed_once(refs: list[VolumeRef]) -> None:
    """UserError for a file that is listed as two volumes: one could be trained on, and the other held out."""
    owner: dict[str, str] = {}
    for ref in refs:
        # A link and its target are one file; two channels of one volume may come from one.
        for path in dict.fromkeys(os.path.realpath(path) if is_local(path) else path for path in ref.paths):
            if other := owner.get(path):
                raise UserError(
                    f"{path}: listed as two volumes, '{other}' and '{ref.id}': one could be trained on and the other "
                    "held out; list it once"
                )
            owner[path] = ref.id


def _check_exists(ref: VolumeRef) -> None:
    tables = [join(ref.base, ref.entry.table)] if ref.entry.table else []
    for path in (*ref.paths, *tables):
        if not exists(path, ref.options):
            raise UserError(f"{path}: not found; volume '{ref.id}' names it, paths are relative to {ref.base}")
    if any(path is None for path in ref.label_places().values()):
        open_labels(ref, open_image(ref))


def _validated(place: str, tree: Any) -> Description:
    try:
        return Description.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{place}: {first_mistake(error, 'no such field in a description')}") from error
