"""Tiles of two domains: roles by row, ranges by the domain's rule, splits of each for itself, and what is told."""

import json

import nibabel
import numpy as np
import pandas as pd
import pytest
from two_domains import cut_here, recipe_of, write_two_domains

from metgan_dist.tiles.mixture import write_mixture
from metgan_dist.tiles.pipeline import make_tiles
from metgan_dist.tiles.survey import check_volumes
from metgan_dist.tiles.tile_set import TileSet


@pytest.fixture
def tiles(tmp_path):
    """Six volumes of each domain; the CT's range is that of its lowest and highest voxel."""
    folder = write_two_domains(tmp_path / "data", domains={"ct": {"normalise": "minmax"}, "mr": {}})
    return cut_here(recipe_of(folder, tiles={"percentiles": [10, 90]}), tmp_path / "set")


def test_a_tile_has_the_layers_of_its_domain_in_its_own_range(tiles):
    index = tiles.index
    assert index["domain"].tolist() == ["ct"] * 24 + ["mr"] * 24
    for row in (0, 30):
        role, other = ("anatomy", "tumour") if row == 0 else ("tumour", "anatomy")
        loaded = tiles.load(row)
        assert list(loaded) == [role, "label"]
        assert (loaded[role].shape, loaded[role].dtype) == ((1, 16, 16), np.float32)
        assert loaded["label"].sum() == index["foreground"][row]
        assert np.isnan(index[f"{other}_low"][row])
        assert not np.isnan(index[f"{role}_low"][row])
    ct, mr = index.iloc[:24], index.iloc[24:]
    whole = {volume["id"]: volume["intensities"] for volume in tiles.manifest["volumes"]}
    for volume, own in ct.groupby("volume"):
        assert (own["anatomy_low"] == whole[volume]["anatomy"]["minimum"]).all()
        assert (own["anatomy_high"] == whole[volume]["anatomy"]["maximum"]).all()
    for volume, own in mr.groupby("volume"):  # a tenth of what is uniform in 100 to 600 lies below 150, above 550
        assert own["tumour_low"].between(130, 170).all()
        assert own["tumour_high"].between(530, 570).all()
        assert whole[volume]["tumour"]["clipped"] == pytest.approx(0.2, abs=0.01)
    assert (tiles.layers("anatomy"), tiles.layers("tumour")) == (("anatomy",), ("tumour",))


def test_the_manifest_holds_the_table_of_domains(tiles):
    assert list(tiles.domains) == ["ct", "mr"]
    assert tiles.domains["ct"] | {"tiles": None} == {
        "role": "anatomy",
        "channels": [],
        "holds": ["anatomy", "label"],
        "modality": "light-sheet",
        "normalise": "minmax",
        "percentiles": [10, 90],
        "tiles": None,
    }
    assert (tiles.domains["mr"]["role"], tiles.domains["mr"]["normalise"]) == ("tumour", "percentile")
    for name, domain in tiles.domains.items():
        for split, count in domain["tiles"].items():
            assert count == ((tiles.index["domain"] == name) & (tiles.index["split"] == split)).sum()
    assert tiles.manifest["roles"] == ["anatomy", "tumour", "label"]
    assert TileSet.open(tiles.uri).domains == tiles.domains


def test_tiles_are_asked_for_by_the_roles_that_they_have(tiles):
    train = tiles.index["split"] == "train"
    for roles, domain in ((("anatomy",), "ct"), (("tumour", "label"), "mr"), (("anatomy", "label"), "ct")):
        expected = np.flatnonzero(train & (tiles.index["domain"] == domain))
        assert tiles.positions("train", *roles).tolist() == expected.tolist()
        assert tiles.has(*roles)
    assert tiles.positions("train").tolist() == np.flatnonzero(train).tolist()
    assert tiles.positions("train", "label").tolist() == np.flatnonzero(train).tolist()
    assert not len(tiles.positions("train", "anatomy", "tumour"))
    assert not tiles.has("anatomy", "tumour")


def test_each_domain_gives_its_share_to_every_side(tmp_path):
    folder = write_two_domains(tmp_path / "data", {"ct": 10, "mr": 20}, shape=(1, 16, 16))
    tiles = cut_here(recipe_of(folder), tmp_path / "set")
    splits = pd.crosstab(tiles.index["domain"], tiles.index["split"])
    assert splits.loc["ct"].to_dict() == {"test": 2, "train": 7, "val": 1}
    assert splits.loc["mr"].to_dict() == {"test": 4, "train": 14, "val": 2}
    folds = pd.crosstab(tiles.index["domain"], tiles.index["fold"])
    assert folds.loc["ct", [0, 1, 2, 3, 4]].tolist() == [2, 2, 1, 1, 1]
    assert folds.loc["mr", [0, 1, 2, 3, 4]].tolist() == [3, 3, 3, 3, 2]


def test_a_domain_of_one_volume_is_cut_into_slabs_whatever_the_other_has(tmp_path):
    folder = write_two_domains(tmp_path / "data", {"ct": 1, "mr": 6}, shape=(40, 16, 16))
    tiles = cut_here(recipe_of(folder, tiles={"gap": 2}), tmp_path / "set")
    index = tiles.index
    ct, mr = (index[index["domain"] == name] for name in ("ct", "mr"))
    assert set(ct["slab_axis"]) == {"z"}
    assert {"train", "val", "test", "gap"} == set(ct["split"])
    assert set(mr["slab_axis"][mr["split"] != "train"]) == {""}
    assert (mr.groupby("volume")["split"].nunique() == 1).all()


@pytest.mark.parametrize("split_by", ["auto", "slab"])
@pytest.mark.parametrize("shared", [1, 3, 6])
def test_a_patient_with_volumes_in_both_stays_on_one_side_and_in_one_fold(tmp_path, shared, split_by):
    """The names of patients that the domains share are at other places of the order in each: 6 of CT, 12 of MR."""
    folder = write_two_domains(tmp_path / "data", {"ct": 6, "mr": 12}, shape=(12, 16, 16), shared=shared)
    tiles = cut_here(recipe_of(folder, tiles={"test": 0.3, "val": 0.2, "split_by": split_by}), tmp_path / "set")
    both = tiles.index[tiles.index["patient"].isin([f"p{k}" for k in range(shared)])]
    assert (both.groupby("patient")["domain"].nunique() == 2).all()
    assert (both.groupby("patient")["split"].nunique() == 1).all()
    assert (both.groupby("patient")["fold"].nunique() == 1).all()
    if split_by == "auto":  # they count in the share of either domain
        for name, count in (("ct", 6), ("mr", 12)):
            held_out = tiles.index[tiles.index["domain"] == name].groupby("patient")["split"].first().value_counts()
            assert held_out["test"] == round(0.3 * count)
            assert held_out["val"] == max(1, round(0.2 * count))
    else:
        slabs = tiles.index[~tiles.index.index.isin(both.index)]
        assert (slabs.groupby("volume")["split"].nunique() > 1).all()


def test_only_a_domain_with_labels_must_hold_foreground(tmp_path, mistake):
    folder = write_two_domains(tmp_path / "data", labelled=["mr"], shape=(4, 16, 16))
    tiles = cut_here(recipe_of(folder, tiles={"min_foreground": 1}), tmp_path / "set")
    counts = tiles.index["domain"].value_counts()
    assert (counts["ct"], counts["mr"]) == (24, 12)  # of the MR volumes the two middle planes are labelled
    assert tiles.manifest["counts"]["dropped"]["min_foreground"] == 12
    assert list(tiles.load(0)) == ["anatomy"]
    assert (tiles.has("tumour", "label"), tiles.has("anatomy", "label")) == (True, False)
    with mistake("tiles.min_foreground: none of the 24 tiles of the domain 'mr' holds 65 label pixels"):
        cut_here(recipe_of(folder, tiles={"min_foreground": 65}), tmp_path / "none")
    middle = {f"mr-{k}": {"split": "train" if k < 3 else "test"} for k in range(6)}
    folder = write_two_domains(tmp_path / "empty", changes=middle)
    empty = np.zeros((16, 16, 4), np.uint8)
    for k in range(3):
        nibabel.save(nibabel.Nifti1Image(empty, np.eye(4)), folder / f"mr-{k}-label.nii.gz")
    with mistake("data.label: none of the 12 training tiles of the domain 'mr' holds a labelled pixel"):
        cut_here(recipe_of(folder), tmp_path / "no foreground")


def test_labels_are_shuffled_within_a_domain(tmp_path):
    folder = write_two_domains(tmp_path / "data")
    tiles = cut_here(recipe_of(folder, data={"shuffled_labels": 0.5}), tmp_path / "set")
    carried = tiles.index["domain"].to_numpy()[tiles.index["label_row"]]
    assert (carried == tiles.index["domain"]).all()
    moved = tiles.index["label_row"] != np.arange(len(tiles.index))
    for name in ("ct", "mr"):
        train = (tiles.index["domain"] == name) & (tiles.index["split"] == "train")
        assert (moved & (tiles.index["domain"] == name)).sum() == round(0.5 * train.sum())


def test_sets_from_before_the_column_open_as_they_did(tmp_path, tiles):
    index = pd.read_parquet(f"{tiles.uri}/index.parquet").drop(columns="domain")
    own = index.iloc[:24].dropna(axis=1)
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    for name in ("format", "index_sha256", "domains"):
        del manifest[name]
    for name in ("domains", "source", "target"):
        del manifest["data"][name]
    old = TileSet.write(tiles.uri, own, {**manifest, "roles": ["anatomy", "label"]})
    assert (old.domains, "domain" in old.index) == ({}, False)
    np.testing.assert_array_equal(old.load(3)["anatomy"], tiles.load(3)["anatomy"])
    assert old.positions("train").tolist() == old.positions("train", "anatomy", "label").tolist()


# What does not fit, a line each


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mr-4": {"label": None}}, "data.volumes: 'mr-4' has no label, 'mr-0' has one; all of the domain 'mr' must"),
        (
            {f"mr-{k}": {"split": "test"} for k in range(6)},
            "tiles.gap: none of 24 tiles of the domain 'mr' is left to train on",
        ),
        (
            {"ct-0": {"patient": "p", "split": "test"}, "mr-0": {"patient": "p", "split": "train"}},
            "data.volumes: patient p",
        ),
    ],
)
def test_volumes_that_do_not_fit_are_one_line(tmp_path, changes, said, mistake):
    folder = write_two_domains(tmp_path / "data", changes=changes)
    with mistake(said):
        cut_here(recipe_of(folder), tmp_path / "set")


def test_what_a_training_lacks_is_named_with_the_domain(tmp_path, mistake):
    folder = write_two_domains(tmp_path / "data", labelled=["mr"])
    check_volumes(recipe_of(folder), [("anatomy",), ("tumour", "label")])
    with mistake("data.label: the domain 'ct' has no label to train on; name one"):
        check_volumes(recipe_of(folder), [("anatomy", "label")])
    heart = recipe_of(folder, data={"domains": {"ct": {"modality": "cardiac-ct"}, "mr": {}}})
    with mistake("data.label: volume 'ct-0' has no label, and cardiac-ct tiles are cut around the labelled heart"):
        check_volumes(heart)


def test_domains_whose_tiles_differ_in_size_are_refused(tmp_path, mistake):
    folder = write_two_domains(tmp_path / "data", {"ct": 1, "mr": 1})
    brains = {"ct": {"modality": "brain-dwi"}, "mr": {"modality": "cardiac-mr"}}
    crops = {"kind": "crop", "size": 16}
    with mistake("tiles.size: tiles of different sizes", "in ct", "in mr"):
        check_volumes(recipe_of(folder, data={"domains": brains}, tiles=crops))


@pytest.mark.usefixtures("ray_cluster")
def test_rays_tasks_cut_the_same_set_and_say_how_many_tiles_each_domain_has(tmp_path):
    folder = write_two_domains(tmp_path / "data", {"ct": 6, "mr": 6, "pet": 1})
    recipe, lines = recipe_of(folder, data={"source": "ct", "target": "mr"}), []
    made = make_tiles(recipe, str(tmp_path / "set"), lines.append)
    assert any("volumes of the domain 'pet' are left out" in line for line in lines)
    assert "tiles: mr: 16 train, 4 val, 4 test, 0 unseen" in lines
    alone = cut_here(recipe, tmp_path / "alone")
    pd.testing.assert_frame_equal(made.index, alone.index)
    np.testing.assert_array_equal(made.load(30)["tumour"], alone.load(30)["tumour"])
    assert make_tiles(recipe, str(tmp_path / "set"), lines.append).digest == made.digest
    assert "already holds this set" in lines[-1]


@pytest.mark.parametrize(("name", "role"), [("ct", "anatomy"), ("mr", "tumour")])
def test_a_domain_alone_is_a_set_whose_image_is_the_tumour(tiles, tmp_path, name, role):
    own, rows = tiles.of_domain(name), np.flatnonzero(tiles.index["domain"] == name)
    assert (own.domain, own.domains, own.held) == (name, {}, {"": ["tumour", "label"]})
    assert (own.uri, own.digest, len(own.index)) == (tiles.uri, tiles.digest, len(rows))
    assert {volume["id"] for volume in own.manifest["volumes"]} == set(own.index["volume"])
    for split in ("train", "test"):
        assert rows[own.positions(split, "tumour", "label")].tolist() == tiles.positions(split, role).tolist()
    # A mixture of it, read again from disk, has the very tiles.
    train, val = own.positions("train"), own.positions("val")
    mixture = TileSet.open(write_mixture(str(tmp_path / "mixed"), own, train, val, [], [], None).uri)
    for row in (0, len(rows) - 1):
        whole = tiles.load(int(rows[row]))
        for alone in (own.load(row), mixture.load(row)):
            assert list(alone) == ["tumour", "label"]
            np.testing.assert_array_equal(alone["tumour"], whole[role])
            np.testing.assert_array_equal(alone["label"], whole["label"])


def test_shuffled_labels_stay_with_their_rows_in_a_domain_alone(tmp_path):
    folder = write_two_domains(tmp_path / "data")
    tiles = cut_here(recipe_of(folder, data={"shuffled_labels": 0.5}), tmp_path / "set")
    for name in tiles.domains:
        own, rows = tiles.of_domain(name), np.flatnonzero(tiles.index["domain"] == name)
        assert rows[own.index["label_row"]].tolist() == tiles.index["label_row"].iloc[rows].tolist()
        assert (own.index["label_row"] != np.arange(len(rows))).any()
