"""The data of paper 4's presets: phantoms of stroke as tiles, and what is told before any patient is drawn."""

from pathlib import Path

import numpy as np
import pytest

from metgan_dist.errors import UserError
from metgan_dist.recipe import Recipe, class_names, recipe_tree
from metgan_dist.tiles.survey import check_volumes
from metgan_dist.volumes.dataset import resolve_data, volume_refs
from metgan_dist.volumes.phantoms import write_phantom
from tests.two_domains import cut_here

REAL = Path(__file__).resolve().parents[2] / "../shared/data/dwi"


def recipe_of(preset, data=None, tiles=None, **phantom):
    tree = recipe_tree(preset)
    tree["data"] |= data or {}
    tree["data"]["phantom"] |= phantom
    tree["tiles"] |= tiles or {}
    return Recipe.model_validate(tree)


def drawn(recipe, folder):
    """The recipe with its phantom drawn, and its description read in."""
    data = recipe.data.model_copy(update={"path": write_phantom(recipe.data.phantom, str(folder))})
    return recipe.model_copy(update={"data": resolve_data(data)})


def test_slices_of_stroke_phantoms_hold_tissue_and_lesion_and_no_anatomy(tmp_path):
    recipe = recipe_of("stroke-small", volumes=6)
    check_volumes(recipe, [("tumour", "label")])  # nothing is drawn yet
    tiles = cut_here(drawn(recipe, tmp_path / "set"), tmp_path / "tiles")
    assert tiles.manifest["roles"] == ["tumour", "label"]
    assert (tiles.shape, len(tiles.index)) == ((64, 64), 6 * 16)
    names = class_names(tiles.manifest["data"]["labels"])
    assert (len(names), names[-1]) == (tiles.manifest["data"]["classes"], "lesion")
    lesions = dict.fromkeys(tiles.index["volume"].unique(), 0)
    for row in range(len(tiles.index)):
        lesions[tiles.index.iloc[row]["volume"]] += int((tiles.load(row)["label"] == names.index("lesion")).sum())
    healthy = {entry["id"] for entry in tiles.manifest["data"]["volumes"] if entry["healthy"]}
    assert {volume for volume, voxels in lesions.items() if not voxels} == healthy
    assert len(healthy) == 3


def test_the_small_presets_floor_leaves_the_tissue_of_phantoms_and_the_papers_35_does_not(tmp_path):
    """Shares of the labelled voxels that become background, over scanners whose white matter is 100 to 320."""
    recipe = drawn(recipe_of("stroke-small", volumes=4), tmp_path / "set")
    papers = recipe.model_copy(update={"data": recipe.data.model_copy(update={"floor_relative": None})})
    removed = {}
    for name, own in (("small", recipe), ("35", papers)):
        tiles = cut_here(own, tmp_path / name)
        taken = [volume["intensities"]["tumour"] for volume in tiles.manifest["volumes"]]
        removed[name] = [np.mean([one[what] for one in taken]) for what in ("removed_of_label", "removed")]
    print({name: [f"{share:.2%}" for share in shares] for name, shares in removed.items()})
    assert removed["small"][0] < 0.002
    assert removed["35"][0] > 2 * removed["small"][0]
    assert removed["small"][1] > 0.8 * removed["35"][1]  # air is taken away as before


def test_crops_of_lesions_alone_for_u_nets_and_mask_generators(tmp_path):
    recipe = recipe_of("stroke-small", {"label": "lesion"}, {"kind": "crop", "size": [16, 64, 64]}, volumes=4)
    tiles = cut_here(drawn(recipe, tmp_path / "set"), tmp_path / "tiles")
    assert (tiles.shape, len(tiles.index)) == ((16, 64, 64), 4)
    assert [set(np.unique(tiles.load(row)["label"])) for row in range(4)].count({0, 1}) == 2
    assert tiles.manifest["data"]["labels"] == {"1": "lesion"}


def test_what_a_phantom_has_not_is_told_before_it_is_drawn():
    recipe = recipe_of("stroke")
    with pytest.raises(UserError, match=r"data\.anatomy: the stroke phantom has no anatomy to train on"):
        check_volumes(recipe, [("anatomy", "tumour")])
    with pytest.raises(UserError, match=r"data\.phantom\.tissue_maps: /nowhere: not found"):
        check_volumes(recipe_of("stroke", tissue_maps="/nowhere"))
    with pytest.raises(UserError, match=r"tiles\.spacing: tiles\.grid has 128 x 128 x 40 voxels"):
        check_volumes(recipe_of("stroke", tiles={"spacing": [1, 1, 1]}))


def test_the_small_preset_changes_sizes_and_what_is_background_alone():
    full, small = recipe_tree("stroke"), recipe_tree("stroke-small")
    assert small["data"].pop("floor_relative") == recipe_tree("stroke-segmentation-small")["data"]["floor_relative"]
    for tree in (full, small):
        for field in ("volumes", "shape"):
            del tree["data"]["phantom"][field]
        for field in ("grid", "margin", "size"):
            del tree["tiles"][field]
    assert (full["data"], full["tiles"]) == (small["data"], small["tiles"])


@pytest.mark.skipif(not (REAL / "tissue-maps").is_dir(), reason="the real tissue maps are not here")
def test_patients_over_real_maps_with_real_lesions_are_tiles_of_all_tissues(tmp_path):
    few = tmp_path / "masks"
    few.mkdir()
    for path in sorted((REAL / "lesion-masks/masks").resolve().iterdir())[:12]:
        (few / path.name).symlink_to(path)
    maps = {"tissue_maps": str((REAL / "tissue-maps").resolve()), "lesion_masks": str(few)}
    recipe = drawn(recipe_of("stroke-small", volumes=4, **maps), tmp_path / "set")
    assert [ref.split for ref in volume_refs(recipe.data)] == ["test", "test", "val", "train"]
    tiles = cut_here(recipe, tmp_path / "tiles")
    loaded = [tiles.load(row) for row in range(len(tiles.index))]
    label, dwi = np.stack([tile["label"] for tile in loaded]), np.stack([tile["tumour"][0] for tile in loaded])
    names = class_names(tiles.manifest["data"]["labels"])
    mean = {name: dwi[label == number].mean() for number, name in enumerate(names) if (label == number).any()}
    assert len(mean) == 9
    assert mean["background"] < mean["ventricles"] < mean["white matter"] < mean["lesion"]
