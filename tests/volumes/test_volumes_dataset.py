"""Data sets: descriptions, references, roles, and what is wrong with them."""

from __future__ import annotations

import pickle

import nibabel
import numpy as np
import pytest
import tifffile
import yaml
import zarr

from metgan_dist.recipe import Data, VolumeEntry
from metgan_dist.runs.command_line import parse_command
from metgan_dist.storage import join
from metgan_dist.volumes.dataset import check_channels, resolve_data, volume_refs
from metgan_dist.volumes.labelled import open_looked_at
from metgan_dist.volumes.nifti import Nifti
from metgan_dist.volumes.ome_zarr import OmeZarr
from metgan_dist.volumes.tiff import TiffFile

SHAPE = (5, 20, 30)
ALL = ((0, 5), (0, 20), (0, 30))


def image(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array, photometric="minisblack")


def ome_zarr(folder, array, axes, channels=()):
    group = zarr.open_group(str(folder), mode="w", zarr_format=3)
    group.create_array("0", data=array, chunks=(1,) * (array.ndim - 2) + (8, 8))
    ome = {"multiscales": [{"axes": [{"name": a} for a in axes], "datasets": [{"path": "0"}]}]}
    if channels:
        ome["omero"] = {"channels": [{"label": name} for name in channels]}
    group.attrs["ome"] = ome


@pytest.fixture
def label(voxels):
    return (voxels % 3).astype(np.uint8)


@pytest.fixture
def folder(tmp_path, voxels, label):
    """Volume `a`: TIFF files; volume `b`: OME-Zarr with the label group `blobs`; three classes."""
    image(tmp_path / "a/auto.tif", voxels)
    image(tmp_path / "a/signal.tif", voxels.astype(np.float32))
    image(tmp_path / "a/label.tif", label)
    ome_zarr(tmp_path / "b.ome.zarr", np.stack([voxels, voxels + 9]), "czyx", ("signal", "auto"))
    ome_zarr(tmp_path / "b.ome.zarr/labels/blobs", label, "zyx")
    describe(tmp_path)
    return tmp_path


def describe(folder, **changes):
    tree = {
        "anatomy": "auto",
        "tumour": "signal",
        "classes": 3,
        "volumes": [
            {
                "id": "a",
                "path": {"auto": "a/auto.tif", "signal": "a/signal.tif"},
                "label": "a/label.tif",
                "organ": "lung",
            },
            {"id": "b", "path": "b.ome.zarr", "label": "blobs", "patient": "7", "split": "test"},
        ],
    }
    (folder / "dataset.yaml").write_text(yaml.safe_dump(tree | changes))


@pytest.mark.parametrize("name", ["", "dataset.yaml"])
def test_description_and_references(folder, name, voxels, label):
    refs = volume_refs(Data(path=join(str(folder), name) if name else str(folder)))
    assert [(ref.id, ref.organ, ref.patient, ref.split) for ref in refs] == [
        ("a", "lung", None, "auto"),
        ("b", None, "7", "test"),
    ]
    for ref, anatomy, kind in zip(refs, (voxels, voxels + 9), ("f4", "u2"), strict=True):
        volume = pickle.loads(pickle.dumps(ref)).open()
        assert volume.shape == SHAPE
        assert volume.dtypes == {"anatomy": np.dtype("u2"), "tumour": np.dtype(kind), "label": np.dtype("u1")}
        np.testing.assert_array_equal(volume.read("anatomy", ALL), anatomy)
        np.testing.assert_array_equal(volume.read("label", ALL), label, strict=True)


def test_description_supplies_defaults_and_a_recipe_may_name_other_channels(folder, mistake):
    data = resolve_data(Data(path=str(folder)))
    assert (data.anatomy, data.tumour, data.classes) == ("auto", "signal", 3)
    assert resolve_data(data) == data
    assert volume_refs(Data.model_validate(data.model_dump())) == volume_refs(data)
    assert resolve_data(Data(path=str(folder), anatomy="nuclei")).anatomy == "nuclei"
    assert resolve_data(Data(path=str(folder), tumour="")).tumour == ""
    with mistake("data.classes", "7", "3", "agree"):
        volume_refs(Data(path=str(folder), classes=7))


def test_relative_paths_survive_another_working_folder(folder, monkeypatch, voxels):
    monkeypatch.chdir(folder.parent)
    refs = volume_refs(Data(path=folder.name))
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(refs[0].open().read("anatomy", ALL), voxels)


def test_recipe_carries_the_description(folder, voxels):
    entry = VolumeEntry(id="z", path="b.ome.zarr")
    data = Data(path=str(folder), volumes=[entry], anatomy="signal", tumour="auto", label="blobs", classes=3)
    volume = volume_refs(data)[0].open()
    np.testing.assert_array_equal(volume.read("anatomy", ALL), voxels)
    assert volume.has("label")


def test_one_volume(folder, voxels, mistake):
    data = Data(path=str(folder / "b.ome.zarr"), anatomy="auto", tumour="")
    volume = volume_refs(data)[0].open()
    assert volume.id == "b"
    assert [volume.has(role) for role in ("anatomy", "tumour", "label")] == [True, False, False]
    np.testing.assert_array_equal(volume.read("anatomy", ALL), voxels + 9)
    for role in ("tumour", "label"):
        with mistake(str(folder / "b.ome.zarr"), f"no {role}"):
            volume.read(role, ALL)


def test_channel_can_be_the_label(tmp_path, voxels, label):
    ome_zarr(tmp_path / "c.zarr", np.stack([voxels, label.astype(np.uint16)]), "czyx", ("auto", "classes"))
    volume = volume_refs(Data(path=str(tmp_path / "c.zarr"), anatomy="auto", tumour="", label="classes", classes=3))[
        0
    ].open()
    np.testing.assert_array_equal(volume.read("label", ALL), label, strict=True)


def test_unknown_channel_and_label(folder, mistake):
    with mistake(str(folder / "b.ome.zarr"), "no channel 'glow'", "signal, auto"):
        volume_refs(Data(path=str(folder / "b.ome.zarr"), anatomy="glow"))[0].open()
    with mistake(str(folder / "b.ome.zarr"), "no channel 'tumour'", "signal, auto"):
        volume_refs(Data(path=str(folder / "b.ome.zarr"), anatomy="auto"))[0].open()
    with mistake(str(folder / "b.ome.zarr"), "no label 'cells'", "signal, auto"):
        volume_refs(Data(path=str(folder / "b.ome.zarr"), anatomy="auto", label="cells"))


def test_a_label_that_only_a_preset_has_named_is_told_with_its_field(folder, mistake):
    given = ("--data.path", str(folder / "b.ome.zarr"), "--data.anatomy", "auto", "--data.tumour", "signal")
    of_preset = parse_command("job.py", "", given).recipe.data
    with mistake(str(folder / "b.ome.zarr"), "no label 'metastases'", 'data.label, or say --data.label "" where there'):
        volume_refs(of_preset)
    without = parse_command("job.py", "", [*given, "--data.label", ""]).recipe.data
    assert [ref.open().has("label") for ref in volume_refs(without)] == [False]


def test_descriptions_that_are_wrong(folder, mistake):
    path = str(folder / "dataset.yaml")
    good = {"id": "a", "path": "b.ome.zarr"}
    describe(folder, volumes=[good, good])
    with mistake(str(folder), "two volumes", "'a'"):
        volume_refs(Data(path=str(folder)))
    describe(folder, volumes=[{"id": "a", "path": "gone.tif"}])
    with mistake(str(folder / "gone.tif"), "not found", "'a'"):
        volume_refs(Data(path=str(folder)))
    describe(folder, volumes=[good | {"label": "gone.tif"}])
    with mistake(str(folder / "gone.tif"), "not found", "'a'"):
        volume_refs(Data(path=str(folder)))
    describe(folder, volumes=[good | {"table": "gone.csv"}])
    with mistake(str(folder / "gone.csv"), "not found"):
        volume_refs(Data(path=str(folder)))
    for spacing, field in (([5, -2, 2], "spacing.1"), ([5, 2, float("nan")], "spacing.2"), ([1, 5, 2, 2], "spacing")):
        describe(folder, volumes=[good | {"spacing": spacing}])
        with mistake(path, f"volumes.0.{field}"):
            volume_refs(Data(path=path))
    describe(folder, volumes=[{"id": "a"}])
    with mistake(path, "volumes.0", "'a' needs a path, or a label where it is a mask"):
        volume_refs(Data(path=path))
    describe(folder, volumes=[])
    with mistake(path, "volumes"):
        volume_refs(Data(path=path))
    describe(folder, kanals=[])
    with mistake(path, "kanals"):
        volume_refs(Data(path=path))
    (folder / "dataset.yaml").write_text("volumes: [")
    with mistake(path, "YAML"):
        volume_refs(Data(path=path))
    with mistake(str(folder / "nowhere"), "not found"):
        volume_refs(Data(path=str(folder / "nowhere")))
    with mistake("data.path", "empty"):
        volume_refs(Data())


def test_label_of_another_shape_names_both(folder, label, mistake):
    image(folder / "a/label.tif", label[:4])
    with mistake(str(folder / "a/label.tif"), "(4, 20, 30)", "(5, 20, 30)"):
        volume_refs(Data(path=str(folder)))[0].open()


@pytest.mark.parametrize("value", [3, 255, -1, 0.5])
def test_label_value_that_is_no_class(folder, label, value, mistake):
    wrong = label.astype(np.float32)
    wrong[2, 3, 4] = value
    image(folder / "a/label.tif", wrong if isinstance(value, float) else wrong.astype(np.int16))
    volume = volume_refs(Data(path=str(folder)))[0].open()
    np.testing.assert_array_equal(volume.read("label", ((0, 2), (0, 20), (0, 30))), label[:2])
    with mistake(str(folder / "a/label.tif"), f"value {value}", "data.classes is 3", "z 2:5"):
        volume.read("label", ((2, 5), (0, 20), (0, 30)))


def test_label_rounded_by_a_scale_factor_is_accepted(folder, label):
    image(folder / "a/label.tif", label.astype(np.float32) * np.float32(0.9999999))
    np.testing.assert_array_equal(volume_refs(Data(path=str(folder)))[0].open().read("label", ALL), label, strict=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_are_placed(folder, voxels, value, mistake):
    array = voxels.astype(np.float32)
    array[3, 4, 5] = value
    image(folder / "a/signal.tif", array)
    volume = volume_refs(Data(path=str(folder)))[0].open()
    volume.read("tumour", ((0, 3), (0, 20), (0, 30)))
    with mistake(str(folder / "a/signal.tif"), "NaN or infinite", "'signal'", "z 3:4, y 0:20, x 0:30"):
        volume.read("tumour", ((3, 4), (0, 20), (0, 30)))


def test_images_and_labels_are_matched_by_name(tmp_path, voxels, label, mistake):
    for name, plane, classes in zip(("p1", "p2"), voxels, label, strict=False):
        image(tmp_path / f"set/anatomy/{name}.tif", plane)
        image(tmp_path / f"masks/{name}.tif", classes)
    entry = VolumeEntry(id="s", path="set", label="masks", axes="nyx")
    data = Data(path=str(tmp_path), volumes=[entry], anatomy="anatomy", tumour="", classes=3)
    volume = volume_refs(data)[0].open()
    assert volume.names == ("p1.tif", "p2.tif")
    np.testing.assert_array_equal(volume.read("label", ((0, 2), (0, 20), (0, 30))), label[:2])
    (tmp_path / "masks/p2.tif").rename(tmp_path / "masks/p3.tif")
    with mistake(str(tmp_path / "masks"), "no label for image 'p2.tif'"):
        volume_refs(data)[0].open()


def test_one_file_is_one_volume_whatever_it_is_called(folder, mistake):
    (folder / "link.ome.zarr").symlink_to(folder / "b.ome.zarr")
    for other in ("b.ome.zarr", "./b.ome.zarr", "link.ome.zarr", {"auto": "a/auto.tif", "signal": "b.ome.zarr"}):
        describe(folder, volumes=[{"id": "one", "path": "b.ome.zarr"}, {"id": "two", "path": other}])
        with mistake(str(folder / "b.ome.zarr"), "'one' and 'two'", "list it once"):
            volume_refs(Data(path=str(folder)))
    channels = {"auto": "b.ome.zarr", "signal": "b.ome.zarr"}
    describe(folder, volumes=[{"id": "one", "path": channels}])
    assert len(volume_refs(Data(path=str(folder)))) == 1


@pytest.mark.parametrize("role", ["anatomy", "tumour"])
def test_a_palette_is_no_intensity_but_may_be_a_label(folder, label, role, mistake):
    channel, name = {"anatomy": ("auto", "auto"), "tumour": ("signal", "signal")}[role]
    colours = np.zeros((3, 256), np.uint16)
    tifffile.imwrite(folder / "a/label.tif", label, photometric="palette", colormap=colours)
    volume_refs(Data(path=str(folder)))[0].open()
    tifffile.imwrite(folder / f"a/{name}.tif", label, photometric="palette", colormap=colours)
    with mistake(str(folder / f"a/{name}.tif"), "palette", f"'{channel}'", "grey"):
        volume_refs(Data(path=str(folder)))[0].open()


def test_axes_that_turn_an_image_ask_how_its_label_lies(tmp_path, mistake):
    cube = np.arange(20**3, dtype=np.uint16).reshape(20, 20, 20)
    image(tmp_path / "image.tif", cube.transpose(0, 2, 1))
    image(tmp_path / "label.tif", (cube % 3).astype(np.uint8))
    entry = {"id": "c", "path": "image.tif", "label": "label.tif", "axes": "zxy", "channels": ["auto"]}

    def opened(**more):
        entries = [VolumeEntry.model_validate(entry | more)]
        data = Data(path=str(tmp_path), volumes=entries, anatomy="auto", tumour="", classes=3)
        return volume_refs(data)[0].open()

    with mistake(str(tmp_path / "label.tif"), "read as zyx", "image.tif", "zxy", "`label_axes`"):
        opened()
    region = ((0, 20), (0, 20), (0, 20))
    np.testing.assert_array_equal(opened(label_axes="zyx").read("label", region), cube % 3)
    np.testing.assert_array_equal(opened(label_axes="zyx").read("anatomy", region), cube)
    np.testing.assert_array_equal(opened(label_axes="zxy").read("label", region), (cube % 3).transpose(0, 2, 1))
    opened(axes="zyx")  # turns nothing


def test_planes_of_a_label_are_in_step_with_those_of_the_image(tmp_path, voxels, label, mistake):
    for z in range(5):
        if z != 1:
            image(tmp_path / f"auto/z{z}.tif", voxels[z])
        if z != 3:
            image(tmp_path / f"masks/m{z}.tif", label[z])
    entry = VolumeEntry.model_validate({"id": "s", "path": {"auto": "auto"}, "label": "masks"})
    data = Data(path=str(tmp_path), volumes=[entry], anatomy="auto", tumour="", classes=3)
    with mistake(str(tmp_path / "masks"), "out of step", "'m1'", "'z2'"):
        volume_refs(data)[0].open()


@pytest.mark.parametrize("suffix", [".tif", ".nii.gz", ".ome.zarr", " of two levels.ome.zarr"])
def test_a_class_too_many_is_found_by_a_look_at_the_label(folder, label, mistake, monkeypatch, suffix):
    place = folder / f"a/label{suffix}"
    wrong = label.copy()
    wrong[2, 4, 6] = 9
    if suffix == ".tif":
        image(place, wrong)
    elif suffix == ".nii.gz":
        nibabel.save(nibabel.Nifti1Image(wrong.T, np.eye(4)), place)
    else:
        ome_zarr(place, wrong, "zyx")
    if "two levels" in suffix:
        group = zarr.open_group(place)
        group.create_array("1", data=wrong[:, ::2, ::2])
        described = group.attrs["ome"]
        described["multiscales"][0]["datasets"].append({"path": "1"})
        group.attrs["ome"] = described
        monkeypatch.setattr(OmeZarr, "cheap_bytes", wrong.nbytes - 1)
    describe(folder, volumes=[{"id": "a", "path": "b.ome.zarr", "label": f"a/label{suffix}"}])
    ref = volume_refs(Data(path=str(folder)))[0]
    with mistake(str(place), "label value 9", "data.classes is 3", "`classes`", "background included", "0 to 2"):
        open_looked_at(ref)
    for kind in (OmeZarr, TiffFile, Nifti):
        monkeypatch.setattr(kind, "cheap_bytes", 1)
    open_looked_at(ref)  # told when its tiles are cut


def test_means_of_classes_in_a_coarse_level_are_no_mistake(folder, label, monkeypatch):
    place = folder / "a/label.ome.zarr"
    ome_zarr(place, label.astype(np.float32), "zyx")
    group = zarr.open_group(place)
    group.create_array("1", data=(label[:, ::2, ::2] + label[:, 1::2, 1::2]).astype(np.float32) / 2)
    described = group.attrs["ome"]
    described["multiscales"][0]["datasets"].append({"path": "1"})
    group.attrs["ome"] = described
    monkeypatch.setattr(OmeZarr, "cheap_bytes", label.nbytes * 4 - 1)
    describe(folder, volumes=[{"id": "a", "path": "b.ome.zarr", "label": "a/label.ome.zarr"}])
    open_looked_at(volume_refs(Data(path=str(folder)))[0])


@pytest.mark.parametrize("name", ["a", "b"])
def test_several_channels_of_a_role_are_layers_of_the_volume(folder, name, voxels):
    describe(folder, anatomy=["signal", "auto"], tumour="")
    data = Data(path=str(folder), tumour="")
    (ref,) = (ref for ref in volume_refs(data) if ref.id == name)
    volume = pickle.loads(pickle.dumps(ref)).open()
    assert list(volume.dtypes) == ["anatomy", "anatomy_1", "label"]
    assert volume.dtypes["anatomy"] == np.dtype("f4" if name == "a" else "u2")
    shift = 0 if name == "a" else 9
    np.testing.assert_array_equal(volume.read("anatomy", ALL), voxels.astype(volume.dtypes["anatomy"]))
    np.testing.assert_array_equal(volume.read("anatomy_1", ALL), voxels + shift)
    assert (volume.described("anatomy_1"), volume.described("label")) == ("anatomy (auto)", "label")


def test_several_channels_of_nifti_files_and_of_folders_of_planes(tmp_path, voxels):
    for number, name in enumerate(("t1", "t2")):
        nibabel.save(nibabel.Nifti1Image((voxels + number).transpose(2, 1, 0), np.eye(4)), tmp_path / f"{name}.nii.gz")
        for z, plane in enumerate(voxels + number):
            image(tmp_path / f"planes/{name}/{z:03d}.tif", plane)
    paths = {name: f"{name}.nii.gz" for name in ("t1", "t2")}
    entries = [VolumeEntry(id="n", path=paths), VolumeEntry(id="p", path="planes")]
    data = Data(path=str(tmp_path), volumes=entries, anatomy=["t2", "t1"], tumour="")
    for ref in volume_refs(data):
        volume = ref.open()
        np.testing.assert_array_equal(volume.read("anatomy", ALL), voxels + 1)
        np.testing.assert_array_equal(volume.read("anatomy_1", ALL), voxels)


def test_a_channel_that_one_of_several_volumes_lacks_is_named_with_its_volume(folder, mistake):
    describe(folder, anatomy=["auto", "nuclei"], tumour="signal")
    for ref, place in zip(volume_refs(Data(path=str(folder))), ("a/auto.tif", "b.ome.zarr"), strict=True):
        with mistake(str(folder / place), "no channel 'nuclei'", "auto"):
            ref.open()


def test_a_recipes_channels_are_a_string_or_a_list_of_different_names():
    assert (Data(anatomy=["a"]).anatomy, Data(tumour=[]).tumour) == ("a", "")
    assert Data(anatomy="DAPI, 405 nm").anatomy == "DAPI, 405 nm"  # one channel of this name
    assert Data(anatomy=["a", "b"], tumour="").channel_numbers == (2, 1)
    for names, said in ((["a", "a"], "channel 'a' is named twice"), (["a", ""], "an empty channel name")):
        with pytest.raises(ValueError, match=said):
            Data(anatomy=names)


def test_a_channel_in_both_roles_leaves_nothing_to_generate(mistake):
    data = Data(anatomy=["a", "b"], tumour=["c", "b"])
    with mistake("data.tumour: 'b' is in data.anatomy", "data.one_channel"):
        check_channels(data)
    check_channels(data.model_copy(update={"one_channel": True}))
