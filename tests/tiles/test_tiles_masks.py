"""Masks without images: tiles that hold a label alone, on the road as far as the networks."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from mask_sets import SHAPE, SPACING, affine, cut_masks, ellipsoids, recipe_of, write_masks
from two_domains import cut_here

from metgan_dist.methods import METHODS
from metgan_dist.recipe import Data
from metgan_dist.recipe.methods import SECTIONS
from metgan_dist.tasks import task_class
from metgan_dist.tiles.stream import tile_batches, tile_stream
from metgan_dist.tiles.survey import check_volumes, survey_volumes
from metgan_dist.volumes.dataset import resolve_data, volume_refs

DATA = Path(__file__).resolve().parents[2] / "../shared/data/dwi/lesion-masks/masks"


def surveyed(folder):
    data = resolve_data(Data(path=str(folder)))
    return survey_volumes(volume_refs(data), data, lambda _line: None)


def test_tiles_hold_the_masks_and_no_image(tmp_path):
    tiles = cut_masks(tmp_path, tiles={"min_foreground": 1})
    assert tiles.manifest["roles"] == ["label"]
    assert tiles.manifest["data"]["anatomy"] == tiles.manifest["data"]["tumour"] == ""
    assert tiles.shape == (8, 16, 24)
    for row, tile in tiles.index.iterrows():
        loaded = tiles.load(row)
        assert set(loaded) == {"label"}
        box = tuple(slice(tile[f"{axis}0"], tile[f"{axis}1"]) for axis in "zyx")
        assert (loaded["label"] == ellipsoids(int(tile["volume"][1:]))[box]).all()
        assert tile["foreground"] == loaded["label"].sum() > 0
    assert not any(name.startswith(("anatomy", "tumour")) for name in tiles.index)
    assert {split: len(tiles.positions(split, "label")) for split in ("train", "val", "test")} == {
        "train": 9,
        "val": 1,
        "test": 2,
    }
    assert set(tiles.index["patient"]) == {f"p{number:02d}" for number in range(12)}


def test_batches_hold_the_masks_by_the_stream_and_read_straight(tmp_path):
    tiles, recipe = cut_masks(tmp_path), recipe_of(tmp_path / "masks")
    rows = tiles.positions("train")
    (batch,) = tile_batches(tiles, rows[:3], 4)
    assert set(batch) == {"label", "tile"}
    assert batch["label"].shape == (3, 8, 16, 24)
    streamed = list(tile_stream(tiles, recipe, batch_size=3, stop=9, here=True))
    assert sorted(tile for batch in streamed for tile in batch["tile"].tolist()) == rows.tolist()
    for batch in streamed:
        for mask, row in zip(batch["label"], batch["tile"].tolist(), strict=True):
            assert (mask.numpy() == tiles.load(row)["label"]).all()


def test_tiny_masks_are_left_out_as_the_recipe_says_and_empty_ones_stay_where_it_says_nothing(tmp_path):
    tiny, empty = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    tiny[4, 8, 12] = 1
    folder = write_masks(tmp_path / "masks", 12, {3: tiny, 5: empty})
    kept = {
        least: cut_here(recipe_of(folder, tiles={"min_foreground": least}), tmp_path / f"{least}") for least in (0, 20)
    }
    assert set(kept[0].index["volume"]) == {f"m{number:02d}" for number in range(12)}
    assert set(kept[0].index["volume"]) - set(kept[20].index["volume"]) == {"m03", "m05"}
    assert kept[20].manifest["counts"]["dropped"]["min_foreground"] == 2


def test_masks_of_mixed_grids_are_refused(tmp_path, mistake):
    folder = write_masks(tmp_path / "shapes", 6, {4: ellipsoids(4, (10, 20, 26))})
    with mistake("data.volumes: ", "m04.nii.gz", "(10, 20, 26)", "(10, 20, 24)", "must lie in one space"):
        surveyed(folder)
    folder = write_masks(tmp_path / "places", 6)
    moved = nibabel.Nifti1Image(ellipsoids(2).T, affine(shift=5.0))
    nibabel.save(moved, folder / "m02.nii.gz")
    with mistake("data.volumes: ", "m02.nii.gz", "5.0 voxels away", "must lie in one space"):
        surveyed(folder)


def test_masks_that_are_all_empty_are_refused(tmp_path, mistake):
    empty = dict.fromkeys(range(6), np.zeros(SHAPE, np.uint8))
    recipe = recipe_of(write_masks(tmp_path / "masks", 6, empty))
    with mistake("data.label: none of the", "training tiles holds a labelled pixel"):
        cut_here(recipe, tmp_path / "tiles")
    least = recipe.model_copy(update={"tiles": recipe.tiles.model_copy(update={"min_foreground": 20})})
    with mistake("tiles.min_foreground: none of the 6 tiles holds 20"):
        cut_here(least, tmp_path / "least")


def test_methods_that_need_images_refuse_masks_and_the_mask_gan_takes_them(tmp_path, mistake):
    folder = write_masks(tmp_path / "masks", 6)
    for name in METHODS:
        recipe = recipe_of(folder).model_copy(update={"method": SECTIONS[name]()})
        needs = task_class(METHODS[name], False).needs(recipe, False)
        if name == "lesion_wgan":
            check_volumes(recipe, needs)
            continue
        role = needs[0][0]
        with mistake(f"data.{role}: volume 'm00' has no {role} to train on"):
            check_volumes(recipe, needs)


def test_a_mask_is_listed_once_and_must_be_there(tmp_path, mistake):
    folder = write_masks(tmp_path / "masks", 3)
    listed = (folder / "dataset.yaml").read_text()
    (folder / "dataset.yaml").write_text(listed.replace("label: m02", "label: m01"))
    with mistake(f"{folder / 'm01.nii.gz'}: listed as two volumes, 'm01' and 'm02'"):
        surveyed(folder)
    (folder / "dataset.yaml").write_text(listed.replace("label: m02", "label: gone"))
    with mistake(f"{folder / 'gone.nii.gz'}: not found", "m02"):
        surveyed(folder)


def test_a_mask_among_images_is_refused(tmp_path, mistake):
    folder = write_masks(tmp_path / "masks", 3, anatomy="", tumour="")
    listed = (folder / "dataset.yaml").read_text()
    (folder / "image.nii.gz").write_bytes((folder / "m00.nii.gz").read_bytes())
    (folder / "dataset.yaml").write_text(listed.replace("label: m02", "path: image.nii.gz\n  label: m02"))
    with mistake("data.volumes: ", "has no anatomy", "all must have the same"):
        surveyed(folder)


def test_spacing_comes_from_the_mask(tmp_path):
    tiles = cut_masks(tmp_path, 6)
    assert tiles.index[["spacing_z", "spacing_y", "spacing_x"]].iloc[0].tolist() == pytest.approx(SPACING)
    assert tiles.manifest["volumes"][0]["intensities"] == {}


@pytest.mark.skipif(not DATA.is_dir(), reason="the real masks are not beside the repository")
def test_real_masks_come_onto_the_papers_grid(tmp_path):
    names = sorted(path.name for path in DATA.glob("*.nii.gz"))[:8]
    volumes = [{"id": name.partition("_")[0], "label": name} for name in names]
    data = {"path": str(DATA), "volumes": volumes}
    tiles = cut_here(
        recipe_of(DATA, data=data, tiles={"modality": "brain-dwi", "size": [32, 128, 128], "stride": None}), tmp_path
    )
    assert (tiles.shape, len(tiles.index)) == ((32, 128, 128), 8)
    for row, tile in tiles.index.iterrows():
        mask = tiles.load(row)["label"]
        voxels = np.asarray(nibabel.load(DATA / f"{tile['volume']}_lesion.nii.gz").dataobj).T
        assert voxels.shape == (136, 189, 157)
        # Nearest neighbours keep the volume within what one slice and a few voxels make, and the place.
        factor = np.array([136 / 40, 189 / 128, 157 / 128])
        kept = voxels[14:122]  # without four slices of 3.4 voxels at either end
        if kept.sum() > 2000:
            assert mask.sum() * factor.prod() == pytest.approx(kept.sum(), rel=0.1)
            centre = (np.argwhere(mask).mean(axis=0) + np.array([4.5, 0.5, 0.5])) * factor - 0.5
            assert centre == pytest.approx(np.argwhere(kept).mean(axis=0) + np.array([14, 0, 0]), abs=2.5)
