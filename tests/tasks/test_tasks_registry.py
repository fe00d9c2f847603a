"""Which task a method has on which tiles, and that each is scored by what its checkpoints are chosen by."""

import pytest
from networkless import Plain
from tile_sets import write_domains, write_set

from metgan_dist.methods import METHODS, method_class
from metgan_dist.recipe import Recipe
from metgan_dist.scores.column import COLUMNS
from metgan_dist.tasks import TASKS, task_class, task_of


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_scored_by_what_chooses_its_checkpoint(name):
    method = method_class(name)
    score, order = method.criterion(Recipe.model_validate({"method": {"name": name}}))
    kinds = [task_class(method, False), *([task_class(method, True)] if score != "mae" else [])]
    for task in (TASKS[method.task], *kinds):
        assert score in {column.name for column in task.columns}
    assert COLUMNS[score].better == order


@pytest.mark.parametrize(
    ("name", "on_pairs", "on_domains"),
    [
        ("metgan", "paired", "unpaired"),
        ("cyclegan", "paired", "unpaired"),
        ("sifa", "paired", "unpaired"),
        ("cycle_shape", "paired", "unpaired"),
        ("spade", "label_to_image", "label_to_image"),
        ("segmentor", "segmentation", "segmentation"),
        ("lesion_wgan", "mask_generation", "mask_generation"),
        ("singan", "one_image", "one_image"),
    ],
)
def test_the_task_follows_from_the_method_and_from_whether_there_are_pairs(tmp_path, name, on_pairs, on_domains):
    method = method_class(name)
    assert task_of(method, write_set(tmp_path / "pairs")).name == on_pairs
    assert task_of(method, write_domains(tmp_path / "domains")).name == on_domains


def test_what_is_scored_without_a_judge_and_with_one_and_compared(tmp_path):
    judge = Plain(labels=True)
    pairs, domains = write_set(tmp_path / "pairs"), write_domains(tmp_path / "domains")
    for tiles in (pairs, domains):
        source, target = tiles.positions("test", "anatomy").tolist(), tiles.positions("test", "tumour").tolist()
        alone, judged = task_of(Plain(), tiles, {"judge": None}), task_of(Plain(), tiles, {"judge": judge})
        assert {name: rows.tolist() for name, rows in alone.samples("test").items()} == {"generated": source}
        for samples in (judged.samples("test"), alone.compared("test")):
            assert {name: rows.tolist() for name, rows in samples.items()} == {"generated": source, "real": target}
    assert list(task_of(judge, domains).samples("test")) == ["generated"]
    assert task_of(judge, domains).rows("test").tolist() == domains.positions("test", "tumour").tolist()


def test_a_segmentation_reads_by_its_dice_and_says_where_there_is_nothing_to_find(tmp_path):
    task = task_of(Plain(labels=True), write_set(tmp_path))
    assert task.line("test", {"tiles": 6, "generated": {"dice": 0.51}}) == "test: 6 tiles; Dice 0.510"
    assert task.line("test", {"tiles": 1, "generated": {}}) == "test: 1 tiles; no class occurs"
