"""Two domains in one data set: images of two kinds, CT and MR say, in volumes that are no pairs.

One domain is the source, whose images are the anatomy (x in the papers), the other the target, whose images are to be
generated (y). A volume belongs to one of them.
"""

from __future__ import annotations

from metgan_dist.errors import UserError
from metgan_dist.recipe import BACKGROUND, Channels, Data, Domain, VolumeEntry, by_file, channel_names, class_names


def resolve_domains(data: Data) -> Data:
    """`data`, its volumes listed, with source, target and the channels of both filled in; itself without domains.

    Without domains only masks without images change it: there is no anatomy and no tumour image to name.

    The domains are in the order of `data.domains`, else in that of the volumes; of more than two, source and target
    are used. Synthetic volumes may be of one alone: it is the target, and there is no source.
    `data.anatomy` and `data.tumour` become the channels of the source and of the target. Applied to its own
    result it changes nothing.

    Raises UserError, naming the field or volume, where the volumes, `data.domains`, `data.source`, `data.target` and
    the channels do not fit together.
    """
    if not any(entry.domain for entry in data.volumes):
        _check_none_named(data)
        alone = bool(data.volumes) and all(entry.path is None for entry in data.volumes)
        return data.model_copy(update={"anatomy": "", "tumour": ""}) if alone else data
    order = _domains_of(data)
    source, target = (None, _only_domain(data, order)) if len(order) == 1 else _source_and_target(data, order)
    domains = {name: data.domains.get(name, Domain()) for name in order}
    update: dict[str, object] = {"source": source, "target": target}
    for role, name in (("anatomy", source), ("tumour", target)):
        if name is None:
            continue
        channels = _channels(data, role, name, domains[name].channels)
        domains[name] = domains[name].model_copy(update={"channels": channels})
        update[role] = channels
    if source is None:
        own = domains[target].labels
        named = {} if own is None else {"classes": len(class_names(own))}
        return data.model_copy(update={**update, "domains": domains, **named})
    return data.model_copy(update={**update, **_labelled(data, domains, source, target)})


def role_channels(data: Data, entry: VolumeEntry) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Channels of a volume's anatomy and tumour image, () of one that it has not; None where its domain is not used.

    "" stands for a volume's only channel, which an image that nobody names is unless the other role has it. `data` is
    resolved.
    """
    if entry.path is None:
        return (), ()
    anatomy = channel_names(data.anatomy) or ("",)
    if entry.domain is None:
        tumour = channel_names(data.tumour)
        return (() if tumour and not data.anatomy else anatomy), tumour
    if entry.domain == data.source:
        return anatomy, ()
    return ((), channel_names(data.tumour) or ("",)) if entry.domain == data.target else None


def unused_domains(data: Data) -> tuple[str, ...]:
    """Domains that are neither the source nor the target of resolved `data`: their volumes are left out."""
    return tuple(name for name in data.domains if name not in (data.source, data.target))


def _check_none_named(data: Data) -> None:
    """UserError for a field on domains where no volume has any."""
    for field in ("domains", "source", "target"):
        if getattr(data, field):
            raise UserError(
                f"data.{field}: no volume of the data set has a `domain`; give every volume its own, or leave "
                f"{field} out"
            )


def _domains_of(data: Data) -> list[str]:
    """Names of the domains in their order; UserError where volumes and `data.domains` do not agree."""
    without = [entry.id for entry in data.volumes if entry.domain is None]
    if without:
        raise UserError(
            f"data.volumes: {len(without)} of {len(data.volumes)} volumes have no `domain` ({_some(without)}); give "
            "every volume its own, or none"
        )
    first = {entry.domain: entry.id for entry in reversed(data.volumes)}
    there = list(dict.fromkeys(str(entry.domain) for entry in data.volumes))
    for name in data.domains:
        if name not in first:
            raise UserError(
                f"data.domains: no volume has the domain {name!r}, they are of {', '.join(there)}; correct one of the "
                "two, or take it away"
            )
    for name in there if data.domains else ():
        if name not in data.domains:
            raise UserError(
                f"data.domains: volume {first[name]!r} has the domain {name!r}, which is none of "
                f"{', '.join(data.domains)}; add it, or correct the volume"
            )
    if len(there) == 1 and data.synthesis is None:
        raise UserError(
            f"data.volumes: all are of the domain {there[0]!r}, and a source and a target are needed; add volumes of "
            "another, or leave `domain` out where anatomy and tumour images are of one place"
        )
    return list(data.domains) or there


def _only_domain(data: Data, order: list[str]) -> str:
    """The domain of synthetic volumes, which is the target; UserError where a field says else."""
    for field in ("source", "target"):
        given = getattr(data, field)
        if given is not None and (field == "source" or given != order[0]):
            raise UserError(
                f"data.{field}: {given!r}, but all volumes are synthetic ones of the domain {order[0]!r}, which is the "
                f"target; leave {field} out"
            )
    return order[0]


def _source_and_target(data: Data, order: list[str]) -> tuple[str, str]:
    """The domains that play x and y; UserError where they are not known, or one."""
    for field in ("source", "target"):
        given = getattr(data, field)
        if given is not None and given not in order:
            raise UserError(f"data.{field}: no volume has the domain {given!r}; there are {', '.join(order)}")
    if len(order) > 2 and None in (data.source, data.target):
        missing = "source" if data.source is None else "target"
        raise UserError(
            f"data.{missing}: the volumes are of {len(order)} domains ({', '.join(order)}); say in data.source and "
            "data.target which one is translated into which"
        )
    source = data.source or next(name for name in order if name != data.target)
    target = data.target or next(name for name in order if name != source)
    if source == target:
        others = ", ".join(name for name in order if name != source)
        raise UserError(f"data.target: {target!r} is data.source as well; name another domain ({others})")
    return source, target


def _channels(data: Data, role: str, domain: str, own: Channels | None) -> Channels:
    """The channels of a domain that plays a role; UserError where the role names others."""
    default = Data.model_fields[role].default
    given = getattr(data, role) if role in data.model_fields_set else None
    if own is None:
        return given if given is not None else ""
    if given not in (None, own, default):
        raise UserError(
            f"data.{role}: {given!r}, but the domain {domain!r}, which it is of, has the channels {own!r}; name them "
            "in one place"
        )
    return own


def _labelled(data: Data, domains: dict[str, Domain], source: str, target: str) -> dict[str, object]:
    """`domains` with classes numbered alike, and how many there are; UserError where their names differ."""
    maps = {name: domains[name].labels or data.labels for name in (source, target)}
    named = {name: class_names(labels) for name, labels in maps.items() if labels is not None}
    if not any(domains[name].labels for name in (source, target)):
        return {"domains": domains}
    if len(named) < 2:
        lacks = next(name for name in (source, target) if name not in named)
        raise UserError(
            f"data.domains: {lacks} has no `labels`, and the other domain has; name the values of both, that classes "
            "may be the same by name"
        )
    if set(named[source]) != set(named[target]):
        other = ", ".join(sorted(set(named[source]) ^ set(named[target])))
        raise UserError(
            f"data.domains: the classes of {source} and {target} differ ({other}); two domains must have the same, by "
            "name"
        )
    order = [BACKGROUND, *named[source]]
    own = by_file(maps[target] or {})[""]  # a domain has one label file
    alike = {value: own[value] for value in sorted(own, key=lambda value: order.index(own[value]))}
    numbered = {**domains, target: domains[target].model_copy(update={"labels": alike})}
    return {"domains": numbered, "classes": len(named[source])}


def _some(names: list[str], most: int = 3) -> str:
    """The first names of a list, in words."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
