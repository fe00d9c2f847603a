"""Phantoms: the same whatever the chunks, with the truth they claim, and whole on disk and in object storage."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import yaml
import zarr
from scipy import ndimage

from metgan_dist.errors import UserError
from metgan_dist.recipe import Data, Phantom
from metgan_dist.volumes.dataset import resolve_data
from metgan_dist.volumes.phantoms import phantom_volume, write_phantom
from metgan_dist.volumes.phantoms.field import smooth_noise

SMALL = (40, 72, 100)  # no multiple of the blocks (32, 64, 64) along any axis
SHAPES = {
    "light-sheet": (32, 192, 192),
    "brain-dwi": (32, 128, 128),
    "cardiac": (60, 80, 80),
    "cardiac-unpaired": (60, 80, 80),
    "head": (32, 128, 128),
}
MODALITIES = tuple(SHAPES)


def whole(shape):
    return tuple((0, length) for length in shape)


@pytest.fixture(scope="module")
def drawn():
    """Phantom 0 of each modality: its volume, drawing and truth."""
    result = {}
    for modality, shape in SHAPES.items():
        volume = phantom_volume(Phantom(modality=modality, shape=shape), 0)
        result[modality] = volume, volume.draw(whole(shape)), volume.truth(whole(shape))
    return result


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_region_does_not_depend_on_how_the_volume_is_cut(modality):
    phantom = Phantom(modality=modality, shape=SMALL, seed=5)
    full = phantom_volume(phantom, 0).draw(whole(SMALL))
    for region in (((0, 1), (0, 1), (0, 1)), ((30, 34), (60, 70), (1, 99)), ((39, 40), (71, 72), (64, 100))):
        part = phantom_volume(phantom, 0).draw(region)
        where = tuple(slice(*bounds) for bounds in region)
        np.testing.assert_array_equal(part.images, full.images[:, *where])
        np.testing.assert_array_equal(part.label, full.label[where])


@pytest.mark.parametrize("modality", MODALITIES)
def test_seeds_give_other_volumes_and_count_on(modality):
    def images(seed, number):
        return phantom_volume(Phantom(modality=modality, shape=SMALL, seed=seed), number).draw(whole(SMALL)).images

    first = images(3, 1)
    assert np.mean(first != images(3, 0)) > 0.5
    assert np.mean(first != images(4, 1)) > 0.5
    np.testing.assert_array_equal(first, images(3, 1))


def test_smooth_noise_is_smooth_and_of_unit_variance():
    axis = np.arange(160.0)
    field = smooth_noise(7, (axis, axis, axis), (5.0, 7.0, 9.5))
    assert abs(field.mean()) < 0.05
    assert field.std() == pytest.approx(1, abs=0.05)
    assert np.abs(np.diff(field, axis=2)).max() < 1  # neighbours far below the lattice period differ little
    shifted = smooth_noise(7, (axis[40:50], axis[3:9], axis[77:80]), (5.0, 7.0, 9.5))
    np.testing.assert_array_equal(shifted, field[40:50, 3:9, 77:80])


def test_noise_shows_no_seams_between_blocks(drawn):
    """A field that changed its lattice at a block border would jump there."""
    _, _, truth = drawn["light-sheet"]
    steps = np.abs(np.diff(truth.clean[0], axis=2)).mean(axis=(0, 1))
    inner = np.delete(steps, [63, 127])
    assert steps[[63, 127]].max() < np.percentile(inner, 99) * 1.2


def test_drawing_a_chunk_of_a_huge_volume_takes_the_memory_of_a_chunk():
    volume = phantom_volume(Phantom(shape=(4096, 65536, 65536)), 0)
    region = ((2048, 2080), (32768, 32896), (40000, 40128))
    volume.draw(region)
    tracemalloc.start()
    drawing = volume.draw(region)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert drawing.images.shape == (2, 32, 128, 128)
    assert peak < 40e6
    assert drawing.images[0].std() > 20  # something is drawn far from the origin, too


def test_writing_draws_one_chunk_at_a_time(tmp_path, monkeypatch):
    kind = type(phantom_volume(Phantom(), 0))
    sizes = []
    draw = kind.draw
    monkeypatch.setattr(kind, "draw", lambda self, region: sizes.append(region) or draw(self, region))
    write_phantom(Phantom(volumes=1, shape=(40, 150, 130)), str(tmp_path))
    assert len(sizes) == 2 * 2 * 2
    assert max(np.prod([b - a for a, b in region]) for region in sizes) == 32 * 128 * 128


def test_label_is_where_the_tumour_channel_shines_and_nowhere_else(drawn):
    _, drawing, truth = drawn["light-sheet"]
    np.testing.assert_array_equal(drawing.label, truth.label)
    lesion = drawing.label == 1
    ring = ndimage.binary_dilation(lesion, iterations=6) & ~ndimage.binary_dilation(lesion, iterations=3)
    anatomy, tumour = (image.astype(float) for image in drawing.images)
    assert tumour[lesion].mean() > 1.7 * tumour[ring].mean()
    assert anatomy[lesion].mean() == pytest.approx(anatomy[ring].mean(), rel=0.25)
    # Dim ones exist: not every metastasis stands out by itself.
    numbers, count = ndimage.label(lesion)
    peaks = ndimage.mean(truth.clean[1], numbers, range(1, count + 1))
    assert count >= 8
    assert max(peaks) > 1.6 * min(peaks)


def test_bright_spots_of_the_anatomy_are_no_tumour(drawn):
    _, drawing, truth = drawn["light-sheet"]
    assert not (truth.lure & (drawing.label == 1)).any()
    assert truth.lure.sum() > 300
    anatomy, tumour = drawing.images.astype(float)
    around = ndimage.binary_dilation(truth.lure, iterations=5) & ~ndimage.binary_dilation(truth.lure, iterations=3)
    around &= drawing.label == 0
    assert anatomy[truth.lure].mean() > 1.4 * anatomy[around].mean()
    assert tumour[truth.lure].mean() < 1.6 * tumour[around].mean()


def test_channels_show_the_same_tissue_with_other_gains(drawn):
    _, drawing, _ = drawn["light-sheet"]
    healthy = drawing.label == 0
    anatomy, tumour = (image[healthy].astype(float) for image in drawing.images)
    assert np.corrcoef(anatomy, tumour)[0, 1] > 0.8
    straight = np.polyval(np.polyfit(anatomy, tumour, 1), anatomy)
    curved = np.polyval(np.polyfit(anatomy, tumour, 3), anatomy)
    assert np.std(tumour - curved) < 0.95 * np.std(tumour - straight)


def test_outside_the_tissue_it_is_dark_and_empty(drawn):
    _, drawing, _ = drawn["light-sheet"]
    corner = (slice(None), slice(0, 4), slice(0, 4))
    assert drawing.images[:, *corner].mean() < 130
    assert not drawing.label[corner].any()
    assert np.median(drawing.images[0]) > 400


def test_projections_for_the_quickstart_hold_a_few_metastases():
    counts, fractions = [], []
    for number in range(4):
        label = phantom_volume(Phantom(), number).draw(whole((32, 192, 192))).label
        for z in (0, 16):
            for y, x in ((0, 0), (0, 64), (64, 0), (64, 64)):
                tile = label[z : z + 16, y : y + 128, x : x + 128].max(0)
                counts.append(ndimage.label(tile)[1])
                fractions.append(tile.mean())
    assert 2 <= np.mean(counts) <= 6
    assert 0.005 <= np.mean(fractions) <= 0.04
    assert np.mean(np.asarray(counts) > 0) > 0.8


def test_density_of_metastases_does_not_depend_on_the_size():
    """A region in the middle of a big volume holds as many as one of a small volume."""
    big = phantom_volume(Phantom(shape=(64, 8192, 8192), seed=2), 0)
    middles = [((0, 64), (start, start + 256), (start, start + 256)) for start in (2048, 4096, 6144)]
    count = sum(ndimage.label(big.draw(region).label)[1] for region in middles)
    cells = 3 * 64 * 256 * 256 / (32 * 64 * 64)
    assert 0.7 * 1.8 * cells < count < 1.6 * 1.8 * cells  # cut ones add, merged and cavity ones are lost


@pytest.mark.parametrize("modality", MODALITIES)
def test_all_classes_are_there_and_no_others(modality, drawn):
    volume, drawing, _ = drawn[modality]
    assert drawing.label.dtype == np.uint8
    assert np.unique(drawing.label).tolist() == list(range(len(volume.label_classes)))


def test_brain_tissues_have_the_contrast_of_diffusion_images(drawn):
    _, drawing, truth = drawn["brain-dwi"]
    image = drawing.images[0].astype(float)
    background, csf, grey, white, lesion = (image[drawing.label == value].mean() for value in range(5))
    assert background < 40 < csf < white < grey < 0.75 * lesion
    assert drawing.images.dtype == np.int16
    assert image.max() < 2000
    # Lesions lie in one hemisphere; the bright base rims are not among them.
    assert truth.lure.any()
    assert not (truth.lure & (truth.label == 4)).any()


def test_heart_is_whole_off_centre_and_seen_by_both_modalities(drawn):
    volume, drawing, _ = drawn["cardiac"]
    ct, mr = drawing.images.astype(float)
    label = drawing.label
    heart = np.argwhere(label > 0)
    offset = (heart.mean(0) + 0.5) * volume.spacing - np.asarray(volume.shape) * volume.spacing / 2
    assert np.linalg.norm(offset) > 10  # millimetres
    assert (heart.min(0) > 0).all()
    assert (heart.max(0) < np.asarray(volume.shape) - 1).all()
    for region in range(1, 6):  # one piece each, of a volume that a heart can have (millilitres)
        assert 15 < (label == region).sum() * np.prod(volume.spacing) / 1000 < 250
    # The left cavity lies inside the myocardium or at the valves, hence touches the right cavity nowhere.
    assert not (ndimage.binary_dilation(label == 1) & (label == 2)).any()
    assert ct[label == 1].mean() > ct[label == 2].mean() > ct[label == 5].mean() + 50  # contrast agent on the left
    assert mr[label == 1].mean() == pytest.approx(mr[label == 2].mean(), rel=0.25)
    assert mr[label == 5].mean() < 0.7 * mr[label == 1].mean()
    assert ct.min() < -800  # lungs and air


def hearts(number):
    """Label of an unpaired phantom's volume at 3 mm, and its volume."""
    volume = phantom_volume(Phantom(modality="cardiac-unpaired", shape=SHAPES["cardiac-unpaired"]), number)
    return volume.draw(whole(volume.shape)).label, volume


def test_patients_of_the_two_domains_have_hearts_of_other_size_wall_and_pose():
    """So that a translation which gives a heart the looks of the other domain has to change its shape."""
    measured = {"ct": [], "mr": []}
    for number in range(8):
        label, volume = hearts(number)
        assert (volume.domain, volume.channels) == (("ct", ("ct",)), ("mr", ("mr",)))[number % 2]
        at = [np.argwhere(label == region).mean(0) for region in (1, 3)]  # left ventricle, left atrium
        axis = (at[0] - at[1]) / np.linalg.norm(at[0] - at[1])
        sizes = [(label == region).sum() for region in (1, 5)]
        measured[volume.domain].append(((label > 0).sum(), sizes[1] / sizes[0], axis[0]))
    size, wall, height = (([one[at] for one in measured["ct"]], [one[at] for one in measured["mr"]]) for at in range(3))
    assert max(size[0]) < min(size[1])
    assert min(wall[0]) > 1.5 * max(wall[1])  # myocardium over cavity
    assert max(height[0]) < min(height[1]) < 0  # the apex hangs deeper: upright


def test_hearts_of_both_domains_are_whole_within_the_papers_crop():
    for number in range(8):
        label, volume = hearts(number)
        heart = np.argwhere(label > 0)
        assert (heart.min(0) > 0).all()
        assert (heart.max(0) < np.asarray(volume.shape) - 1).all()
        reach = np.abs(heart - heart.mean(0)).max(0) * volume.spacing
        assert (reach < np.array([86, 112, 112]) * 1.5 / 2).all()
        for region in range(1, 6):
            assert 10 < (label == region).sum() * np.prod(volume.spacing) / 1000 < 300  # millilitres
        assert not (ndimage.binary_dilation(label == 1) & (label == 2)).any()


@pytest.fixture(scope="module")
def heads():
    """Four heads, T1 and T2 in turns: volume, image, label and truth of each."""
    found = []
    for number in range(4):
        volume = phantom_volume(Phantom(modality="head", shape=SHAPES["head"]), number)
        drawing, truth = volume.draw(whole(volume.shape)), volume.truth(whole(volume.shape))
        found.append((volume, drawing.images[0].astype(float), drawing.label, truth))
    return found


def test_a_tumour_is_bright_in_t1_and_dark_beside_the_fluid_of_t2(heads):
    for volume, image, label, truth in heads:
        tumour = image[label == 1].mean()
        brain = np.median(image[16:, 40:90, 40:90])
        fluid = np.percentile(image, 99.5) if volume.domain == "t2" else image[label == 2].mean()
        if volume.domain == "t1":
            assert tumour > 1.15 * brain > 1.3 * fluid
            assert truth.clean[0][truth.lure].mean() == pytest.approx(tumour, rel=0.35)  # vessels and mucosa alike
        else:
            assert brain < tumour < 0.75 * fluid
            assert image[label == 2].mean() > 1.3 * tumour
        assert not (truth.lure & (label > 0)).any()


def test_heads_have_one_small_tumour_at_the_canal_of_one_ear(heads):
    sides = set()
    for volume, _, label, _ in heads:
        _, count = ndimage.label(label == 1, np.ones((3, 3, 3)))
        assert count == 1
        millilitres = (label == 1).sum() * np.prod(volume.spacing) / 1000
        assert 0.1 < millilitres < 12
        assert 0.02 < (label == 2).sum() * np.prod(volume.spacing) / 1000 < 0.6  # both ears
        planes = np.flatnonzero((label == 1).any((1, 2)))
        assert len(planes) < label.shape[0] / 3
        middle = np.array(volume.brain.centre) / volume.spacing - 0.5
        at, ears = np.argwhere(label == 1).mean(0) - middle, np.argwhere(label == 2) - middle
        away = np.abs(at * volume.spacing / volume.brain.scale)
        assert (np.abs(away - (43, 9, 23)) < (5, 6, 10)).all()
        assert (ears[:, 2] > 0).any()
        assert (ears[:, 2] < 0).any()
        sides.add(np.sign(at[2]))
    assert len(sides) == 2


def test_heads_of_two_contrasts_are_a_set_of_two_domains_with_classes_by_name(tmp_path):
    folder = write_phantom(Phantom(modality="head", volumes=3, shape=(4, 16, 16)), str(tmp_path))
    tree = yaml.safe_load((Path(folder) / "dataset.yaml").read_text())
    assert [entry["domain"] for entry in tree["volumes"]] == ["t1", "t2", "t1"]
    assert tree["domains"] == {"t1": {"channels": "t1"}, "t2": {"channels": "t2"}}
    assert tree["labels"] == {1: "vestibular schwannoma", 2: "cochlea"}
    data = resolve_data(Data(path=folder))
    assert (data.source, data.target, data.classes) == ("t1", "t2", 3)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("modality", MODALITIES)
def test_files_follow_ome_zarr_0_5_and_hold_what_was_drawn(tmp_path, modality, sharded):
    phantom = Phantom(modality=modality, volumes=1, shape=SMALL, seed=9)
    folder = write_phantom(phantom, str(tmp_path), chunks=(16, 32, 32), sharded=sharded)
    volume = phantom_volume(phantom, 0)
    path = Path(folder) / "phantom-0.ome.zarr"
    root = json.loads((path / "zarr.json").read_text())
    assert (root["zarr_format"], root["node_type"]) == (3, "group")
    ome = root["attributes"]["ome"]
    (scales,) = ome["multiscales"]
    assert ome["version"] == "0.5"
    assert [axis["name"] for axis in scales["axes"]] == ["c", "z", "y", "x"]
    assert [axis.get("unit") for axis in scales["axes"]] == [None] + [volume.unit] * 3
    assert scales["datasets"][0]["coordinateTransformations"] == [{"type": "scale", "scale": [1.0, *volume.spacing]}]
    assert [channel["label"] for channel in ome["omero"]["channels"]] == list(volume.channels)
    assert json.loads((path / "labels/zarr.json").read_text())["attributes"]["ome"]["labels"] == [volume.label_name]
    label_group = zarr.open_group(path / "labels" / volume.label_name, mode="r")
    classes = label_group.attrs["ome"]["image-label"]["properties"]
    assert [entry["label-value"] for entry in classes] == list(range(1, len(volume.label_classes)))

    image = zarr.open_array(path / "s0", mode="r")
    assert image.chunks == (1, 16, 32, 32)
    assert image.shards == ((1, 32, 64, 64) if sharded else None)
    expected = volume.draw(whole(SMALL))
    np.testing.assert_array_equal(image[:], expected.images)
    np.testing.assert_array_equal(label_group["s0"][:], expected.label)


def test_every_chunk_is_written_so_that_an_absent_one_means_damage(tmp_path):
    folder = write_phantom(Phantom(modality="cardiac", volumes=1, shape=(40, 64, 64)), str(tmp_path), chunks=(8, 8, 8))
    path = Path(folder) / "phantom-0.ome.zarr"
    stored = [file for file in (path / "labels/regions/s0/c").rglob("*") if file.is_file()]
    label = zarr.open_array(path / "labels/regions/s0", mode="r")[:]
    assert len(stored) == 5 * 8 * 8
    assert not label[:8, :8, :8].any()  # among them chunks of nothing but background


def test_dataset_lists_every_volume_with_organ_and_patient(tmp_path):
    folder = write_phantom(Phantom(volumes=4, shape=(8, 32, 32)), str(tmp_path))
    tree = yaml.safe_load((Path(folder) / "dataset.yaml").read_text())
    assert (tree["anatomy"], tree["tumour"], tree["classes"]) == ("autofluorescence", "tumour", 2)
    assert [entry["id"] for entry in tree["volumes"]] == [f"phantom-{i}" for i in range(4)]
    assert len({entry["organ"] for entry in tree["volumes"]}) > 1
    assert len({entry["patient"] for entry in tree["volumes"]}) == 4
    for entry in tree["volumes"]:
        assert (Path(folder) / entry["path"] / "labels" / entry["label"] / "zarr.json").is_file()


def test_dataset_of_two_domains_says_which_volume_is_of_which_and_what_it_shows(tmp_path):
    folder = write_phantom(Phantom(modality="cardiac-unpaired", volumes=3, shape=(8, 32, 32)), str(tmp_path))
    tree = yaml.safe_load((Path(folder) / "dataset.yaml").read_text())
    assert [entry["domain"] for entry in tree["volumes"]] == ["ct", "mr", "ct"]
    assert len({entry["patient"] for entry in tree["volumes"]}) == 3
    assert tree["domains"] == {
        "ct": {"channels": "ct", "modality": "cardiac-ct"},
        "mr": {"channels": "mr", "modality": "cardiac-mr"},
    }
    assert "anatomy" not in tree
    for entry in tree["volumes"]:
        ome = json.loads((Path(folder) / entry["path"] / "zarr.json").read_text())["attributes"]["ome"]
        assert [channel["label"] for channel in ome["omero"]["channels"]] == [entry["domain"]]


def files_of(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*") if path.is_file()}


def test_second_call_leaves_complete_volumes_alone(tmp_path):
    phantom = Phantom(volumes=2, shape=(8, 32, 32))
    write_phantom(phantom, str(tmp_path))
    before = files_of(tmp_path)
    write_phantom(phantom, str(tmp_path))
    assert files_of(tmp_path) == before
    write_phantom(Phantom(volumes=3, shape=(8, 32, 32)), str(tmp_path))  # one more: only that one and the list
    changed = {
        path.relative_to(tmp_path).parts[0] for path, time in files_of(tmp_path).items() if before.get(path) != time
    }
    assert changed == {"phantom-2.ome.zarr", "dataset.yaml"}


def test_other_parameters_replace_the_volume(tmp_path):
    write_phantom(Phantom(volumes=1, shape=(8, 32, 32)), str(tmp_path))
    phantom = Phantom(volumes=1, shape=(8, 32, 40), seed=1)
    write_phantom(phantom, str(tmp_path))
    image = zarr.open_array(tmp_path / "phantom-0.ome.zarr/s0", mode="r")
    np.testing.assert_array_equal(image[:], phantom_volume(phantom, 0).draw(whole((8, 32, 40))).images)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset.yaml", "phantom-0.ome.zarr"]


def test_interrupted_writing_leaves_nothing_that_looks_complete(tmp_path, monkeypatch):
    kind = type(phantom_volume(Phantom(), 0))
    draw = kind.draw

    def fail_late(self, region):
        if self.seed == 1 and region[1][0] > 0:
            raise KeyboardInterrupt
        return draw(self, region)

    monkeypatch.setattr(kind, "draw", fail_late)
    phantom = Phantom(volumes=2, shape=(8, 160, 32))
    with pytest.raises(KeyboardInterrupt):
        write_phantom(phantom, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["phantom-0.ome.zarr"]
    monkeypatch.undo()
    before = files_of(tmp_path)
    write_phantom(phantom, str(tmp_path))
    after = files_of(tmp_path)
    assert before.items() <= after.items()  # the complete one was kept
    assert (tmp_path / "dataset.yaml").is_file()


def test_foreign_data_are_not_overwritten(tmp_path):
    zarr.create_group(tmp_path / "phantom-0.ome.zarr", attributes={"mine": True})
    with pytest.raises(UserError, match=r"phantom-0\.ome\.zarr: exists and is no phantom"):
        write_phantom(Phantom(volumes=1, shape=(8, 32, 32)), str(tmp_path))
    assert zarr.open_group(tmp_path / "phantom-0.ome.zarr", mode="r").attrs["mine"]


@pytest.mark.parametrize("shape", [(0, 32, 32), (8, -1, 32)])
def test_impossible_shape_is_the_users_mistake(tmp_path, shape):
    with pytest.raises(UserError, match=r"^data\.phantom\.shape"):
        write_phantom(Phantom(volumes=1, shape=shape), str(tmp_path))


def test_object_storage_holds_the_same_volume_and_only_complete_ones_count(monkeypatch):
    moto = pytest.importorskip("moto.server")
    import s3fs

    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        options = {"endpoint_url": f"http://{host}:{port}"}
        fs = s3fs.S3FileSystem(endpoint_url=options["endpoint_url"], use_listings_cache=False)
        phantom = Phantom(volumes=1, shape=(8, 32, 48))
        with pytest.raises(UserError, match="no bucket"):
            write_phantom(phantom, "s3://absent/data", options)
        fs.mkdir("phantoms")
        assert write_phantom(phantom, "s3://phantoms/data", options) == "s3://phantoms/data"

        def read():
            store = zarr.storage.FsspecStore.from_url("s3://phantoms/data/phantom-0.ome.zarr", storage_options=options)
            return zarr.open_array(store, path="s0", mode="r")[:]

        expected = phantom_volume(phantom, 0).draw(whole(phantom.shape)).images
        np.testing.assert_array_equal(read(), expected)

        chunk, record = "phantoms/data/phantom-0.ome.zarr/s0/c/0/0/0/0", "phantoms/data/phantom-0.ome.zarr/zarr.json"
        fs.rm(chunk)
        write_phantom(phantom, "s3://phantoms/data", options)
        assert not fs.exists(chunk)  # complete by its record: left alone
        fs.pipe_file(record, b'{"attributes": {}, "zarr_format": 3, "node_type": "group"}')
        write_phantom(phantom, "s3://phantoms/data", options)
        np.testing.assert_array_equal(read(), expected)
    finally:
        server.stop()
