"""Which tiles are trained on, which choose the checkpoint, which are only scored; and folds of what is trained on.

Whole groups (patients, else volumes) are held out when there are enough of them, stratified by organ and by whether
they hold foreground; where a patient has several volumes, a group for each side is enough. Otherwise every volume
is cut into slabs along one axis, and tiles nearer than `tiles.gap` voxels to a held-out tile are left out: neighbouring
tiles show the same tissue. Folds are of whole groups wherever several are trained on, one group a fold where they are
fewer than the folds asked for; of slabs where there is one group alone, or `tiles.split_by` says slab. Nothing here is
random.

In a set of two domains each is split for itself, so that each gives its share to every side. Patients with volumes in
both come first: they are held out jointly, always as a whole, and count in the shares of either domain.

The functions take the tile index: one row a tile with columns volume, patient, organ, fixed (the data set's own
split or "auto"), foreground (pixels), z0, z1, y0, y1, x0, x1 (source voxels), stacked (a volume of separate images),
and domain, where the set has any.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from metgan_dist.errors import UserError
from metgan_dist.recipe import Tiles
from metgan_dist.tiles.geometry import AXES

ENOUGH_GROUPS = 5


def assign_splits(index: pd.DataFrame, tiles: Tiles) -> pd.DataFrame:
    """The index with columns split (train, val, test, unseen, or gap for tiles left out), slab_axis ("" where whole
    groups are on one side), gap (voxels, as in the recipe) and fold (0 ..., -1 for tiles that are not trained on).

    Raises UserError naming the field, and the domain where the set has any, when nothing is left to train on.
    """
    index = index.copy()
    index["gap"] = tiles.gap
    groups, domains = group_of(index), _domain_of(index)
    index["split"] = fixed_sides(index)
    index["slab_axis"] = ""
    index["fold"] = -1
    free, shared = index["split"] == "auto", _in_both(groups, domains)
    both = index.index[free & shared]
    index.loc[both, "split"] = _hold_out_groups(index.loc[both], groups[both], tiles)
    parts = {domain: rows.index for domain, rows in index.groupby(domains, sort=False)}
    for domain, part in parts.items():
        _split_domain(index, part[free[part].to_numpy()], shared, tiles)
        if not (index.loc[part, "split"] == "train").any():
            raise UserError(
                f"tiles.gap: none of {len(part)} tiles{of_domain(domain)} is left to train on (held out, or within "
                f"{tiles.gap} voxels of that); use smaller tiles, a smaller stride or gap, or more "
                f"volumes{of_domain(domain)}"
            )
        _add_folds(index, part, shared, tiles)
    return index


def of_domain(name: str) -> str:
    """A domain in messages; nothing for sets that have none."""
    return f" of the domain {name!r}" if name else ""


def _split_domain(index: pd.DataFrame, free: pd.Index, shared: pd.Series, tiles: Tiles) -> None:
    """Enter the sides of the rows `free` of one domain, those of `shared` patients being there already."""
    rows, groups = index.loc[free], group_of(index.loc[free])
    both = shared[free].to_numpy()
    if tiles.split_by == "volume" or (tiles.split_by == "auto" and _enough_groups(rows, groups, tiles)):
        held = rows["split"][both].groupby(groups[both]).first().tolist()
        index.loc[free[~both], "split"] = _hold_out_groups(rows[~both], groups[~both], tiles, held)
        return
    for _, volume in rows[~both].groupby("volume", sort=False):
        axis = _slab_axis(volume, tiles)
        index.loc[volume.index, "slab_axis"] = axis
        index.loc[volume.index, "split"] = _hold_out_slab(volume, axis, tiles)


def _domain_of(index: pd.DataFrame) -> pd.Series:
    """The domain of each row, "" where there are none."""
    return index["domain"] if "domain" in index else pd.Series("", index=index.index)


def _in_both(groups: pd.Series, domains: pd.Series) -> pd.Series:
    """Whether a row is of a patient with volumes in several domains."""
    return domains.groupby(groups).transform("nunique") > 1


def fold_split(index: pd.DataFrame, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """(training rows, validation rows) of one fold, row numbers of the index.

    Training tiles within the gap of a validation tile of the same volume are left out.
    """
    return _parted(index, [fold])


def segmentor_and_judge(index: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Training rows of the frozen segmentor and of the judge, about half each.

    They are of different patients (volumes, where no patients are known), or, of a single one, the lower folds and the
    upper ones, blocks that lie apart by the gap. One of the two is empty where the training tiles lie at too few
    places, or belong to no folds.
    """
    training = index["fold"] >= 0
    groups = group_of(index)
    names = sorted(groups[training].unique())
    if len(names) > 1:
        # Every second one: volumes that are listed beside each other are often alike.
        judges = groups.isin(names[1::2])
        return np.flatnonzero(training & ~judges), np.flatnonzero(training & judges)
    folds = int(index["fold"].max()) + 1
    return _parted(index, range((folds + 1) // 2, folds))


def _parted(index: pd.DataFrame, folds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(rows of the other folds, rows of `folds`), the former without tiles within the gap of the latter's."""
    val = index["fold"].isin(folds).to_numpy()
    train = ((index["fold"] >= 0) & ~val).to_numpy()
    for (_, axis), rows in index.groupby(["volume", "slab_axis"]):
        where = np.isin(np.arange(len(index)), index.index.get_indexer(rows.index))
        if axis and (val & where).any():
            low, high = _extent(index, str(axis))
            near = _near(low, high, val & where, int(rows["gap"].iloc[0]))
            train = train & ~(where & near)
    return np.flatnonzero(train), np.flatnonzero(val)


def group_of(index: pd.DataFrame) -> pd.Series:
    """What must stay together: the patient where one is known, else the volume."""
    patient = index["patient"].fillna("")
    return ("patient " + patient.astype(str)).where(patient != "", "volume " + index["volume"].astype(str))


def fixed_sides(index: pd.DataFrame) -> pd.Series:
    """The data set's own split of each row; what else there is of a patient goes where one of his volumes is fixed.

    Rows have the columns volume, patient and fixed. Raises UserError for a patient that is fixed to two sides, test and
    unseen apart: neither is trained on.
    """
    fixed, groups = index["fixed"].copy(), group_of(index)
    stated = fixed[fixed != "auto"]
    for group, sides in stated.groupby(groups[stated.index]):
        found = sorted(set(sides))
        if len(found) > 1 and found != ["test", "unseen"]:
            raise UserError(
                f"data.volumes: {group} is fixed to {' and to '.join(found)}; it stays on one side of a split"
            )
        fixed[(groups == group) & (fixed == "auto")] = found[0]
    return fixed


def _enough_groups(index: pd.DataFrame, groups: pd.Series, tiles: Tiles) -> bool:
    """Five groups or more; one for each side where a patient has several volumes, of which slabs would lie on all
    sides; or several that slabs could not divide, each being one tile along every axis.
    """
    if groups.nunique() >= ENOUGH_GROUPS:
        return True
    sides = 1 + bool(tiles.test) + bool(tiles.val)
    if sides <= groups.nunique() and (index["volume"].groupby(groups).nunique() > 1).any():
        return True
    undivided = all(_centres(index, axis).groupby(index["volume"]).nunique().max() <= 1 for axis in AXES)
    return groups.nunique() > 1 and undivided


def parted_patients(index: pd.DataFrame) -> list[str]:
    """Patients with several volumes that are trained on and held out, so that scores are of patients that were seen."""
    return [
        str(patient)
        for patient, rows in index[index["patient"].fillna("") != ""].groupby("patient")
        if rows["volume"].nunique() > 1 and "train" in (sides := set(rows["split"])) and sides & {"val", "test"}
    ]


def _hold_out_groups(index: pd.DataFrame, groups: pd.Series, tiles: Tiles, held: Sequence[str] = ()) -> np.ndarray:
    """Sides of whole groups, spread evenly over the strata (organ, with or without foreground).

    `held`: the sides of further groups, decided before; they count in the shares.
    """
    names = _ordered_groups(index, groups)
    side = dict.fromkeys(names, "train")
    count = len(names) + len(held)
    tests = _count(tiles.test, count, count - 1) - held.count("test")
    for name in _spread(names, min(max(0, tests), len(names))):
        side[name] = "test"
    rest = [name for name in names if side[name] == "train"]
    vals = _count(tiles.val, count, len(rest) + held.count("train") - 1) - held.count("val")
    for name in _spread(rest, min(max(0, vals), len(rest))):
        side[name] = "val"
    return groups.map(side).to_numpy(object)


def _count(fraction: float, of: int, most: int) -> int:
    """How many to hold out: the rounded fraction, at least one where any is asked, never all."""
    return min(most, max(1, round(fraction * of))) if fraction else 0


def _spread(names: list[str], count: int) -> list[str]:
    """`count` names at even distances, so that each stratum of an ordered list gives its share."""
    return [names[int((k + 0.5) * len(names) / count)] for k in range(count)]


def _ordered_groups(index: pd.DataFrame, groups: pd.Series) -> list[str]:
    """Groups by organ, then by foreground, then by name."""
    table = pd.DataFrame(
        {"group": groups, "organ": index["organ"].fillna("").astype(str), "foreground": index["foreground"] > 0}
    )
    strata = table.groupby("group").agg(organ=("organ", "first"), foreground=("foreground", "max")).reset_index()
    return strata.sort_values(["organ", "foreground", "group"])["group"].tolist()


def _slab_axis(rows: pd.DataFrame, tiles: Tiles) -> str:
    """The axis asked for; z for separate images; else the longest one along which every part gets tiles.

    Large tiles may leave one or two rows along the longest axis, too near each other to part.
    """
    if rows["stacked"].iloc[0]:
        return "z"
    if tiles.slab_axis != "auto":
        return str(tiles.slab_axis)
    by_length = sorted(AXES, key=lambda axis: -rows[f"{axis}1"].max())
    return max(by_length, key=lambda axis: len({"train", "val", "test"} & set(_hold_out_slab(rows, axis, tiles))))


def _hold_out_slab(rows: pd.DataFrame, axis: str, tiles: Tiles) -> np.ndarray:
    """Sides within one volume: test last along the axis, val before it, each with a gap; train the rest."""
    low, high = _extent(rows, axis)
    centre = low + high
    side = np.full(len(rows), "train", dtype=object)
    for name, fraction in (("test", tiles.test), ("val", tiles.val)):
        left = side == "train"
        if not fraction or len(np.unique(centre[left])) < 2:
            continue
        # Of all tiles, so that what the first gap has cost does not make the second part smaller.
        ranked = np.sort(centre[left])
        threshold = ranked[max(0, len(ranked) - max(1, round(fraction * len(rows))))]
        # At least one row of tiles stays.
        threshold = max(threshold, np.unique(ranked)[1])
        chosen = left & (centre >= threshold)
        near = left & ~chosen & _near(low, high, chosen, tiles.gap)
        if name == "val" and not (left & ~chosen & ~near).any():
            continue
        # The gap lies on the side that trains: held-out tiles are dear, and are never dropped.
        side[chosen] = name
        side[near] = "gap"
    return side


def _add_folds(index: pd.DataFrame, part: pd.Index, shared: pd.Series, tiles: Tiles) -> None:
    """Enter the folds of the training rows of one domain: groups dealt out in the order of their strata, or slabs.

    Groups that are fewer than the folds asked for make as many folds as they are, so that none is on both sides of one.
    Slabs hold equal numbers of tiles. Groups that the other domain has too are dealt out first, and whole in any case:
    they are of one fold in both.
    """
    train = part[(index.loc[part, "split"] == "train").to_numpy()]
    rows, groups, both = index.loc[train], group_of(index.loc[train]), shared[train].to_numpy()
    names = _ordered_groups(rows[both], groups[both]) + _ordered_groups(rows[~both], groups[~both])
    by_group = tiles.split_by != "slab" and len(names) > 1
    number = {name: place % tiles.folds for place, name in enumerate(names)}
    dealt = both | by_group
    index.loc[train[dealt], "fold"] = groups[dealt].map(number).to_numpy(np.int64)
    for _, volume in rows[~dealt].groupby("volume", sort=False):
        axis = volume["slab_axis"].iloc[0] or _slab_axis(volume, tiles)
        index.loc[volume.index, "slab_axis"] = axis
        index.loc[volume.index, "fold"] = _slab_folds(_centres(volume, axis).to_numpy(), tiles.folds)


def fewer_folds(index: pd.DataFrame, asked: int) -> list[str]:
    """A line for each domain that is trained on in fewer folds than asked for, each of one patient or volume."""
    lines, training = [], index[index["fold"] >= 0]
    for domain, rows in training.groupby(_domain_of(training), sort=False):
        folds = rows["fold"].groupby(group_of(rows)).unique()
        count, whole = len(folds), all(len(own) == 1 for own in folds)
        if whole and 1 < count < asked:
            kinds = " and ".join(sorted({f"{name.split()[0]}s" for name in folds.index}))
            lines.append(
                f"folds: {count}, not the {asked} of tiles.folds: the tiles{of_domain(str(domain))} to train on are of "
                f"{count} {kinds}, each of which is a fold"
            )
    return lines


def _slab_folds(centre: np.ndarray, folds: int) -> np.ndarray:
    """Fold of each tile by its place along the slab axis; tiles at one place stay together.

    Folds get equally many tiles as nearly as that allows, but each gets a place, as long as there are any.
    """
    places, place, count = np.unique(centre, return_inverse=True, return_counts=True)
    fold = (np.cumsum(count) - count) * folds // len(centre)
    # A place with many tiles would leave out the fold after its own: the number rises by one at most ...
    for k in range(1, len(places)):
        fold[k] = min(fold[k], fold[k - 1] + 1)
    # ... and comes as far as it can.
    fold = np.maximum(fold, min(folds, len(places)) - np.arange(len(places), 0, -1))
    return np.asarray(fold[place])


def _centres(rows: pd.DataFrame, axis: str) -> pd.Series:
    """Twice the centre along an axis, so that it stays an integer."""
    return rows[f"{axis}0"] + rows[f"{axis}1"]


def _extent(rows: pd.DataFrame, axis: str) -> tuple[np.ndarray, np.ndarray]:
    return rows[f"{axis}0"].to_numpy(), rows[f"{axis}1"].to_numpy()


def _near(low: np.ndarray, high: np.ndarray, chosen: np.ndarray, gap: int) -> np.ndarray:
    """Intervals that leave fewer than `gap` free voxels to a chosen one, or overlap it."""
    gap = min(gap, int(high.max()))  # a wider one leaves nothing either, but for the memory that it takes
    covered = np.zeros(int(high.max()) + 2 * gap + 2, dtype=np.int64)
    for a, b in {(int(a), int(b)) for a, b in zip(low[chosen], high[chosen], strict=True)}:
        # Marks where spans begin and end, whose running sum tells how many lie over a voxel: no pair of tiles is
        # compared.
        covered[max(0, a - gap)] += 1
        covered[b + gap] -= 1
    running = np.concatenate([[0], np.cumsum(np.cumsum(covered) > 0)])
    # Whether any voxel from `low` to `high` lies in such a span.
    return running[high] > running[low]
