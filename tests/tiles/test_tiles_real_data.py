"""Real images, where they lie beside the repository."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from metgan_dist.recipe import Recipe
from metgan_dist.tiles.pipeline import make_tiles

DATA = Path(__file__).resolve().parents[2] / "../shared/data"

pytestmark = [
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.skipif(not DATA.is_dir(), reason="the real images are not beside the repository"),
]


def test_both_cell_volumes_become_tiles(tmp_path):
    root = DATA / "lightsheet/autofluorescence-cells"
    volumes = [
        {
            "id": "volume-1",
            "path": {"autofluorescence": "volume-1/autofluorescence", "signal": "volume-1/signal"},
            "label": "labels/volume-1-cells.tif",
        },
        {"id": "volume-2", "path": "volume-2/volume-2.ome.zarr", "label": "blobs", "split": "unseen"},
    ]
    recipe = Recipe.model_validate(
        {
            "data": {"path": str(root), "tumour": "signal", "volumes": volumes},
            "tiles": {"kind": "slice", "size": 256, "normalise_over": "plane", "slab_axis": "y", "step": 5},
        }
    )
    tiles = make_tiles(recipe, str(tmp_path / "set"), lambda line: None)
    assert tiles.manifest["chunks_read_per_chunk_needed"] <= 1.2
    assert set(tiles.index["split"]) == {"train", "val", "test", "unseen", "gap"}
    assert (tiles.index[tiles.index["volume"] == "volume-2"]["split"] == "unseen").all()
    tile = tiles.index[(tiles.index["volume"] == "volume-1") & (tiles.index["plane"] == 10)].iloc[3]
    window = slice(tile["y0"], tile["y1"]), slice(tile["x0"], tile["x1"])
    plane = tifffile.imread(root / "volume-1/signal/signal_z010.tif")[window]
    loaded = tiles.load(int(tile.name))
    inside = (plane >= tile["tumour_low"]) & (plane <= tile["tumour_high"])
    assert (np.rint(tiles.invert(int(tile.name), "tumour", loaded["tumour"][0]))[inside] == plane[inside]).all()
    assert inside.mean() > 0.95
    label = tifffile.imread(root / "labels/volume-1-cells.tif")[10][window]
    assert (loaded["label"] == label).all()
    assert tile["foreground"] == label.sum()


@pytest.mark.parametrize(("kind", "shape", "count"), [("slice", (128, 128), 64), ("crop", (32, 128, 128), 2)])
def test_stroke_volumes_come_onto_the_papers_grid(tmp_path, kind, shape, count):
    volumes = [
        {
            "id": subject,
            "path": {"b0": f"{subject}/b0.nii.gz", "dwi": f"{subject}/dwi.nii.gz"},
            "label": f"{subject}/lesion.nii.gz",
        }
        for subject in ("subject01", "subject02")
    ]
    recipe = Recipe.model_validate(
        {
            "data": {"path": str(DATA / "dwi/acute-stroke"), "anatomy": "b0", "tumour": "dwi", "volumes": volumes},
            "tiles": {"kind": kind, "modality": "brain-dwi", "size": 128, "gap": 0, "split_by": "volume"},
        }
    )
    tiles = make_tiles(recipe, str(tmp_path / "set"), lambda line: None)
    assert tiles.shape == shape
    assert len(tiles.index) == count
    for row in range(0, count, 20):
        loaded = tiles.load(row)
        assert (loaded["tumour"].min(), loaded["anatomy"].min()) == (-1, -1)  # background
        assert loaded["tumour"].max() <= 1
        np.testing.assert_allclose(tiles.index["spacing_z"][row] * 40, [150, 160][row >= count / 2], rtol=1e-6)
    outside = [volume["intensities"]["tumour"]["clipped"] for volume in tiles.manifest["volumes"]]
    assert outside == pytest.approx([0.005, 0.005], rel=0.02)
