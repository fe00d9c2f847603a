"""Several channels of a role, from volume to table, synthetic tiles and whole volume: two to one, and one to two."""

import numpy as np
import pytest
import torch
import zarr
from untrained import write_untrained
from user import refused, run_here

from metgan_dist.recipe import Recipe
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.trained import load_generator
from metgan_dist.volumes.open import open_volume
from metgan_dist.volumes.volume import whole

pytestmark = pytest.mark.usefixtures("ray_cluster")

SHAPE = (8, 128, 256)
CHANNELS = ("autofluorescence", "nuclei", "signal")


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """An OME-Zarr of three channels, each in a range of its own, and the label group `spots`."""
    random, path = np.random.default_rng(0), tmp_path_factory.mktemp("volume") / "volume.ome.zarr"
    spots = np.zeros(SHAPE, "uint8")
    spots[:, 20:40, 20::64] = spots[:, 80:100, 20::64] = 1
    image = random.integers(100, 1000, (3, *SHAPE)).astype("uint16")
    image[1] //= 4
    image[2] += np.uint16(20_000) * spots
    group = zarr.open_group(path, mode="w", zarr_format=3)
    arrays = {"": image, "labels/spots/": spots}
    for place, voxels in arrays.items():
        own = group if not place else group.create_group(place.rstrip("/"))
        own.create_array("0", data=voxels, chunks=(1,) * (voxels.ndim - 3) + (8, 64, 64))
        axes = ["c"] * (voxels.ndim - 3) + list("zyx")
        own.attrs["ome"] = {
            "version": "0.5",
            "multiscales": [
                {"axes": [{"name": a, "type": "channel" if a == "c" else "space"} for a in axes],
                 "datasets": [{"path": "0"}]}
            ],
            "omero": {"channels": [{"label": name} for name in CHANNELS]},
        }  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("anatomy", "tumour", "workers"),
    [
        pytest.param("autofluorescence,nuclei", "signal", 1, marks=pytest.mark.slow),
        ("autofluorescence", "signal,nuclei", 0),
    ],
)
def test_channels_go_all_the_way(tmp_path, volume, anatomy, tumour, workers):
    names = {role: tuple(given.split(",")) for role, given in (("anatomy", anatomy), ("tumour", tumour))}
    inputs, outputs = (len(own) for own in names.values())
    data = {"data__path": volume, "data__anatomy": anatomy, "data__tumour": tumour, "data__label": "spots"}
    cut = {"tiles__kind": "slice", "tiles__views": "z", "tiles__gap": 0, "tiles__test": 0.25, "tiles__val": 0.25}

    made = run_here("make_tiles", tmp_path, **data, **cut)
    assert made.code == 0, made.out + made.err
    tiles = TileSet.open(made.result["artefacts"]["tiles"])
    assert (tiles.channels("anatomy"), tiles.channels("tumour")) == (names["anatomy"], names["tumour"])
    loaded = tiles.load(0)
    assert (loaded["anatomy"].shape, loaded["tumour"].shape) == ((inputs, 64, 64), (outputs, 64, 64))

    tree = {"data": {"tumour": list(names["tumour"])}, "tiles": {"size": [64]}}
    method = {"name": "segmentor", "segmentor_width": 0.05}
    judge = write_untrained(tmp_path / "judge", Recipe.model_validate({**tree, "method": method}))
    given = {"method__segmentor": judge, "method__judge": judge}
    given["scaling__workers"] = workers
    done = run_here("train_metgan", tmp_path, data__path=tiles.uri, tracking__run="gan", **given)
    assert done.code == 0, done.out + done.err
    assert f"identity: left out, the anatomy has {inputs} channel(s) and the tumour image {outputs}" in done.out
    scores = done.result["scores"]["test"]
    assert {"generated", "affine"} <= scores.keys()
    assert "identity" not in scores

    generator = load_generator(done.result["artefacts"]["best_checkpoint"])
    (label, image), folder = (loaded["label"], loaded["anatomy"]), str(tmp_path / "gan")
    batch = {"anatomy": np.stack([image] * 2), "label": np.stack([label] * 2)}
    batch = {name: torch.from_numpy(values) for name, values in batch.items()}
    assert generator.translate({**batch, "label": batch["label"].long()}).shape == (2, outputs, 64, 64)

    scoring = {"scores__missing_weights": "skip", "scaling__workers": workers}
    compared = run_here("evaluate", tmp_path, tiny=False, runs="gan", **scoring)
    assert compared.code == 0, compared.out + compared.err
    assert compared.result["scores"]["test"]["metgan"]["mae"] == pytest.approx(scores["generated"]["mae"], rel=1e-3)

    settings = {"tiny": False, "synthesis__model": folder, "synthesis__tissue": -0.99, "tracking__patience": 5}
    synthetic = run_here("synthesize", tmp_path, **settings, synthesis__count=8, synthesis__shard=4)
    assert synthetic.code == 0, synthetic.out + synthetic.err
    pairs = TileSet.open(synthetic.result["artefacts"]["dataset"])
    assert (pairs.channels("anatomy"), pairs.channels("tumour")) == (names["anatomy"], names["tumour"])
    pair, source = pairs.load(0), tiles.load(int(pairs.index["source_tile"].iloc[0]))
    np.testing.assert_array_equal(pair["anatomy"], source["anatomy"])
    again = generator.translate({name: torch.from_numpy(pair[name])[None].to(kind) for name, kind in
                                 (("anatomy", torch.float32), ("label", torch.int64))})  # fmt: skip
    assert pair["tumour"].shape == (outputs, 64, 64)
    np.testing.assert_allclose(pair["tumour"], again[0].numpy(), atol=0.05)

    where = {"synthesis__volume": volume, "synthesis__volume_label": "spots", "tracking__run": "filled"}
    filled = run_here("synthesize", tmp_path, **settings, **where)
    assert filled.code == 0, filled.out + filled.err
    written = open_volume(filled.result["artefacts"]["volume"])
    assert (written.channels, written.shape) == (names["tumour"], SHAPE)
    ranges = {name: written.read(name, whole(written)).astype(float) for name in names["tumour"]}
    for layer, (name, voxels) in zip(tiles.layers("tumour"), ranges.items(), strict=True):
        low, high = (tiles.index[f"{layer}_{end}"].median() for end in ("low", "high"))
        assert low - 1 <= voxels.min() <= voxels.max() <= high + 1, name  # those of the channels lie far apart
    assert ("channels" in filled.result["scores"]["seams"]) == (outputs > 1)


def test_what_does_not_fit_is_one_line_before_any_work(tmp_path, volume):
    out = tmp_path / "out"
    data = {"data__path": volume, "data__tumour": "signal", "data__label": "spots"}
    own = {**data, "tiles__kind": "slice", "tiles__views": "z"}
    lacking = run_here("make_tiles", out, **own, data__anatomy="autofluorescence,dapi")
    refused(lacking, volume, "no channel 'dapi'", "autofluorescence, nuclei, signal")
    both = {**own, "data__anatomy": "autofluorescence,nuclei"}
    refused(run_here("train_metgan", out, **both, method__name="cyclegan"), "method.identity: 5", "2 channel(s)")
    refused(run_here("train_metgan", out, **both, method__name="sifa"), "method.name: sifa", "2 channel(s)")
    twice = {**own, "data__anatomy": "nuclei,nuclei"}
    refused(run_here("make_tiles", out, **twice), "data.anatomy", "channel 'nuclei' is named twice")
    copied = {**own, "data__anatomy": "nuclei,signal"}
    refused(run_here("make_tiles", out, **copied), "data.tumour: 'signal' is in data.anatomy")
    tree = {"method": {"name": "segmentor", "segmentor_width": 0.05}, "tiles": {"size": [64]}}
    judge = write_untrained(tmp_path / "judge", Recipe.model_validate(tree))
    wider = {**both, "data__anatomy": "autofluorescence", "data__tumour": "signal,nuclei", "method__judge": judge}
    refused(run_here("train_metgan", out, **wider), "method.judge", "1 channel(s), data.tumour names 2")
    assert not out.exists()
