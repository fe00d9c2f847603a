"""Files that the project wrote itself, damaged: one line that names the file, and the file stays as it is."""

import json
import shutil

import numpy as np
import pytest
import torch
from tile_sets import write_set
from untrained import write_untrained

from metgan_dist.errors import DamagedFile, UserError
from metgan_dist.recipe import Recipe
from metgan_dist.runs.run_folder import open_run
from metgan_dist.storage import read_json
from metgan_dist.tiles.tile_set import TileSet
from metgan_dist.trained import load_method, read_result, read_run, run_of

DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "text": lambda content: b"<html>not found</html>",
    "bytes": lambda content: b"\xff\xfe\x00" + content,
    "list": lambda content: b"[1, 2]",
    "null": lambda content: b"null",
    "deep": lambda content: b"[" * 100_000,
}


class Bomb:
    """What must not be unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def damaged(path, how):
    path.write_bytes(DAMAGES[how](path.read_bytes()))
    return path.read_bytes()


def line_of(error, path):
    line = str(error.value)
    assert "\n" not in line
    assert str(path) in line
    return line


@pytest.mark.parametrize("how", DAMAGES)
def test_a_manifest(tmp_path, how):
    write_set(tmp_path / "tiles")
    path = tmp_path / "tiles" / "manifest.json"
    content = damaged(path, how)
    with pytest.raises(DamagedFile) as error:
        TileSet.open(str(tmp_path / "tiles"))
    line_of(error, path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["roles", "tile_shape", "normalisation", "index_sha256"])
def test_a_manifest_that_lacks_a_field(tmp_path, name):
    write_set(tmp_path / "tiles")
    path = tmp_path / "tiles" / "manifest.json"
    tree = json.loads(path.read_text())
    del tree[name]
    path.write_text(json.dumps(tree))
    with pytest.raises(DamagedFile, match=f"lacks '{name}'"):
        TileSet.open(str(tmp_path / "tiles"))


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "text"])
def test_an_index(tmp_path, how):
    write_set(tmp_path / "tiles")
    path = tmp_path / "tiles" / "index.parquet"
    if how == "missing":
        path.unlink()
    else:
        damaged(path, how)
    with pytest.raises(DamagedFile) as error:
        TileSet.open(str(tmp_path / "tiles"))
    line_of(error, path)


@pytest.mark.parametrize("how", DAMAGES)
def test_what_a_run_wrote_of_itself(tmp_path, how):
    recipe = Recipe.model_validate({"storage": {"path": str(tmp_path)}, "tracking": {"run": "mine"}})
    open_run("train_metgan", recipe, "quickstart")
    path = tmp_path / "mine" / "run.json"
    content = damaged(path, how)
    for asked in (
        lambda: open_run("train_metgan", recipe, "quickstart"),
        lambda: read_run(str(tmp_path / "mine")),
        lambda: run_of(str(tmp_path / "mine" / "train")),
    ):
        with pytest.raises(DamagedFile) as error:
            asked()
        line_of(error, path)
    assert path.read_bytes() == content
    (tmp_path / "mine" / "result.json").write_bytes(content)
    with pytest.raises(DamagedFile) as error:
        read_result(str(tmp_path / "mine"))
    line_of(error, tmp_path / "mine" / "result.json")


@pytest.mark.parametrize("name", ["job", "recipe", "mlflow_run_id"])
def test_a_run_that_lacks_a_field(tmp_path, name):
    recipe = Recipe.model_validate({"storage": {"path": str(tmp_path)}, "tracking": {"run": "mine"}})
    open_run("train_metgan", recipe, "quickstart")
    path = tmp_path / "mine" / "run.json"
    tree = json.loads(path.read_text())
    del tree[name]
    path.write_text(json.dumps(tree))
    with pytest.raises(DamagedFile, match=f"lacks '{name}'"):
        open_run("train_metgan", recipe, "quickstart")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    tree = {"method": {"name": "segmentor", "segmentor_width": 1 / 16}, "tiles": {"size": [32]}}
    return write_untrained(tmp_path_factory.mktemp("weights") / "checkpoint", Recipe.model_validate(tree))


@pytest.fixture
def checkpoint(weights, tmp_path):
    shutil.copytree(weights, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.parametrize("digest", [True, False])
@pytest.mark.parametrize("how", ["empty", "cut", "text", "bytes", "bit"])
def test_weights(checkpoint, how, digest):
    """With the digest that is written beside them, and as earlier versions left them."""
    path = checkpoint / "state.pt"
    if how == "bit":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        damaged(path, how)
    if not digest:
        (checkpoint / "state.sha256").unlink()
    with pytest.raises(DamagedFile) as error:
        load_method(str(checkpoint))
    line_of(error, path)


def test_weights_that_are_a_pickle_are_not_run_and_nobody_is_told_to(checkpoint):
    path = checkpoint / "state.pt"
    torch.save({"networks": Bomb(), "ema": {}}, path)
    (checkpoint / "state.sha256").unlink()
    with pytest.raises(DamagedFile) as error:
        load_method(str(checkpoint))
    assert "weights_only" not in line_of(error, path)


@pytest.mark.parametrize("how", ["empty", "text", "bytes", "list", "null"])
def test_the_recipe_of_weights(checkpoint, how):
    path = checkpoint / "recipe.yaml"
    damaged(path, how)
    with pytest.raises(UserError) as error:
        load_method(str(checkpoint))
    line_of(error, path)


@pytest.mark.parametrize("how", [name for name in DAMAGES if name != "bytes"])
def test_how_far_weights_are(checkpoint, how):
    path = checkpoint / "meta.json"
    damaged(path, how)
    with pytest.raises(DamagedFile) as error:
        load_method(str(checkpoint))
    line_of(error, path)


@pytest.mark.parametrize("missing", ["state.pt", "recipe.yaml"])
def test_a_checkpoint_that_is_not_whole(checkpoint, missing):
    (checkpoint / missing).unlink()
    with pytest.raises(UserError) as error:
        load_method(str(checkpoint))
    line_of(error, checkpoint)


def test_weights_of_other_sizes(checkpoint):
    path = checkpoint / "recipe.yaml"
    path.write_text(path.read_text().replace("segmentor_width: 0.0625", "segmentor_width: 0.125"))
    with pytest.raises(UserError) as error:
        load_method(str(checkpoint))
    assert "other sizes" in line_of(error, checkpoint)


def test_json_of_ours_may_hold_any_numbers(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"mean": float(np.float32(0.1)), "none": None}))
    assert read_json(str(tmp_path / "x.json"), None) == {"mean": float(np.float32(0.1)), "none": None}
