"""Synthetic datasets are opened when they are needed, and refused by the field that named them."""

import pytest
from tile_sets import write_set

from metgan_dist.errors import UserError
from metgan_dist.recipe import Recipe
from metgan_dist.segmentation import datasets as module
from metgan_dist.segmentation.datasets import check_datasets, open_datasets


def recipe(tmp_path, **segmentation):
    return Recipe.model_validate({"segmentation": segmentation, "storage": {"path": str(tmp_path / "runs")}})


def synthetic(folder, **settings):
    return write_set(folder, **{"train": 6, "val": 0, "test": 0, "synthesis": {}, "seed": 1, **settings})


def test_datasets_are_opened_once_each_and_not_at_all_without_synthetic_tiles(tmp_path):
    one, two = (synthetic(tmp_path / name) for name in "ab")
    listed = [one.uri, two.uri, one.uri]
    assert [part.uri for part in open_datasets(recipe(tmp_path, synthetic=3, datasets=listed))] == [one.uri, two.uri]
    assert open_datasets(recipe(tmp_path, datasets=["/nowhere"])) == ()


@pytest.mark.parametrize(
    ("settings", "culprit"),
    [
        ({"real": 0}, "segmentation.real: 0 real and 0 synthetic tiles leave nothing"),
        ({"synthetic": 5}, "segmentation.datasets: none given, but segmentation.synthetic asks for 5"),
        ({"synthetic": 5, "datasets": ["/nowhere"]}, "segmentation.datasets: /nowhere: no finished synthetic tiles"),
    ],
)
def test_nothing_to_train_on_and_missing_datasets_are_refused(tmp_path, settings, culprit):
    with pytest.raises(UserError, match=f"^{culprit}"):
        open_datasets(recipe(tmp_path, **settings))


def test_real_tiles_are_no_dataset(tmp_path):
    real = write_set(tmp_path / "real")
    with pytest.raises(UserError, match=f"^segmentation.datasets: {real.uri}: tiles that were not synthesised"):
        open_datasets(recipe(tmp_path, synthetic=5, datasets=[real.uri]))


def test_every_dataset_is_checked_to_fit_and_to_have_seen_no_test_tile(tmp_path, monkeypatch):
    real, one, two = write_set(tmp_path / "real"), synthetic(tmp_path / "a"), synthetic(tmp_path / "b")
    asked = []

    def untouched(*given):
        asked.append(given)
        return (len(asked),)

    monkeypatch.setattr(module, "check_untouched", untouched)
    given = recipe(tmp_path)
    assert check_datasets([one, two], real, given) == (1, 2)
    store = f"sqlite:///{tmp_path / 'runs'}"
    assert [entry[:3] for entry in asked] == [("segmentation.datasets", real, part) for part in (one, two)]
    assert all(entry[3].startswith(store) for entry in asked)
    with pytest.raises(UserError, match=r"data\.classes 3 does not fit"):
        check_datasets([synthetic(tmp_path / "c", classes=3)], real, given)
    assert len(asked) == 2


def test_a_dataset_whose_origin_is_unknown_is_refused(tmp_path):
    real, other = write_set(tmp_path / "real"), synthetic(tmp_path / "a", synthesis={"tiles": {}, "model": {}})
    with pytest.raises((UserError, KeyError)):
        check_datasets([other], real, recipe(tmp_path))
