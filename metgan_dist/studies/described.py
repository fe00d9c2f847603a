"""Data sets that a study describes itself, of files that its steps have made: nothing is written but a dataset.yaml."""

from __future__ import annotations

from typing import Any

from metgan_dist.errors import UserError
from metgan_dist.recipe import Data, Domain, VolumeEntry
from metgan_dist.storage import join
from metgan_dist.tiles.tile_set import TileSet

TRAINING_LABELS, PAIRS = "training_labels", "pairs"
RULES = ("modality", "normalise", "percentiles")


def training_labels(tiles: TileSet, base: str) -> dict[str, Any]:
    """What the dataset.yaml of the labels of training tiles holds; `base`: of the data set that they were cut from."""
    data, trained = tiles.manifest["data"], set(tiles.index["volume"][tiles.index["split"] == "train"])
    listed = []
    for entry in data["volumes"]:
        label = entry["label"].get(data["label"]) if isinstance(entry["label"], dict) else entry["label"]
        if entry["id"] in trained and label:
            patient = {"patient": entry["patient"]} if entry["patient"] else {}
            listed.append({"id": entry["id"], "label": join(base, label), **patient, "split": "train"})
    named = {"labels": {int(value): name for value, name in data["labels"].items()}} if data["labels"] else {}
    return {**named, **({"orientation": data["orientation"]} if data["orientation"] else {}), "volumes": listed}


def pairs(made: Data, base: Data) -> dict[str, Any]:
    """What a dataset.yaml holds that lays synthetic volumes beside those of the other domain that they were made from.

    The synthetic image is the anatomy, its original the image to generate, each a channel under its domain's name:
    Sallé et al. (2021) train the translator back so, on volumes with inserted tumours and the real ones of which these
    are. Labels are those of the synthetic volumes. Lineage follows from the section `synthesis`, which stays as it is.

    Args:
        made: a synthetic data set of one domain, resolved, whose `synthesis` says what each volume was made from.
        base: the data set of two domains that it was made from, resolved.

    Raises UserError for domains of several channels, or that become tiles by other rules than each other's.
    """
    assert made.synthesis is not None
    origins = {str(one["id"]): str(one["volume"]) for one in made.synthesis["volumes"]}
    known = {entry.id: entry for entry in base.volumes}
    listed, domains = [], set()
    for entry in made.volumes:
        original = known[origins[entry.id]]
        images = (made, entry), (base, original)
        named = {str(one.domain): join(str(data.path), _file(data, one)) for data, one in images}
        domains.add(tuple(named))
        facts = {"patient": original.patient, "organ": original.organ}
        told = {key: value for key, value in facts.items() if value}
        listed.append({"id": entry.id, "path": named, "label": _label(made, entry), **told, "split": "train"})
    ((target, source),) = domains
    turned = {"orientation": base.orientation} if base.orientation else {}
    labels = {"labels": made.labels} if made.labels else {"classes": made.classes}
    _check_rules(made.domains[target], base.domains[source])
    return {"anatomy": target, "tumour": source, **labels, **turned, "synthesis": made.synthesis, "volumes": listed}


def _file(data: Data, entry: VolumeEntry) -> str:
    """The one image file of a volume of a domain."""
    channels = data.domains[str(entry.domain)].channels
    names = [channels] if isinstance(channels, str) else list(channels or ())
    if len(names) > 1 or entry.path is None:
        raise UserError(
            f"{data.path}: {entry.id!r} has images of {len(names)} channels, and pairs of two domains are of one each"
        )
    return entry.path if isinstance(entry.path, str) else entry.path[names[0]]


def _label(made: Data, entry: VolumeEntry) -> str:
    """The label of a synthetic volume: a file beside its image, or a group of labels in that."""
    assert isinstance(entry.label, str)
    image = _file(made, entry)
    inside = (image, "labels", entry.label) if image.endswith(".zarr") else (entry.label,)
    return join(str(made.path), *inside)


def _check_rules(target: Domain, source: Domain) -> None:
    for field in RULES:
        if getattr(target, field) != getattr(source, field):
            raise UserError(
                f"data.domains: pairs of two domains become tiles by one rule, and these have {field} "
                f"{getattr(target, field)} and {getattr(source, field)}; give both the same"
            )
