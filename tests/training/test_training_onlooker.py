"""What is noted of test tiles on the way: voxels and Dice volume by volume, whatever the ranks, and nothing chosen."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from tile_sets import write_set

from metgan_dist.methods import build_method
from metgan_dist.recipe import Recipe
from metgan_dist.tasks import task_of
from metgan_dist.training import onlooker
from metgan_dist.training.onlooker import Onlooker, held_out_volumes, read_tests


class Live:
    """A stepper, as far as it is asked."""

    def __init__(self, method):
        self.method = method

    @contextmanager
    def inference(self):
        with torch.no_grad():
            yield self.method.eval()


@pytest.fixture
def live():
    tree = {"method": {"name": "segmentor", "segmentor_width": 1 / 16}, "tiles": {"size": [64]}}
    return Live(build_method(Recipe.model_validate(tree)))


def noted(live, tiles, rows, **ranks):
    return Onlooker(task_of(live.method, tiles), torch.device("cpu"), {"test": rows}, **ranks)(live)["test"]


@pytest.mark.parametrize("finds", ["all", "nothing"])
def test_voxels_and_dice_are_counted_by_volume(tmp_path, live, monkeypatch, finds):
    tiles = write_set(tmp_path)
    rows = tiles.positions("test")
    monkeypatch.setattr(live.method, "translate", lambda batch: batch["label"] * (finds == "all"))
    found, true = noted(live, tiles, rows), held_out_volumes(tiles, rows)
    by_hand = {}
    for row in rows:
        name = tiles.index["volume"].iloc[row]
        by_hand[name] = by_hand.get(name, 0) + int((tiles.load(row)["label"] > 0).sum())
    assert true.to_dict() == dict(sorted(by_hand.items()))
    assert found["overlap"] == [own * (finds == "all") for own in true]
    assert found["size"] == [own * (1 + (finds == "all")) for own in true]
    assert found["dice"] == (1.0 if finds == "all" else 0.0)
    assert found["loss"] > 0


def test_volumes_without_a_lesion_have_no_part_in_the_mean(tmp_path, live, monkeypatch):
    tiles = write_set(tmp_path, volumes=3, test=9)  # every third tile is empty, and so is every third volume
    rows = tiles.positions("test")
    true = held_out_volumes(tiles, rows)
    assert (true == 0).sum() == 1
    monkeypatch.setattr(live.method, "translate", lambda batch: torch.ones_like(batch["label"]))
    found = noted(live, tiles, rows)
    pixels = 64 * 64 * 3
    expected = [2 * own / (own + pixels) for own in true if own]
    assert found["dice"] == pytest.approx(np.mean(expected))
    assert found["size"] == [own + pixels for own in true]


def test_ranks_note_together_what_one_notes_alone(tmp_path, live, monkeypatch):
    tiles = write_set(tmp_path)
    rows = tiles.positions("test")
    task = task_of(live.method, tiles)
    with live.inference() as method:
        parts = [Onlooker(task, torch.device("cpu"), {}, k, 2)._scored(rows[k::2], method) for k in range(2)]

    def gather(into, own):
        into[:] = [{"test": part} for part in parts]

    monkeypatch.setattr(onlooker.dist, "all_gather_object", gather)
    together, alone = noted(live, tiles, rows, rank=1, world=2), noted(live, tiles, rows)
    assert {name: together[name] for name in ("dice", "overlap", "size")} == {
        name: alone[name] for name in ("dice", "overlap", "size")
    }


def test_what_was_noted_is_read_from_a_checkpoint(tmp_path):
    (tmp_path / "meta.json").write_text(json.dumps({"images": 4, "tested": [{"images": 4}]}))
    assert read_tests(str(tmp_path), None) == [{"images": 4}]
    (tmp_path / "meta.json").write_text(json.dumps({"images": 4}))  # of an earlier version
    assert read_tests(str(tmp_path), None) == []
