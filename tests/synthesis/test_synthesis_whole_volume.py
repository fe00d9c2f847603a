"""Whole volumes: tiles that join without seams, slabs as the generator was trained to see them, blocks made once."""

import importlib
import itertools
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
import yaml
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from scipy import ndimage
from tile_sets import write_crops
from untracked import untracked
from untrained import write_untrained

from metgan_dist.errors import UserError
from metgan_dist.recipe import Recipe
from metgan_dist.synthesis.blending import AxisTiles, reflected
from metgan_dist.synthesis.filling import Filler, Filling
from metgan_dist.synthesis.replica import LEVELS
from metgan_dist.synthesis.seams import SeamSums, seam_scores, seam_sums
from metgan_dist.synthesis.slabs import Survey, SurveyJob, projected, survey_planes
from metgan_dist.synthesis.source_volume import SourceVolume
from metgan_dist.synthesis.whole_volume import VolumeSynthesis, fill_volume
from metgan_dist.tiles.intensity import normalise
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.trained import load_method
from metgan_dist.volumes import ome_zarr_writer as ome
from metgan_dist.volumes.open import open_volume
from metgan_dist.volumes.volume import Spacing, whole

SHAPE = (20, 96, 200)
EDGE = 64
SMALL_REDGAN = {"name": "redgan", "width": 1 / 16, "segmentor_width": 1 / 16}
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def training(write_source):
    """Tiles whose training part has the median tumour range (100, 1100), of 16-bit volumes."""
    tiles = write_source()
    index = tiles.index.copy()
    here = index["split"] == "train"
    index.loc[here, "tumour_low"] = [90.0, 95.0, 100.0, 100.0, 105.0, 700.0]
    index.loc[here, "tumour_high"] = [1000.0, 1100.0, 1100.0, 1100.0, 1200.0, 9000.0]
    index.loc[~here, ["tumour_low", "tumour_high"]] = [0.0, 60000.0]
    volumes = [{"id": volume, "dtypes": {"tumour": "uint16"}} for volume in ("v0", "v1")]
    return TileSet.write(tiles.uri, index, tiles.manifest | {"volumes": volumes})


@pytest.fixture(scope="module")
def generator(checkpoint, training, volume):
    """generator(constant=, name=, **tiles) -> a checkpoint trained on such tiles, as its recipe claims."""

    def write(constant=None, name="metgan", method=None, **tiles):
        folder = Path(checkpoint(name, tiles=training, **({"method": method} if method else {})))
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
        recipe["tiles"] |= {"kind": "slice", **tiles}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        if name == "metgan":
            state = torch.load(folder / "state.pt", weights_only=True)
            state["networks"]["generator"] = lively(str(folder), volume, constant)
            torch.save(state, folder / "state.pt")
            (folder / "state.sha256").unlink(missing_ok=True)  # of other weights
        return str(folder)

    return write


def lively(checkpoint, volume, constant):
    """Weights of a generator whose BatchNorm has seen images, so that its output spans the range; or is constant."""
    method, _ = load_method(checkpoint)
    network = method.networks["generator"].train()
    anatomy = normalise(volume[0], *np.percentile(volume[0], (0.5, 99.8)), clip=True)[:, None, :EDGE, :EDGE]
    batch = {"anatomy": torch.from_numpy(anatomy), "label": torch.from_numpy(volume[1][:, :EDGE, :EDGE]).long()}
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        method.translate(batch)
        network.eval()
        made = method.translate(batch).atanh()
    weights = network.state_dict()
    # A constant output that still depends on the label, in a digit that no 16-bit image shows.
    weights["anatomy_path.output.weight"].mul_((1.0 if constant is None else 1e-6) / made.std())
    weights["anatomy_path.output.bias"].fill_(
        float(np.arctanh(constant)) if constant else float(-made.mean() / made.std())
    )
    return weights


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """(anatomy, label, path of the TIFF, path of the label): smooth noise of 16 bits that grows brighter along z."""
    random, folder = np.random.default_rng(0), tmp_path_factory.mktemp("volume")
    noise = ndimage.gaussian_filter(random.standard_normal(SHAPE), (1, 3, 3))
    anatomy = (1000 + 4000 * noise + 30 * np.arange(SHAPE[0])[:, None, None]).clip(0, 60000).astype(np.uint16)
    label = (noise > np.quantile(noise, 0.98)).astype(np.uint8)
    tifffile.imwrite(
        folder / "brain.ome.tif",
        anatomy,
        metadata={"axes": "ZYX", "PhysicalSizeZ": 5.0, "PhysicalSizeY": 2.0, "PhysicalSizeX": 2.0},
    )
    tifffile.imwrite(folder / "lesions.tif", label, photometric="minisblack", metadata={"axes": "ZYX"})
    return anatomy, label, str(folder / "brain.ome.tif"), str(folder / "lesions.tif")


@pytest.fixture(scope="module")
def lesions(tmp_path_factory):
    """(hand-made label, the field of a recipe that names it)."""
    label = np.zeros(SHAPE, np.uint8)
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    label[((z - 9) / 3) ** 2 + ((y - 40) / 11) ** 2 + ((x - 60) / 13) ** 2 < 1] = 1
    label[14, 70:90, 130:180] = 1
    label[2, 20, 150] = 1
    path = str(tmp_path_factory.mktemp("lesions") / "hand-made.tif")
    tifffile.imwrite(path, label, photometric="minisblack", metadata={"axes": "ZYX"})
    return label, {"volume_label": path}


@pytest.fixture(scope="module")
def recipe_of(volume):
    def make(model, storage, **synthesis):
        settings = {"model": model, "volume": volume[2], "volume_label": volume[3], "batch_size": 5, **synthesis}
        return Recipe.model_validate(
            {"synthesis": settings, "storage": {"path": str(storage)}, "tracking": {"run": "filled"}}
        )

    return make


def fill(recipe):
    run = untracked(recipe)
    fill_volume(run)
    for context, rows, digest in run.recorded:
        assert (context, rows, len(digest)) == ("generated", SHAPE[0], 64)
    return run.result


@pytest.fixture(scope="module")
def filled(generator, recipe_of, ray_cluster, tmp_path_factory):
    """(storage, recipe, result) of the volume filled by an untrained generator in two replicas."""
    storage = tmp_path_factory.mktemp("storage")
    recipe = recipe_of(generator(), storage, replicas=2)
    return storage, recipe, fill(recipe)


@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5, 0.77])
@pytest.mark.parametrize(("length", "edge"), [(200, 64), (64, 64), (65, 64), (30, 64), (1, 8), (333, 33)])
def test_weights_of_all_tiles_sum_to_one_at_every_voxel(length, edge, overlap):
    tiles = AxisTiles.over(length, edge, overlap)
    assert tiles.starts[0] <= -(tiles.shared // 2)
    assert tiles.starts[-1] + edge >= length + tiles.shared // 2
    total = np.zeros(tiles.starts[-1] + edge - tiles.starts[0])
    for start, weights in zip(tiles.starts, tiles.weights, strict=True):
        assert weights.min() > 0
        total[start - tiles.starts[0] :][:edge] += weights
    np.testing.assert_allclose(total, 1, atol=1e-6)
    for span in ((0, 1), (length // 2, length), (0, length)):
        expected = [n for n, start in enumerate(tiles.starts) if start < span[1] and span[0] < start + edge]
        assert list(tiles.touching(span)) == expected
    assert all(0 < border < length for border in tiles.borders)


def test_a_tile_fades_in_and_out_where_it_shares_voxels():
    tiles = AxisTiles.over(200, 64, 0.25)
    middle = tiles.weights[2]
    assert middle[0] < 0.02
    assert (np.diff(middle[:16]) > 0).all()
    np.testing.assert_allclose(middle[16:48], 1)
    np.testing.assert_allclose(middle, middle[::-1], atol=1e-6)


def test_reflection_is_that_of_numpy():
    for length, before, after in ((10, 4, 7), (3, 9, 9), (1, 2, 2)):
        expected = np.pad(np.arange(length), (before, after), mode="reflect")
        np.testing.assert_array_equal(reflected((-before, length + after), length), expected)


def test_projections_are_maxima_over_planes_centred_on_each(volume, generator, recipe_of, tmp_path, monkeypatch):
    monkeypatch.setattr("metgan_dist.synthesis.slabs.PIECE_BYTES", 3 * 96 * 200 * 2)
    opened = SourceVolume.of(recipe_of(generator(), tmp_path)).volume
    region = (5, 17), (10, 90), (40, 200)
    cut = tuple(slice(*span) for span in region)
    for depth in (1, 2, 5, 16, 40):
        windows = [volume[0][max(0, z - depth // 2) : z - depth // 2 + depth].max(axis=0) for z in range(SHAPE[0])]
        np.testing.assert_array_equal(projected(opened, region, depth), np.stack(windows)[cut])


def test_survey_measures_planes(volume, generator, recipe_of, tmp_path):
    source = SourceVolume.of(recipe_of(generator(), tmp_path))
    rules = source.tiles.model_copy(update={"normalise_over": "plane"})
    measured = survey_planes(SurveyJob(source.ref, (3, 9), rules, 1))
    for plane, limits in zip(range(3, 9), measured.ranges, strict=True):
        assert limits == tuple(np.percentile(volume[0][plane], rules.percentiles, method="inverted_cdf"))
    assert measured.histogram.pixels == 6 * 96 * 200


def image_with_steps(step, borders):
    """Noise over a bright square on a dark ground, with a jump of `step` to and fro at each border."""
    random = np.random.default_rng(1)
    image = random.normal(0, 10, (3, 300, 300))
    image[:, 70:230, 70:230] += random.normal(0, 40, (160, 160))
    for axis in (1, 2):
        shift = np.searchsorted(borders, np.arange(300), side="right") % 2 * step
        image += shift[:, None] if axis == 1 else shift
    return image + 1000


def test_seams_are_scored_and_their_absence_is_not():
    borders = np.arange(50, 300, 50)

    def score(image, cuts=(0, 120, 250, 300)):
        def read(region):
            return image[tuple(slice(*span) for span in region)]

        total = SeamSums.none()
        for rows in itertools.pairwise(cuts):
            for columns in itertools.pairwise(cuts):
                total += seam_sums(read, ((0, 3), rows, columns), (borders, borders))
        return total.scores()

    clean, seamed = score(image_with_steps(0, borders)), score(image_with_steps(60, borders))
    assert 0.95 < clean["ratio"] < 1.05
    assert 0.93 < clean["ratio_rows"] < 1.07
    assert seamed["ratio"] > 1.4
    assert seamed["inside"] == pytest.approx(clean["inside"])
    in_one = score(image_with_steps(60, borders), (0, 300))
    assert in_one["ratio"] == pytest.approx(seamed["ratio"], rel=1e-6)
    one_axis = image_with_steps(0, borders)
    one_axis[:, 100:] += 500
    assert score(one_axis)["ratio_rows"] > 1.5 * score(one_axis)["ratio_columns"]
    flat = score(np.full((3, 300, 300), 7.0))
    assert (flat["ratio"], flat["inside"]) == (1.0, 0.0)
    none = np.zeros(0, np.int64)
    alone = seam_sums(lambda region: np.zeros((3, 300, 300)), ((0, 3), (0, 300), (0, 300)), (none, none))
    assert alone.scores()["ratio"] is None


def test_seams_of_crops_are_scored_along_planes_too():
    borders = (np.arange(20, 60, 20), np.arange(16, 48, 16), np.arange(16, 48, 16))
    random = np.random.default_rng(1)
    image = random.normal(1000, 10, (60, 48, 48)).astype(np.float32)
    image[20:40] += 60

    def score(cuts):
        total = SeamSums.none(3)
        for planes in itertools.pairwise(cuts):
            region = (planes, (0, 48), (0, 48))
            total += seam_sums(lambda part: image[tuple(slice(*span) for span in part)], region, borders)
        return total.scores()

    whole_volume, parts = score((0, 60)), score((0, 20, 33, 60))
    assert whole_volume["ratio_planes"] > 3
    assert 0.9 < whole_volume["ratio_rows"] < 1.1
    assert {name: parts[name] == pytest.approx(value) for name, value in whole_volume.items()} == dict.fromkeys(
        ("ratio", "ratio_planes", "ratio_rows", "ratio_columns", "across", "inside"), True
    )


def test_a_filled_volume_is_an_image_with_pyramid_label_and_origin(filled, volume, training):
    _, recipe, result = filled
    path = result.artefacts["volume"]
    written = open_volume(path)
    assert (written.shape, written.channels, written.dtype) == (SHAPE, ("tumour",), np.uint16)
    assert written.spacing == Spacing(5.0, 2.0, 2.0, "micrometer")
    assert written.levels == ("s0", "s1")
    image = written.read("tumour", whole(written))
    assert 100 <= image.min() < image.max() <= 1100
    coarse = open_volume(path, level="s1")
    expected = image.reshape(20, 48, 2, 100, 2).mean(axis=(2, 4))
    np.testing.assert_array_equal(coarse.read("tumour", whole(coarse)), np.rint(expected))
    assert coarse.spacing == Spacing(5.0, 4.0, 4.0, "micrometer")
    label = open_volume(f"{path}/labels/lesions")
    np.testing.assert_array_equal(label.read("c0", whole(label)), volume[1])
    told = zarr.open_group(path, mode="r").attrs["metgan_dist"]
    assert told["model"]["method"] == "metgan"
    assert told["model"]["run"] == "0" * 31 + "1"
    assert told["tiles"] == {"uri": training.uri, "digest": training.digest}
    assert told["source"]["volume"] == recipe.synthesis.volume
    assert told["intensities"]["tumour"] == {"low": 100.0, "high": 1100.0, "from": "median of the training tiles"}
    assert told["label_voxels"] == np.bincount(volume[1].ravel()).tolist()
    assert told["voxels_sha256"] == result.artefacts["voxels_sha256"]
    assert result.scores["seams"]["ratio"] < 1.1
    assert Path(result.artefacts["preview"]).read_bytes().startswith(b"\x89PNG")


def test_an_independent_reader_sees_the_same(filled, volume):
    path = filled[2].artefacts["volume"]
    image, label = (node for node in Reader(parse_url(path))() if node.data)
    written = open_volume(path)
    np.testing.assert_array_equal(np.asarray(image.data[0])[0], written.read("tumour", whole(written)))
    assert [level.shape for level in image.data] == [(1, 20, 96, 200), (1, 20, 48, 100)]
    assert [axis["name"] for axis in image.metadata["axes"]] == ["c", "z", "y", "x"]
    assert image.metadata["coordinateTransformations"][1] == [
        {"type": "scale", "scale": [1.0, 5.0, 4.0, 4.0]},
        {"type": "translation", "translation": [0.0, 0.0, 1.0, 1.0]},
    ]
    np.testing.assert_array_equal(np.asarray(label.data[0]).reshape(SHAPE), volume[1])


def test_a_plane_is_the_blend_of_its_tiles_in_one_intensity_range(filled, volume):
    """Against a plain loop over the tiles of a plane, with NumPy's padding and a sum of weighted tiles."""
    _, recipe, result = filled
    method, _ = load_method(recipe.synthesis.model)
    plane, pad = 17, 48
    low, high = np.percentile(volume[0], (0.5, 99.8), method="inverted_cdf")
    image, label = (np.pad(voxels[plane], pad, mode="reflect") for voxels in volume[:2])
    rows, columns = AxisTiles.over(96, EDGE, 0.5), AxisTiles.over(200, EDGE, 0.5)
    blended = np.zeros(image.shape)
    for i, y in enumerate(rows.starts):
        for j, x in enumerate(columns.starts):
            place = slice(y + pad, y + pad + EDGE), slice(x + pad, x + pad + EDGE)
            batch = {
                "anatomy": torch.from_numpy(normalise(image[place], low, high, clip=True))[None, None],
                "label": torch.from_numpy(label[place].astype(np.int64))[None],
            }
            blended[place] += np.outer(rows.weights[i], columns.weights[j]) * method.translate(batch)[0, 0].numpy()
    expected = 100 + 500 * (blended[pad:-pad, pad:-pad] + 1)
    written = open_volume(result.artefacts["volume"]).read("tumour", ((plane, plane + 1), (0, 96), (0, 200)))[0]
    np.testing.assert_allclose(written, expected, atol=0.6)


def test_a_restart_makes_only_the_blocks_that_have_no_marker(filled, tmp_path, capsys):
    storage, recipe, result = filled
    shutil.copytree(storage / "filled", tmp_path / "filled")
    again = recipe.model_copy(
        update={
            "storage": recipe.storage.model_copy(update={"path": str(tmp_path)}),
            "synthesis": recipe.synthesis.model_copy(update={"replicas": 2}),
        }
    )
    run = tmp_path / "filled"
    first, second = (run / f"synthetic.ome.zarr/s0/c/0/{z}/0/0" for z in (0, 1))
    times = {path: path.stat().st_mtime_ns for path in (first, second)}
    (run / "volume/s0-000001.json").unlink()
    second.write_bytes(b"torn")
    repeated = fill(again)
    assert repeated.artefacts["voxels_sha256"] == result.artefacts["voxels_sha256"]
    assert first.stat().st_mtime_ns == times[first]
    assert second.stat().st_mtime_ns > times[second]
    assert "1 of 2 blocks are there already" in capsys.readouterr().out


def test_a_constant_generator_gives_a_constant_volume_whatever_the_tiles(generator, recipe_of, ray_cluster, tmp_path):
    """Deep projections, tiles resized for the network and back, three in four voxels shared."""
    model = generator(0.5, kind="projection", depth=6, size=[100], resize=EDGE, normalise_over="plane")
    result = fill(recipe_of(model, tmp_path, overlap=0.75, replicas=1))
    written = open_volume(result.artefacts["volume"])
    assert set(np.unique(written.read("tumour", whole(written)))) == {850}
    assert result.scores["seams"]["ratio"] == 1.0
    told = zarr.open_group(result.artefacts["volume"], mode="r").attrs["metgan_dist"]
    assert told["intensities"]["anatomy"]["over"] == "plane"
    assert told["layout"] == {
        "planes_seen": 6,
        "planes_imposed": 1,
        "tile_voxels": [100, 100],
        "tile_pixels": [64, 64],
        "shared_voxels": [75, 75],
    }


def test_what_does_not_fit_is_one_line(generator, recipe_of, volume, checkpoint, training, ray_cluster, tmp_path):
    model = generator()

    def refused(match, **synthesis):
        with pytest.raises(UserError, match=match) as caught:
            VolumeSynthesis.planned(recipe_of(synthesis.pop("model", model), tmp_path, **synthesis))
        assert "\n" not in str(caught.value)

    small, channels, classes = (str(tmp_path / name) for name in ("small.tif", "channels.tif", "classes.tif"))
    tifffile.imwrite(small, volume[1][:, :-1], photometric="minisblack", metadata={"axes": "ZYX"})
    both = np.stack([volume[0], volume[0]])
    tifffile.imwrite(channels, both, photometric="minisblack", metadata={"axes": "CZYX"})
    tifffile.imwrite(classes, volume[1] * 3, photometric="minisblack", metadata={"axes": "ZYX"})
    refused(r"small.tif: \(20, 95, 200\) voxels .* has \(20, 96, 200\)", volume_label=small)
    refused("synthesis.volume: .*no channel 'autofluorescence', .* its channels: c0, c1", volume=channels)
    refused("not found", volume=str(tmp_path / "absent.tif"))
    refused("absent.tif: not found", volume_label=str(tmp_path / "absent.tif"))
    refused("synthesis.model: .*a segmentor", model=checkpoint("segmentor"))
    refused("synthesis.model: .*sifa makes the same image whatever the label", model=generator(name="sifa"))
    refused("synthesis.model: .*trained on views along y", model=generator(views=["y"]))
    refused("synthesis.model: .*trained on cardiac-ct tiles", model=generator(modality="cardiac-ct"))
    several = generator(name="redgan", method={**SMALL_REDGAN, "organs": ["lung", "liver"]})
    refused("synthesis.volume_organ: no organ is none of .*trained on, which are lung, liver", model=several)
    refused("synthesis.volume_organ: brain is none of the organs", model=several, volume_organ="brain")
    VolumeSynthesis.planned(recipe_of(several, tmp_path, volume_organ="liver"))
    refused("tiles.spacing: volume 'classes' has no voxel spacing", model=generator(spacing=[1, 1, 1]), volume=classes)
    refused("synthesis.tiles: .*no finished run", model=checkpoint("metgan"))
    recipe = recipe_of(model, tmp_path, volume_label=classes)
    with pytest.raises(UserError, match=r"classes.tif: label value 3 .*classes is 2"):
        fill(recipe)


def filling_of(source, target):
    limits = [(500.0, 5000.0)] * source.volume.shape[0]
    return Filling.of(source, {"ranges": [limits], "tumour": source.tumour_ranges, "dtype": "uint16"}, target)


def test_voxels_do_not_depend_on_the_blocks_beside(generator, recipe_of, tmp_path, monkeypatch):
    """Blocks of a quarter plane give what blocks of a plane give."""
    monkeypatch.setattr("metgan_dist.volumes.ome_zarr_writer.CHUNK", (2, 64, 128))
    monkeypatch.setattr("metgan_dist.volumes.ome_zarr_writer.SHARD", (1, 1, 1))
    made = {}
    synthesis = VolumeSynthesis.planned(recipe_of(generator(), tmp_path))
    regions = {"whole": [((0, 2), (0, 96), (0, 200))]}
    regions["parts"] = [((0, 2), rows, columns) for rows in ((0, 64), (64, 96)) for columns in ((0, 128), (128, 200))]
    for name, blocks in regions.items():
        target = str(tmp_path / f"{name}.zarr")
        source = synthesis.source
        levels = [ome.Level("s0", SHAPE, (1, 1, 1))]
        ome.create_image(target, levels, "uint16", "lesions", {})
        filler = Filler(filling_of(source, target))
        for region in blocks:
            filler.fill(region)
        made[name] = ome.open_level(target, "s0", {})[0, :2]
    difference = np.abs(made["whole"].astype(int) - made["parts"].astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01
    assert pd.unique(made["whole"].ravel()).size > 100


def test_the_written_label_is_what_a_generator_shows_that_paints_its_label(
    generator, recipe_of, lesions, tmp_path, monkeypatch
):
    """A ball, a plate of one plane and a speck of one voxel, seen by generators of slices and of projections."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    benchmark = importlib.import_module("whole_volume")
    label, paths = lesions
    for depth in (1, 5, 16):
        source = SourceVolume.of(recipe_of(generator(kind="projection", depth=depth, size=[EDGE]), tmp_path, **paths))
        assert source.layout.depth == depth
        image, written = benchmark.painted(source, str(tmp_path / f"{depth}.zarr"), ((0, 20), (0, 96), (0, 200)))
        for plane in range(SHAPE[0]):
            np.testing.assert_array_equal(image[plane] > 600, written[plane] > 0, f"depth {depth}, plane {plane}")
        np.testing.assert_array_equal(written, label)
        assert benchmark.dice(image > 600, written > 0) == 1.0


@pytest.mark.parametrize("edge", [48, 81, 100])
def test_a_label_that_is_resized_for_the_generator_is_written_as_it_was_imposed(
    generator, recipe_of, lesions, tmp_path, monkeypatch, edge
):
    monkeypatch.syspath_prepend(BENCHMARKS)
    benchmark = importlib.import_module("whole_volume")
    label, paths = lesions
    model = generator(kind="projection", depth=5, size=[edge], resize=EDGE)
    source = SourceVolume.of(recipe_of(model, tmp_path, **paths))
    image, written = benchmark.painted(source, str(tmp_path / "out.zarr"), ((0, 20), (0, 96), (0, 200)))
    # Half of the range is where rounding decides.
    assert ((image > 600) == (written > 0))[image != 600].all()
    assert not written[~label.any(axis=(1, 2))].any()
    assert 0.9 < benchmark.dice(written > 0, label > 0) <= 1.0


def test_of_several_channels_the_one_whose_borders_show_most_is_scored():
    def sums(across):
        return SeamSums(np.array([[across, 8.0], [across, 8.0]]), np.full((2, 2), 4.0))

    scores = seam_scores([sums(8.0), sums(12.0)], ("signal", "nuclei"))
    assert scores["ratio"] == scores["channels"]["nuclei"]["ratio"] == 1.5
    assert scores["channels"]["signal"]["ratio"] == 1.0
    assert seam_scores([sums(12.0)], ("signal",)) == sums(12.0).scores()


class PointByPoint:
    """Half of the anatomy, brighter where the label is; notes what it was given."""

    def __init__(self):
        self.seen = set()

    def generate(self, anatomy, label, seed, /, *, organs):
        self.seen.add((anatomy.shape[1:], label.shape[1:]))
        image = anatomy / 2 + 0.25 * label[:, None]
        return np.rint((image + 1) * (LEVELS / 2)).astype(np.uint16), np.full(len(anatomy), np.nan)


def test_a_volume_is_filled_by_a_generator_of_crops_that_overlap_along_all_axes(
    volume, recipe_of, tmp_path, monkeypatch
):
    monkeypatch.setattr("metgan_dist.volumes.ome_zarr_writer.CHUNK", (10, 96, 100))
    monkeypatch.setattr("metgan_dist.volumes.ome_zarr_writer.SHARD", (1, 1, 1))
    crops = write_crops(tmp_path / "crops", size=(8, 32, 32), splits=("train",) * 2)
    trained = Recipe.model_validate(
        {
            "data": {"label": "metastases"},
            "tiles": {"kind": "crop", "size": [8, 32, 32], "normalise_over": "plane"},
            "method": {"width": 1 / 16, "segmentor_width": 1 / 16, "alpha1": 0, "alpha3": 0},
        }
    )
    model = write_untrained(tmp_path / "model", trained)
    source = SourceVolume.of(recipe_of(model, tmp_path, tiles=crops.uri))
    assert [axis.edge for axis in source.layout.axes] == [8, 32, 32]
    assert Survey(source.tiles).over == "volume"  # crops have no plane of their own
    target = str(tmp_path / "filled.zarr")
    ome.create_image(target, [ome.Level("s0", SHAPE, (1, 1, 1))], "uint16", "lesions", {})
    generator = PointByPoint()
    filler = Filler(filling_of(source, target), generator)
    regions = [(planes, (0, 96), columns) for planes in ((0, 10), (10, 20)) for columns in ((0, 100), (100, 200))]
    blocks = [filler.fill(region) for region in regions]
    assert generator.seen == {((1, 8, 32, 32), (8, 32, 32))}
    assert sum(sum(block["label_voxels"]) for block in blocks) == np.prod(SHAPE)
    written = np.asarray(ome.open_level(target, "s0", {}))[0]
    (low, high), anatomy = source.tumour_ranges[0], normalise(volume[0], 500.0, 5000.0, clip=True)
    expected = low + (anatomy / 2 + 0.25 * volume[1] + 1) / 2 * (high - low)
    np.testing.assert_allclose(written, expected, atol=1.01)
    np.testing.assert_array_equal(np.asarray(ome.open_level(target, "labels/lesions/s0", {})), volume[1])


def test_what_is_made_from_a_nifti_volume_lies_on_it(generator, training, volume, ray_cluster, tmp_path, mistake):
    model = Path(shutil.copytree(generator(), tmp_path / "model"))
    recipe = yaml.safe_load((model / "recipe.yaml").read_text())
    recipe["data"] |= {"orientation": "RAS", "labels": {7: "lesion"}}
    (model / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    # x and y of the file run towards L and P.
    affine = np.array([[-2.0, 0, 0, 9], [0, -2, 0, 8], [0, 0, 5, 7], [0, 0, 0, 1]])
    anatomy, label = volume[0][:, :64, :96], volume[1][:, :64, :96] * 7
    for name, array in (("scan", anatomy), ("found", label)):
        nibabel.save(
            nibabel.Nifti1Image(np.ascontiguousarray(array[:, ::-1, ::-1].T), affine), tmp_path / f"{name}.nii.gz"
        )
    settings = {"model": str(model), "volume": str(tmp_path / "scan.nii.gz"), "replicas": 1}
    settings |= {"volume_label": str(tmp_path / "found.nii.gz"), "tiles": training.uri}
    tree = {"synthesis": settings, "storage": {"path": str(tmp_path)}, "tracking": {"run": "filled"}}
    source = SourceVolume.of(Recipe.model_validate(tree))
    np.testing.assert_array_equal(source.volume.read("anatomy", ((0, 20), (0, 64), (0, 96))), anatomy)
    assert source.classes == {1: "lesion"}
    result = fill(Recipe.model_validate(tree))
    image, imposed = (nibabel.load(result.artefacts[f"nifti_{name}"]) for name in ("synthetic-tumour", "label"))
    written = open_volume(result.artefacts["volume"])
    stored = np.asarray(image.dataobj).T
    np.testing.assert_array_equal(stored[:, ::-1, ::-1], written.read("tumour", whole(written)), strict=True)
    np.testing.assert_array_equal(np.asarray(imposed.dataobj).T, np.asarray(label[:, ::-1, ::-1] > 0))
    for made in (image, imposed):
        np.testing.assert_array_equal(made.affine, affine)
    told = zarr.open_group(result.artefacts["volume"], mode="r").attrs["metgan_dist"]["source"]["affine"]
    np.testing.assert_allclose(told, [[2, 0, 0, 9 - 2 * 95], [0, 2, 0, 8 - 2 * 63], [0, 0, 5, 7], [0, 0, 0, 1]])
    with mistake("synthesis.format: nifti", volume[2], "NIfTI"):
        changed = settings | {"format": "nifti", "volume": volume[2], "volume_label": volume[3]}
        recipe["data"] |= {"orientation": None}
        (model / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        SourceVolume.of(Recipe.model_validate(tree | {"synthesis": changed}))
