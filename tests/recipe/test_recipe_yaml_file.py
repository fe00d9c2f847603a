"""A YAML file says each thing once."""

import pytest

from metgan_dist.recipe import Data, recipe_tree
from metgan_dist.recipe.yaml_file import read_yaml
from metgan_dist.studies.study import load_study
from metgan_dist.volumes.dataset import resolve_data


@pytest.mark.parametrize(
    ("text", "name", "line"),
    [
        ("tiles: {size: 64}\ndata: {}\ntiles: {size: 32}\n", "tiles", 3),
        ("tiles:\n  size: 64\n  size: 32\n", "size", 3),
        ("volumes:\n- {id: a, path: a, path: b}\n", "path", 2),
    ],
)
def test_a_key_that_is_given_twice_is_named_with_its_line(tmp_path, mistake, text, name, line):
    path = tmp_path / "dataset.yaml"
    path.write_text(text)
    for read in (
        lambda: recipe_tree(str(path)),
        lambda: load_study(str(path)),
        lambda: resolve_data(Data(path=str(tmp_path))),
    ):
        with mistake(str(path), f"'{name}' is given twice", f"line {line}"):
            read()


def test_what_is_merged_in_may_be_given_again():
    text = "a: &a {x: 1, y: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, y: 3}\n"
    assert read_yaml("f", text) == {"a": {"x": 1, "y": 1}, "b": {"x": 2, "y": 1}, "c": {"x": 2, "y": 3}}
