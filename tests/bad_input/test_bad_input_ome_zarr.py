"""OME-Zarr images whose metadata or chunks are damaged: each is refused in one line."""

import json

import numcodecs
import numpy as np
import pytest
import zarr
from damages import read_all, refused

AXES = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
SCALE = [{"type": "scale", "scale": [2.0, 1.0, 1.0]}]


@pytest.fixture(params=[2, 3], ids=["0.4", "0.5"])
def image(request, tmp_path):
    """(folder, Zarr format) of an image of 4 x 20 x 30 voxels in chunks of 2 x 10 x 10, with one level."""
    folder, zarr_format = tmp_path / "image.ome.zarr", request.param
    group = zarr.open_group(folder, mode="w", zarr_format=zarr_format)
    voxels = np.arange(1, 2401, dtype="uint16").reshape(4, 20, 30)
    array = group.create_array("0", shape=voxels.shape, chunks=(2, 10, 10), dtype=voxels.dtype)
    array[:] = voxels
    scales = [{"version": "0.4", "axes": AXES, "datasets": [{"path": "0", "coordinateTransformations": SCALE}]}]
    group.attrs.update(
        {"multiscales": scales} if zarr_format == 2 else {"ome": {"version": "0.5", "multiscales": scales}}
    )
    assert (read_all(folder)["c0"] == voxels).all()
    return folder, zarr_format


def edited(image, edit):
    """The image after `edit` has changed its OME metadata in place."""
    folder, zarr_format = image
    place = folder / (".zattrs" if zarr_format == 2 else "zarr.json")
    tree = json.loads(place.read_text())
    edit(tree if zarr_format == 2 else tree["attributes"]["ome"])
    place.write_text(json.dumps(tree))
    return folder


def scales(tree):
    return tree["multiscales"][0]


METADATA = {
    "multiscales null": (lambda tree: tree.update(multiscales=None), "no multiscales"),
    "multiscales a number": (lambda tree: tree.update(multiscales=3), "no multiscales"),
    "multiscales of text": (lambda tree: tree.update(multiscales=["0"]), "multiscales"),
    "multiscales empty": (lambda tree: tree.update(multiscales=[]), "no multiscales"),
    "multiscales a mapping": (lambda tree: tree.update(multiscales={"datasets": []}), "no multiscales"),
    "datasets null": (lambda tree: scales(tree).update(datasets=None), "multiscales|datasets"),
    "datasets text": (lambda tree: scales(tree).update(datasets="0"), "datasets"),
    "datasets of text": (lambda tree: scales(tree).update(datasets=["0"]), "datasets"),
    "a data set without a path": (lambda tree: scales(tree)["datasets"][0].pop("path"), "path"),
    "a path that is null": (lambda tree: scales(tree)["datasets"][0].update(path=None), "path|no array"),
    "a path out of the image": (lambda tree: scales(tree)["datasets"][0].update(path="../other"), "path"),
    "a path to nowhere": (lambda tree: scales(tree)["datasets"][0].update(path="7"), "no array is there"),
    "axes a number": (lambda tree: scales(tree).update(axes=3), "axes"),
    "axes null in a list": (lambda tree: scales(tree).update(axes=[None, None, None]), "axes"),
    "axes without names": (lambda tree: scales(tree).update(axes=[{"type": "space"}] * 3), "axes"),
    "axes with numbers for names": (lambda tree: scales(tree).update(axes=[{"name": n} for n in range(3)]), "axes"),
    "an axis too few": (lambda tree: scales(tree).update(axes=AXES[1:]), "axes"),
    "an axis twice": (lambda tree: scales(tree).update(axes=[AXES[1], *AXES[1:]]), "axes"),
    "a unit that is a number": (lambda tree: scales(tree).update(axes=[{**axis, "unit": 3} for axis in AXES]), "unit"),
    "transformations a number": (
        lambda tree: scales(tree)["datasets"][0].update(coordinateTransformations=5),
        "coordinateTransformations",
    ),
    "transformations of text": (
        lambda tree: scales(tree)["datasets"][0].update(coordinateTransformations=["scale"]),
        "coordinateTransformations",
    ),
    "a scale of 0 numbers": (lambda tree: rescaled(tree, []), "scale"),
    "a scale of two numbers": (lambda tree: rescaled(tree, [1.0, 1.0]), "scale"),
    "a scale of text": (lambda tree: rescaled(tree, ["a", "b", "c"]), "scale"),
    "a scale that is null": (lambda tree: rescaled(tree, None), "scale"),
    "a negative scale": (lambda tree: rescaled(tree, [2.0, -1.0, 1.0]), "voxel size"),
    "a scale that is no number": (lambda tree: rescaled(tree, [2.0, float("nan"), 1.0]), "voxel size"),
    "an infinite scale": (lambda tree: rescaled(tree, [2.0, float("inf"), 1.0]), "voxel size"),
    "omero text": (lambda tree: tree.update(omero="c0"), "omero"),
    "omero channels of text": (lambda tree: tree.update(omero={"channels": ["c0"]}), "omero"),
}


def rescaled(tree, scale):
    scales(tree)["datasets"][0]["coordinateTransformations"] = [{"type": "scale", "scale": scale}]


@pytest.mark.parametrize("case", METADATA)
def test_ome_metadata_that_cannot_be_are_a_line(image, case):
    edit, said = METADATA[case]
    refused(edited(image, edit), said)


def array_metadata(image, edit):
    folder, zarr_format = image
    place = folder / "0" / (".zarray" if zarr_format == 2 else "zarr.json")
    tree = json.loads(place.read_text())
    edit(tree, zarr_format)
    place.write_text(json.dumps(tree))
    return folder


def chunked(tree, zarr_format, edges):
    if zarr_format == 2:
        tree["chunks"] = edges
    else:
        tree["chunk_grid"]["configuration"]["chunk_shape"] = edges


def typed(tree, zarr_format, two, three):
    tree["dtype" if zarr_format == 2 else "data_type"] = two if zarr_format == 2 else three


def coded(tree, zarr_format, codec):
    if zarr_format == 2:
        tree["compressor"] = {"id": codec}
    else:
        tree["codecs"] = [tree["codecs"][0], {"name": codec, "configuration": {}}]


ARRAY = {
    "a shape of no axes": (lambda tree, _: tree.update(shape=[]), "metadata|axes"),
    "a shape of text": (lambda tree, _: tree.update(shape="4,20,30"), "metadata"),
    "a shape that is null": (lambda tree, _: tree.update(shape=None), "metadata"),
    "an edge of 0": (lambda tree, _: tree.update(shape=[4, 0, 30]), "no voxels|metadata"),
    "a negative edge": (lambda tree, _: tree.update(shape=[4, -20, 30]), "no voxels|metadata"),
    "an axis more than its chunks have": (lambda tree, _: tree.update(shape=[4, 20, 30, 1]), "metadata|axes"),
    "more voxels than are there": (lambda tree, _: tree.update(shape=[6, 20, 30]), "missing"),
    "chunks of 0": (lambda tree, version: chunked(tree, version, [2, 0, 10]), "metadata|chunk"),
    "negative chunks": (lambda tree, version: chunked(tree, version, [2, -10, 10]), "metadata|chunk"),
    "chunks that are null": (lambda tree, version: chunked(tree, version, None), "metadata|chunk"),
    "a type that is none": (lambda tree, version: typed(tree, version, "<q9", "int99"), "metadata|type"),
    "voxels that are text": (lambda tree, version: typed(tree, version, "<U4", "string"), "type|metadata|voxels"),
    "a fill value that does not fit": (lambda tree, _: tree.update(fill_value=70000), "metadata|fill"),
    "a fill value that is text": (lambda tree, _: tree.update(fill_value="none"), "metadata|fill"),
    "a codec that nobody has": (lambda tree, version: coded(tree, version, "wavelet9"), "wavelet9"),
    "a format of the future": (lambda tree, _: tree.update(zarr_format=9), "metadata|format|array"),
}


@pytest.mark.parametrize("case", ARRAY)
def test_array_metadata_that_cannot_be_are_a_line(image, case):
    edit, said = ARRAY[case]
    refused(array_metadata(image, edit), said)


def chunk_of(image):
    folder, zarr_format = image
    return folder / "0" / ("0.0.0" if zarr_format == 2 else "c/0/0/0")


@pytest.mark.parametrize("content", [b"", b"no chunk", None], ids=["empty", "text", "truncated"])
def test_a_chunk_that_is_damaged_is_a_line(image, content):
    chunk = chunk_of(image)
    chunk.write_bytes(chunk.read_bytes()[:10] if content is None else content)
    refused(image[0], "cannot be read|empty")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "\x00\xff"], ids=["empty", "open", "list", "null", "binary"]
)
@pytest.mark.parametrize("which", ["group", "array"])
def test_a_metadata_file_that_is_no_json_is_a_line(image, which, content):
    folder, zarr_format = image
    names = {"group": (".zgroup", "zarr.json"), "array": ("0/.zarray", "0/zarr.json")}[which]
    (folder / names[zarr_format - 2]).write_bytes(content.encode("latin-1"))
    refused(folder, "metadata|no Zarr|multiscales|array")


def test_a_volume_beyond_all_memory_is_opened_and_a_region_read(image):
    """Its size alone is no mistake: that of a light-sheet scan is beyond memory, too."""
    folder = array_metadata(image, lambda tree, _: tree.update(shape=[4, 10**6, 10**9]))
    refused(folder, "missing", work=lambda path: region_of(path))


def region_of(path):
    from metgan_dist.volumes.open import open_volume

    volume = open_volume(str(path))
    assert volume.shape == (4, 10**6, 10**9)
    return volume.read("c0", ((0, 2), (10**5, 10**5 + 10), (0, 10)))


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("kept", [3, 15, 16, 100, -1])
def test_a_blosc_chunk_that_was_cut_is_a_line(tmp_path, zarr_format, kept):
    """Blosc itself reads on in memory, and gives other values."""
    folder = tmp_path / "image.ome.zarr"
    group = zarr.open_group(folder, mode="w", zarr_format=zarr_format)
    voxels = np.random.default_rng(0).integers(0, 2**16, (2, 10, 10)).astype("uint16")
    blosc = numcodecs.Blosc() if zarr_format == 2 else zarr.codecs.BloscCodec()
    array = group.create_array("0", shape=voxels.shape, chunks=voxels.shape, dtype=voxels.dtype, compressors=blosc)
    array[:] = voxels
    image = [{"axes": AXES, "datasets": [{"path": "0", "coordinateTransformations": SCALE}]}]
    group.attrs.update({"multiscales": image} if zarr_format == 2 else {"ome": {"multiscales": image}})
    assert (read_all(folder)["c0"] == voxels).all()
    chunk = chunk_of((folder, zarr_format))
    chunk.write_bytes(chunk.read_bytes()[:kept])
    refused(folder, "cannot be read: a Blosc chunk of")
