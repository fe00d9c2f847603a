"""Layouts in which public data sets lie on disk: a folder in one of them is a data set without a dataset.yaml.

A layout is a file with `NAME`, `recognises(folder)` and `description(folder)`; the latter gives what the folder's
dataset.yaml would hold, which is validated as one. Volumes of a set with two domains carry `domain`, the source's
first. Images for tests, whose labels the set's makers keep to themselves, are left out.
"""

from __future__ import annotations

from typing import Any, Protocol

from metgan_dist.errors import UserError
from metgan_dist.storage import Options, is_folder, one_line
from metgan_dist.volumes.layouts import cross_moda, cycle_gan, decathlon, hvsmr, isles, mm_whs, nn_unet, soop
from metgan_dist.volumes.layouts.folder import Folder


class Layout(Protocol):
    """What each file of a layout holds."""

    NAME: str

    def recognises(self, folder: Folder, /) -> bool:
        """Whether the folder is in this layout, by the names in it."""

    def description(self, folder: Folder, /) -> dict[str, Any]:
        """What the folder's dataset.yaml would hold."""


LAYOUTS: tuple[Layout, ...] = (nn_unet, decathlon, mm_whs, cross_moda, hvsmr, isles, soop, cycle_gan)


def layout_of(uri: str, options: Options | None = None) -> tuple[str, dict[str, Any]] | None:
    """The name of the layout in which a folder lies and what its dataset.yaml would hold; None where none is known.

    Raises UserError for a folder that looks like one and whose own table of contents cannot be understood.
    """
    if uri.rstrip("/").endswith(".zarr") or not is_folder(uri, options):
        return None
    folder = Folder(uri, options)
    layout = next((one for one in LAYOUTS if one.recognises(folder)), None)
    if layout is None:
        return None
    try:
        return layout.NAME, layout.description(folder)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{uri}: looks like {layout.NAME}, but its dataset.json is not as that layout has it ({one_line(error)}); "
            "correct it, or write a dataset.yaml"
        ) from error
