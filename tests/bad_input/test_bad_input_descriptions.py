"""Descriptions of data sets, and recipes, that are damaged or say what cannot be: each is refused in one line."""

import time

import nibabel
import numpy as np
import pytest
from damages import read_all, refused

from metgan_dist.errors import UserError
from metgan_dist.recipe import Data, recipe_tree
from metgan_dist.runs.command_line import parse_command
from metgan_dist.volumes.dataset import volume_refs

VOLUME = "volumes: [{id: a, path: a.nii.gz, label: b.nii.gz}]\n"


@pytest.fixture
def folder(tmp_path):
    """A folder with an image, a label and a description that fits them."""
    place = tmp_path / "data"
    place.mkdir()
    for name, kind in (("a", "int16"), ("b", "uint8")):
        nibabel.save(nibabel.Nifti1Image(np.ones((4, 5, 6), kind), np.eye(4)), place / f"{name}.nii.gz")
    (place / "dataset.yaml").write_text("anatomy: c0\ntumour: c0\n" + VOLUME)
    opened(place)
    return place


def opened(path, **data):
    """The data set with every image and label read."""
    for ref in volume_refs(Data(**{"path": str(path), "anatomy": "c0", "tumour": "c0"} | data)):
        volume = ref.open()
        for layer in volume.dtypes:
            volume.read(layer, tuple((0, edge) for edge in volume.shape))


def aliases(levels):
    """A YAML text whose last anchor stands for 10^levels values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join([*lines, VOLUME])


TEXTS = {
    "empty": ("", "volumes"),
    "blanks": ("\n\n  \n", "volumes"),
    "a comment": ("# nothing\n", "volumes"),
    "a list": ("- a\n- b\n", "mapping|dictionary|valid"),
    "a text": ("a text\n", "mapping|dictionary|valid"),
    "a number": ("3\n", "mapping|dictionary|valid"),
    "a tab": ("volumes:\n\t- {id: a}\n", "not readable as YAML"),
    "an open bracket": ("volumes: [\n", "not readable as YAML"),
    "a key twice": (VOLUME + VOLUME, "given twice"),
    "a tag that runs code": ("volumes: !!python/object/apply:os.system ['true']\n", "not readable as YAML"),
    "an anchor that is not there": ("volumes: *nowhere\n", "not readable as YAML"),
    "an anchor in itself": ("volumes: &a [*a]\n", "an alias refers to what it is in"),
    "a key that is a number": ("3: 4\n" + VOLUME, "3"),
    "a key that is a list": ("[1, 2]: 4\n" + VOLUME, "YAML|1"),
    "a field that is not there": ("chanels: c0\n" + VOLUME, "chanels"),
    "no volumes": ("volumes: []\n", "volumes"),
    "volumes null": ("volumes:\n", "volumes"),
    "volumes a mapping": ("volumes: {a: a.nii.gz}\n", "volumes"),
    "a volume of text": ("volumes: [a.nii.gz]\n", "volumes"),
    "a volume without id": ("volumes: [{path: a.nii.gz}]\n", "id"),
    "a volume without path": ("volumes: [{id: a}]\n", "path"),
    "a path that is a number": ("volumes: [{id: a, path: 3}]\n", "path"),
    "an empty path": ("volumes: [{id: a, path: ''}]\n", "path|not found|format|no volume"),
    "a path to nowhere": ("volumes: [{id: a, path: c.nii.gz}]\n", "c.nii.gz: not found"),
    "a label to nowhere": ("volumes: [{id: a, path: a.nii.gz, label: c.nii.gz}]\n", "c.nii.gz"),
    "two ids alike": ("volumes: [{id: a, path: a.nii.gz}, {id: a, path: b.nii.gz}]\n", "two volumes have the id 'a'"),
    "a file twice": ("volumes: [{id: a, path: a.nii.gz}, {id: b, path: ./a.nii.gz}]\n", "listed as two volumes"),
    "a split that is none": ("volumes: [{id: a, path: a.nii.gz, split: traning}]\n", "split"),
    "a level of a NIfTI": ("volumes: [{id: a, path: a.nii.gz, level: '1'}]\n", "level"),
    "a table of a NIfTI": ("volumes: [{id: a, path: a.nii.gz, table: a.csv}]\n", "a.csv|table"),
    "a negative spacing": ("volumes: [{id: a, path: a.nii.gz, spacing: [-1, 1, 1]}]\n", "spacing"),
    "a spacing of two": ("volumes: [{id: a, path: a.nii.gz, spacing: [1, 1]}]\n", "spacing"),
    "a spacing that is no number": ("volumes: [{id: a, path: a.nii.gz, spacing: [.nan, 1, 1]}]\n", "spacing"),
    "an infinite spacing": ("volumes: [{id: a, path: a.nii.gz, spacing: [.inf, 1, 1]}]\n", "spacing"),
    "axes that are none": ("volumes: [{id: a, path: a.nii.gz, axes: abc}]\n", "axes"),
    "axes too few": ("volumes: [{id: a, path: a.nii.gz, axes: yx}]\n", "axes"),
    "channels too many": ("volumes: [{id: a, path: a.nii.gz, channels: [c0, c1]}]\n", "channel"),
    "one class": ("classes: 1\n" + VOLUME, "classes"),
    "a class for a word": ("labels: {one: heart}\n" + VOLUME, "labels"),
    "labels and classes that differ": ("labels: {1: heart}\nclasses: 5\n" + VOLUME, "classes"),
    "an orientation that is none": ("orientation: RAX\n" + VOLUME, "orientation"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_a_description_that_cannot_be_is_a_line(folder, case):
    text, said = TEXTS[case]
    (folder / "dataset.yaml").write_text(text)
    refused(folder, said, work=opened)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00v", b"anatomy: \xe9t\xe9\n", b"volumes: \x00\n"])
def test_a_description_in_another_encoding_is_a_line(folder, content):
    (folder / "dataset.yaml").write_bytes(content)
    refused(folder, "not readable as YAML|dictionary", work=opened)


def test_a_description_that_is_a_folder_is_a_line(folder):
    (folder / "dataset.yaml").unlink()
    (folder / "dataset.yaml").mkdir()
    refused(folder, "a folder", work=opened)


def test_a_bomb_of_aliases_is_refused_at_once(folder):
    """Ten lines that stand for a thousand million values."""
    (folder / "dataset.yaml").write_text(aliases(9))
    began = time.process_time()
    refused(folder, "aliases", work=opened)
    assert time.process_time() - began < 5


def test_a_recipe_with_a_bomb_of_aliases_is_refused_at_once(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(aliases(9))
    refused(path, "aliases", work=lambda place: recipe_tree(str(place)))


@pytest.mark.parametrize("text", ["training: &a {epochs: *a}\n", "3: {epochs: 1}\n", "- training\n", "training: 3\n"])
def test_a_recipe_that_cannot_be_is_a_line(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        parse_command("train_metgan.py", "", ["--recipe", str(path)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("", "path"),
        ("s3://", "bucket"),
        ("s3:///key", "bucket"),
        ("http://[::1", "address|URI"),
        ("nosuch://a/b", "nosuch"),
        ("file://", "path|not found|no volume|format"),
        ("a\0b", "path|not found"),
    ],
)
def test_a_path_that_is_none_is_a_line(path, said):
    with pytest.raises(UserError, match=said) as error:
        opened(path)
    assert "\n" not in str(error.value)
    if path:
        with pytest.raises(UserError, match=said):
            read_all(path)
