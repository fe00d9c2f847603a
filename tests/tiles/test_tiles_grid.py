"""One grid for every volume, its margin, the floor below which there is background: on whole volumes, and in a set."""

import nibabel
import numpy as np
import pytest

from metgan_dist.errors import UserError
from metgan_dist.recipe import Data, Recipe, Tiles
from metgan_dist.recipe.mistakes import first_mistake
from metgan_dist.tiles.floor import Floor, floor_of, removed_lines
from metgan_dist.tiles.grid import WholeGrid, grid_of
from metgan_dist.tiles.survey import fingerprint
from tests.two_domains import cut_here, recipe_of

PAPER = WholeGrid((40, 128, 128), (4, 0, 0))


def test_brain_volumes_come_onto_the_papers_grid():
    assert grid_of(Tiles(modality="brain-dwi")) == PAPER
    z = np.arange(80, dtype=np.int16)[:, None, None]
    volume = np.broadcast_to(z * 10, (80, 64, 256)).astype(np.int16)
    label = np.zeros((80, 64, 256), np.uint8)
    label[40:48, 20:40, 100:200] = 1
    image, classes = PAPER.laid(volume, is_label=False), PAPER.laid(label, is_label=True)
    assert image.shape == classes.shape == PAPER.shape == (32, 128, 128)
    assert set(np.unique(classes)) == {0, 1}
    # Slice k of 32 lies at slices 2 (k + 4) and 2 (k + 4) + 1 of 80: the mean of 10 times both.
    np.testing.assert_allclose(image[4:28, 64, 64], 20 * (np.arange(4, 28) + 4) + 5, atol=1)
    # Labelled slices 40 to 47 of 80 are 20 to 23 of 40, and 16 to 19 without the first four.
    assert classes.any(axis=(1, 2)).nonzero()[0].tolist() == [16, 17, 18, 19]


def test_what_is_made_on_the_grid_comes_back_to_the_place_it_came_from():
    grid, shape = WholeGrid((10, 8, 16), (2, 1, 0)), (20, 16, 16)
    volume = np.zeros(shape, np.uint8)
    volume[6:10, 4:8, 3:9] = 7
    laid = grid.laid(volume, is_label=True)
    assert laid.shape == (6, 6, 16)
    assert (grid.restored(laid, shape, is_label=True) == volume).all()
    image = np.random.default_rng(0).random((6, 6, 16)).astype(np.float32)
    back = grid.restored(image, shape, is_label=False)
    assert not back[:2].any()  # where the margin was
    np.testing.assert_allclose(back[6:14].mean(), image[1:5].mean() * 6 / 8, atol=0.03)  # one voxel of y is margin


def test_a_voxel_of_the_grid_lies_where_its_affine_puts_it():
    grid, shape = WholeGrid((10, 8, 16), (2, 1, 0)), (20, 16, 16)
    affine = np.array([[-1.0, 0, 0, 90], [0, 2, 0, -30], [0, 0, 1.5, 10], [0, 0, 0, 1]])
    # Voxel (x 5, y 0, z 0): one wide along x, in the middle of the file's 2 and 3 of y and 4 and 5 of z.
    np.testing.assert_allclose(grid.affine(affine, shape) @ [5, 0, 0, 1], [90 - 5, -30 + 2 * 2.5, 10 + 1.5 * 4.5, 1])
    assert grid.placed(shape).origin == (4.0, 2.0, 0.0)
    assert grid.placed(shape).factor == (2.0, 2.0, 1.0)


def test_the_background_is_zero_below_the_floor_and_what_that_takes_is_told():
    image = np.array([[0, 10, 34], [35, 100, 200]], np.float32)
    label = np.array([[0, 0, 1], [1, 1, 1]], np.uint8)
    cut, removed = floor_of(Data(), Tiles(modality="brain-dwi")).cut(image, label)
    assert cut.tolist() == [[0, 0, 0], [35, 100, 200]]
    assert removed is not None
    assert (removed.below, removed.share, removed.labelled) == (35, 2 / 6, 1 / 4)
    assert Floor().cut(image, label)[1] is None
    # A share of a percentile is the same on a scanner that writes ten times as much.
    share = floor_of(Data(floor_relative=0.2), Tiles(modality="brain-dwi"))
    for gain in (1, 10):
        cut, removed = share.cut(gain * image, None)
        assert removed is not None
        assert removed.below == pytest.approx(0.2 * 200 * gain)
        assert np.count_nonzero(cut) == 2
        assert removed.labelled is None


def test_a_floor_of_zero_leaves_what_the_papers_would_take():
    image = np.array([20.0, 30.0], np.float32)
    assert (floor_of(Data(floor=0), Tiles(modality="brain-dwi")).cut(image, None)[0] == image).all()
    assert floor_of(Data(floor=5), Tiles(grid=(4, 4, 4))) == Floor(absolute=5)


@pytest.mark.parametrize(
    ("tiles", "data", "said"),
    [
        ({"margin": [4, 0, 0]}, {}, r"tiles\.margin: .*give tiles\.grid"),
        ({"grid": [8, 8, 8], "margin": [4, 0, 0]}, {}, r"tiles\.margin: \(4, 0, 0\).*leaves nothing of \(8, 8, 8\)"),
        ({"grid": [8, 8, 8], "spacing": [1, 1, 1]}, {}, r"tiles\.spacing: tiles\.grid has 8 x 8 x 8 voxels"),
        ({"modality": "brain-dwi", "spacing": [1, 1, 1]}, {}, r"tiles\.spacing: .*128 x 128 x 40"),
        ({"modality": "cardiac-mr", "grid": [8, 8, 8]}, {}, r"tiles\.grid: cardiac-mr tiles are cut around the heart"),
        ({}, {"floor": 35}, r"data\.floor: cuts volumes that are resampled as a whole; set tiles\.grid"),
        ({}, {"floor_relative": 0.1}, r"data\.floor_relative: cuts volumes"),
    ],
)
def test_a_grid_that_does_not_suit_is_one_line(tiles, data, said):
    rules = Tiles(**tiles)
    with pytest.raises(UserError, match=said) as caught:
        floor_of(Data(**data), rules) if data else grid_of(rules)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"tiles": {"grid": [0, 8, 8]}}, "tiles.grid"),
        ({"tiles": {"grid": "8,8"}}, "tiles.grid"),
        ({"tiles": {"grid": [8, 8, 8], "margin": [-1, 0, 0]}}, "tiles.margin"),
        ({"data": {"floor": -1}}, "data.floor"),
        ({"data": {"floor_relative": 1}}, "data.floor_relative"),
        ({"data": {"floor": 35, "floor_relative": 0.1}}, "give one of the two"),
    ],
)
def test_numbers_out_of_range_name_the_field(tree, said):
    with pytest.raises(ValueError, match="validation error") as caught:
        Recipe.model_validate(tree)
    assert said in first_mistake(caught.value)


def stroke_set(folder, shape=(20, 24, 16)):
    """Two brains, one of them healthy: DWI, tissue, lesion; the head is 200, CSF 20, the lesion 400."""
    affine = np.diag([-2.0, 2, 3, 1])
    random = np.random.default_rng(0)
    entries = []
    for number in range(2):
        tissue = np.zeros(shape, np.int16)
        tissue[2:-2, 4:-4, 3:-3] = 2
        tissue[6:14, 8:15, 5:11] = 4
        lesion = np.zeros(shape, np.uint8)
        lesion[8:12, 16:20, 4:8] = 1
        dwi = np.select([lesion > 0, tissue == 2, tissue == 4], [400, 200, 20]) + random.integers(0, 3, shape)
        files = {"dwi": dwi, "tissue": tissue, "lesion": lesion}
        for name in files if number == 0 else ("dwi", "tissue"):
            image = nibabel.Nifti1Image(files[name].astype(np.int16).T, affine)
            nibabel.save(image, folder / f"{name}-{number}.nii.gz")
        label = {name: f"{name}-{number}.nii.gz" for name in (("tissue", "lesion") if number == 0 else ("tissue",))}
        entry = {"id": f"case-{number}", "path": f"dwi-{number}.nii.gz", "label": label, "healthy": number > 0}
        entries.append({**entry, "split": "test" if number else "train"})
    labels = {"tissue": {2: "white matter", 4: "ventricles"}, "lesion": {1: "lesion"}}
    data = {"anatomy": "", "tumour": "c0", "labels": labels, "orientation": "RAS", "volumes": entries}
    tiles = {"modality": "brain-dwi", "grid": [10, 12, 16], "margin": [2, 0, 0], "size": [12, 16]}
    return recipe_of(folder, data=data, tiles=tiles)


def test_a_set_of_brains_without_anatomy_on_a_grid_of_its_own(tmp_path):
    recipe = stroke_set(tmp_path)
    tiles = cut_here(recipe, tmp_path / "set")
    assert tiles.manifest["roles"] == ["tumour", "label"]
    assert tiles.shape == (12, 16)
    assert len(tiles.index) == 2 * 6
    loaded = tiles.load(3)
    assert set(loaded) == {"tumour", "label"}
    assert set(np.unique(loaded["label"])) == {0, 1, 2, 3}
    assert set(np.unique(np.stack([tiles.load(row)["label"] for row in range(6, 12)]))) == {0, 1, 2}  # healthy
    assert (loaded["tumour"][0][loaded["label"] == 2] == -1).mean() > 0.2  # CSF is below the paper's 35
    # Where the tile lies: planes 5 of 10 of 20 are the file's 10 and 11.
    row = tiles.index.iloc[3]
    assert (row["z0"], row["z1"], row["y0"], row["y1"], row["x0"], row["x1"]) == (10, 12, 0, 24, 0, 16)
    placed = tiles.manifest["volumes"][0]["grid"]
    assert (placed["size"], placed["margin"]) == ([10, 12, 16], [2, 0, 0])
    source = nibabel.as_closest_canonical(nibabel.load(tmp_path / "dwi-0.nii.gz")).affine
    np.testing.assert_allclose(np.array(placed["affine"]) @ [0, 0, 3, 1], source @ [0, 0.5, 10.5, 1])
    told = tiles.manifest["volumes"][0]["intensities"]["tumour"]
    assert told["floor"] == 35
    assert 0.2 < told["removed"] < 0.8
    assert 0 < told["removed_of_label"] < 0.2
    (line,) = removed_lines(tiles.manifest["volumes"])
    assert line.startswith("tumour: what is below 35 became background: ")
    assert "of the labelled ones; most of 'case-" in line


def test_the_lesion_alone_in_crops_and_a_floor_by_the_recipe(tmp_path):
    recipe = stroke_set(tmp_path)
    tree = recipe.model_dump(mode="json", exclude_none=True)
    tree["data"] |= {"label": "lesion", "floor_relative": 0.02, "labels": {"lesion": {1: "lesion"}}}
    tree["tiles"] |= {"kind": "crop", "size": [6, 12, 16]}
    del tree["data"]["classes"]
    crops = cut_here(recipe_of(tmp_path, data=tree["data"], tiles=tree["tiles"]), tmp_path / "crops")
    assert crops.shape == (6, 12, 16)
    assert crops.manifest["data"]["classes"] == 2
    assert crops.load(0)["label"].sum() == 2 * 2 * 4  # half as many along z and y
    assert not crops.load(1)["label"].any()
    assert crops.manifest["volumes"][0]["intensities"]["tumour"]["floor"] == pytest.approx(0.02 * 400, rel=0.2)


def test_sets_from_before_the_grid_are_known_again(tmp_path):
    recipe = stroke_set(tmp_path)
    plain = recipe.tiles.model_copy(update={"grid": None, "margin": None})
    assert not {"grid", "margin"} & set(plain.told())
    assert not {"floor", "floor_relative", "parenchyma"} & set(recipe.data.told())
    assert fingerprint(recipe.data, plain, []) != fingerprint(recipe.data, recipe.tiles, [])
