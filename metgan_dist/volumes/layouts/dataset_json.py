"""The dataset.json of the Decathlon and of nnU-Net: names of channels and classes."""

from __future__ import annotations

from typing import Any

CONTENTS = "dataset.json"


def channels_of(contents: dict[str, Any]) -> list[str]:
    """Names of the channels by number; two of one name get their numbers."""
    stated = contents.get("channel_names") or contents.get("modality") or {"0": "image"}
    names = [str(name) for _, name in sorted(stated.items(), key=lambda pair: int(pair[0]))]
    return [f"{name} {number}" if names.count(name) > 1 else name for number, name in enumerate(names)]


def labels_of(contents: dict[str, Any]) -> dict[int, str]:
    """Names of the label values, ascending, without 0: {1: name}, from {"1": name} as well as from {name: 1}.

    nnU-Net's regions ({whole: [1, 2], core: [2]}) lie in each other: a value is of the last that lists it.
    """
    named: dict[int, str] = {}
    for one, other in contents["labels"].items():
        if str(one).isdigit():
            named[int(one)] = str(other)
            continue
        for value in other if isinstance(other, list) else [other]:
            named[int(value)] = str(one)
    return {value: name for value, name in sorted(named.items()) if value != 0}


def common(channels: list[str], labels: dict[int, str], ending: str) -> dict[str, Any]:
    """What a description says of all volumes."""
    turned = {"orientation": "RAS"} if ending.startswith(".nii") else {}
    tumour = channels[1] if len(channels) > 1 else ""
    return {"anatomy": channels[0], "tumour": tumour, "labels": labels, **turned}
