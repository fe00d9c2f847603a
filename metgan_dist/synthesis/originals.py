"""Which volumes are translated: those of one domain that the generator was trained on, and never what is held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from metgan_dist.errors import UserError
from metgan_dist.lineage.untouched import HELD_OUT
from metgan_dist.recipe import Synthesis
from metgan_dist.synthesis.plan import check_anatomies
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.volumes.labelled import VolumeRef


@dataclass(frozen=True)
class Original:
    """A volume to be translated, small enough to travel.

    ref: the volume; name: of what is made of it; planes: those to translate, of separate images, else None; ranges:
    (low, high) of each of its channels that became -1 and 1 in the generator's tiles, None where each plane or tile had
    a range of its own.
    """

    ref: VolumeRef
    name: str
    planes: tuple[int, ...] | None
    ranges: tuple[tuple[float, float], ...] | None


def chosen_originals(tiles: TileSet, settings: Synthesis) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """Volumes to translate by id, of separate images with the planes, and a line on those that are left out.

    Of separate images only the planes that are trained on are translated; other volumes are translated as a whole, and
    so left out where a part of them is held out for the tests.

    Args:
        tiles: of the domain that is translated, as `TileSet.of_domain` gives them.
        settings: `anatomies` names volumes; none: all with training tiles.

    Raises UserError for a volume that is unknown or held out, wholly or in part, and where none is left.
    """
    index = tiles.index
    check_anatomies(tiles, settings, (index["split"] == "train").to_numpy())
    planes, why = {}, []
    for name, rows in index.groupby("volume", sort=False):
        asked = name in settings.anatomies
        if settings.anatomies and not asked:
            continue
        sides, separate = set(rows["split"]), _separate(rows)
        held = [] if separate else sorted(sides & set(HELD_OUT))
        training = _training_planes(rows) if separate else ()
        if held and asked:
            raise UserError(
                f"synthesis.anatomies: a part of volume {name!r} is held out ({', '.join(held)}) in {tiles.uri}, and "
                "volumes are translated as a whole; cut the tiles with tiles.split_by volume"
            )
        if held or not (training if separate else "train" in sides):
            why.append(f"{name} ({', '.join(sorted(sides))})")
            continue
        planes[str(name)] = training
    if not planes:
        raise UserError(
            f"synthesis.tiles: {tiles.uri}: no volume of the domain {tiles.domain!r} is wholly free of test tiles, so "
            f"there is none to translate: {'; '.join(why)}; cut the tiles with tiles.split_by volume"
        )
    left_out = f"left out, because they are held out of the training: {', '.join(why)}"
    return planes, [left_out] if why else []


def _separate(rows: pd.DataFrame) -> bool:
    """Whether a volume's tiles are of separate images, which the set knows by name."""
    return "name" in rows and bool((rows["name"] != "").any())


def _training_planes(rows: pd.DataFrame) -> tuple[int, ...]:
    """The planes all of whose tiles are trained on."""
    trained = (rows["split"] == "train").groupby(rows["z0"]).all()
    return tuple(int(plane) for plane in trained.index[trained.to_numpy()])


def originals(
    tiles: TileSet, planes: Mapping[str, tuple[int, ...]], refs: Mapping[str, VolumeRef], into: str
) -> list[Original]:
    """The chosen volumes with what their tiles say of them; `into`: the domain that they are translated into."""
    found = []
    for name, training in planes.items():
        rows = tiles.index[tiles.index["volume"] == name]
        ends = [rows[[f"{layer}_low", f"{layer}_high"]].to_numpy() for layer in tiles.layers("tumour")]
        alike = all((own == own[0]).all() for own in ends)
        ranges = tuple((float(own[0, 0]), float(own[0, 1])) for own in ends) if alike else None
        found.append(Original(refs[name], f"{name}-as-{into}", training if _separate(rows) else None, ranges))
    return found
