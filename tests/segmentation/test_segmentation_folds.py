"""What folds train on: as much as was asked, never what they validate with, and a refusal in one line otherwise."""

import json

import numpy as np
import pytest
from tile_sets import write_set
from two_domains import cut_here, recipe_of, write_two_domains

from metgan_dist.errors import UserError
from metgan_dist.lineage import Sources, Tissue
from metgan_dist.methods.segmentor import segmentor_recipe
from metgan_dist.recipe import Recipe
from metgan_dist.segmentation.cross_validation import too_small
from metgan_dist.segmentation.datasets import of_domain
from metgan_dist.segmentation.folds import (
    _usable,
    find_fold_start,
    fold_recipe,
    planned_folds,
    seen_by_generators,
    start_of,
)
from metgan_dist.tiles.mixture import write_mixture
from metgan_dist.tiles.tile_set import TileSet


def recipe(**segmentation):
    return Recipe.model_validate({"segmentation": segmentation, "tiles": {"size": [64], "folds": 4}})


def synthetic(folder, **settings):
    return write_set(folder, **{"train": 40, "val": 0, "test": 0, "synthesis": {}, "seed": 1, **settings})


def test_folds_validate_on_real_tiles_that_they_do_not_train_on(tmp_path):
    tiles = write_set(tmp_path)
    folds = planned_folds(tiles, [synthetic(tmp_path / "s")], recipe(real=0.5, synthetic=8))
    assert [fold.number for fold in folds] == [0, 1, 2, 3]
    for fold in folds:
        assert fold.samples == {"real": 9, "synthetic": 8}
        assert not set(fold.train) & set(fold.val)
        assert set(tiles.index["split"].iloc[[*fold.train, *fold.val]]) == {"train"}
    everywhere = np.concatenate([fold.val for fold in folds])
    assert sorted(everywhere) == tiles.positions("train").tolist()


def test_no_synthetic_tile_of_a_fold_has_an_anatomy_or_a_label_from_its_validation_tiles(tmp_path):
    tiles = write_set(tmp_path)
    made = synthetic(tmp_path / "s", source=tiles)
    for fold in planned_folds(tiles, [made], recipe(synthetic=10)):
        # Tile k is made from training tiles k, k + 1 and k + 2, which lie in three of four folds.
        assert fold.samples["synthetic"] == 10
        assert set(fold.synthetic[0] % 4) == {(fold.number + 1) % 4}
        assert fold.left_out == 30
        for row in fold.synthetic[0]:
            origin = [origin["tile"] for origin in json.loads(made.index["label_sources"].iloc[row])]
            assert not {tiles.positions("train")[row % 24], *origin} & set(fold.val)
    with pytest.raises(UserError, match=r"11 of 11 .* has 10 for this fold: 30 more are made from tiles that validate"):
        planned_folds(tiles, [made], recipe(synthetic=11))


def test_a_source_that_overlaps_a_validation_tile_is_as_bad(tmp_path):
    """The anatomies are from a set of the same volumes, cut half a tile further along y."""
    tiles = write_set(tmp_path)
    moved = tiles.index.assign(y0=tiles.index["y0"] + 32, y1=tiles.index["y1"] + 32)
    source = TileSet.write(str(tmp_path / "moved"), moved, tiles.manifest)
    made = synthetic(tmp_path / "s", source=source)
    assert [fold.left_out for fold in planned_folds(tiles, [made], recipe(synthetic=10))] == [30] * 4
    apart = tiles.index.assign(y0=tiles.index["y0"] + 64, y1=tiles.index["y1"] + 64)
    source = TileSet.write(str(tmp_path / "apart"), apart, tiles.manifest)
    made = synthetic(tmp_path / "t", source=source)
    assert [fold.left_out for fold in planned_folds(tiles, [made], recipe(synthetic=10))] == [0] * 4


def test_validation_tiles_that_the_generator_was_trained_on_are_counted(tmp_path):
    tiles = write_set(tmp_path)
    fold = planned_folds(tiles, [], recipe(folds=[1]))[0]
    seen = [Tissue.of(tiles, fold.val[:2]), Tissue.of(tiles, np.append(fold.val[1:3], fold.train))]
    assert seen_by_generators(fold, tiles, seen) == 3
    assert seen_by_generators(fold, tiles, [Tissue.of(tiles, fold.train)]) == 0
    assert seen_by_generators(fold, tiles, []) == 0


def test_a_fold_trains_on_the_same_tiles_whatever_other_folds_are_asked(tmp_path):
    tiles, other = write_set(tmp_path), synthetic(tmp_path / "s")
    all_folds = planned_folds(tiles, [other], recipe(synthetic=5))
    (alone,) = planned_folds(tiles, [other], recipe(synthetic=5, folds=[2]))
    same = all_folds[2]
    assert alone.number == same.number == 2
    for one, two in zip((*alone.synthetic, alone.train), (*same.synthetic, same.train), strict=True):
        assert one.tolist() == two.tolist()


@pytest.mark.parametrize(
    ("tiles", "segmentation", "culprit"),
    [
        ({}, {"folds": [1, 7]}, r"segmentation.folds: there is no fold 7 in .*; there are 0, 1, 2, 3"),
        ({"test": 0}, {}, "data.path: .* has no test tiles"),
        ({"volumes": 1}, {}, "tiles.folds: 4 folds asked, but the training tiles of .* make 1"),
        ({}, {"real": 100}, "segmentation.real: 100 real tiles asked, the fold has 18"),
        ({}, {"real": 0.001}, "segmentation.real: 0.001 of the 18 tiles of fold 0 is none"),
        ({}, {"real": 0, "synthetic": 41}, "segmentation.synthetic: 41 of 41 synthetic tiles .* which has 40"),
        ({"volumes": 1}, {"folds": [0]}, "segmentation.folds: fold 0 of .* has no tiles to train on"),
        ({"volumes": 3, "folds": 3}, {}, "segmentation.folds: none of the 8 validation tiles of fold 2 of .* a lesion"),
        ({"edge": 96}, {}, "tiles.size: tiles of 96 pixels"),
    ],
)
def test_what_cannot_be_trained_or_scored_is_refused_by_field(tmp_path, tiles, segmentation, culprit):
    real = write_set(tmp_path / "real", **tiles)
    with pytest.raises(UserError, match=f"^{culprit}"):
        planned_folds(real, [synthetic(tmp_path / "s")], recipe(**segmentation))


def test_volumes_that_are_fewer_than_the_folds_are_a_fold_each(tmp_path):
    tiles = write_set(tmp_path, volumes=2)
    first, second = planned_folds(tiles, [], recipe())
    np.testing.assert_array_equal(first.train, second.val)
    np.testing.assert_array_equal(second.train, first.val)


def test_tiles_without_a_label_are_refused(tmp_path):
    real = write_set(tmp_path)
    manifest = {**real.manifest, "roles": ["anatomy", "tumour"]}
    with pytest.raises(UserError, match=r"^data\.label: "):
        planned_folds(TileSet(real.uri, manifest, real.digest, real.index, None), [], recipe())


def test_the_recipe_of_a_fold_is_what_the_segmentation_section_says(tmp_path):
    settings = {
        "network": "dynunet",
        "width": 0.25,
        "epochs": 7,
        "patience": 3,
        "batch_size": 2,
        "learning_rate": 0.01,
        "positive": 3,
        "negative": 1,
        "threshold": 0.4,
    }
    given, tiles = recipe(**settings), write_set(tmp_path)
    folds = planned_folds(tiles, [], given)
    mixture = write_mixture(str(tmp_path / "mix"), tiles, folds[2].train, folds[2].val, [], [], None)
    own = segmentor_recipe(fold_recipe(given, folds[2], mixture))
    method, training = own.method, own.training
    assert own.data.path == mixture.uri
    assert (method.name, method.segmentor_network, method.segmentor_width) == ("segmentor", "dynunet", 0.25)
    assert (method.segmentor_positive, method.segmentor_negative, method.segmentor_threshold) == (3, 1, 0.4)
    assert (training.epochs, training.batch_size, training.learning_rate, training.patience) == (7, 2, 0.01, 3)
    assert (training.seed, training.validate_every, training.checkpoint_every) == (2, 18, 18)
    often = fold_recipe(recipe(validate_every=5), folds[0], mixture).training
    assert (often.seed, often.validate_every) == (0, 5)


def test_tiles_next_to_a_validation_slab_are_left_out(tmp_path):
    tiles = write_set(tmp_path, volumes=1)
    slabs = tiles.index.assign(
        slab_axis="z", gap=2, fold=np.where(tiles.index["split"] == "train", tiles.index["z0"] // 6, -1)
    )
    (fold,) = planned_folds(TileSet(tiles.uri, tiles.manifest, tiles.digest, slabs, None), [], recipe(folds=[1]))
    assert fold.val.tolist() == list(range(6, 12))
    assert fold.train.tolist() == [0, 1, 2, 3, *range(14, 24)]


@pytest.fixture
def apart(tmp_path):
    """CT and MR of the same six patients, and MR that was translated from the CT of each."""
    settings = {"size": 64, "split_by": "volume", "folds": 2, "test": 0.2, "val": 0.2}
    real = write_two_domains(tmp_path / "real", shape=(2, 64, 64), shared=6)
    volumes = [{"id": f"ct-{k}-as-mr", "volume": f"ct-{k}", "patient": f"p{k}"} for k in range(6)]
    made = {"model": {}, "tiles": {}, "settings": {}, "volumes": volumes, "voxels_sha256": "0"}
    changes = {f"mr-{k}": {"id": f"ct-{k}-as-mr", "patient": f"p{k}", "split": "train"} for k in range(6)}
    synthetic = write_two_domains(tmp_path / "synthetic", {"mr": 6}, shape=(2, 64, 64), changes=changes, synthesis=made)
    return [
        cut_here(recipe_of(folder, tiles=settings), tmp_path / f"{folder.name}-set") for folder in (real, synthetic)
    ]


def two_domains(**segmentation):
    return Recipe.model_validate({"segmentation": segmentation, "tiles": {"kind": "slice", "size": [64], "folds": 2}})


def test_a_patient_who_validates_a_fold_does_not_come_back_as_a_translated_volume(apart):
    real, synthetic = apart
    assert synthetic.name.startswith("synthetic-")
    asked = two_domains(synthetic=1)
    tiles, datasets = of_domain(real, [synthetic], asked)
    folds = planned_folds(tiles, datasets, asked)
    assert len(folds) == 2
    for fold in folds:
        validates = set(tiles.index["patient"].iloc[fold.val])
        assert validates
        usable, left_out = _usable(datasets, [Sources(one) for one in datasets], Tissue.of(tiles, fold.val))
        assert not validates & set(datasets[0].index["patient"].iloc[usable[0]])
        assert len(usable[0]) + left_out == 12
        assert fold.left_out == left_out == 2 * len(validates)


def test_either_domain_is_segmented_alone(apart, mistake):
    real, synthetic = apart
    assert [of_domain(real, [], two_domains(**fields))[0].domain for fields in ({}, {"domain": "ct"})] == ["mr", "ct"]
    for name in ("ct", "mr"):
        tiles, _ = of_domain(real, [], two_domains(domain=name))
        assert set(tiles.index["volume"].str[:2]) == {name}
        assert planned_folds(tiles, [], two_domains(domain=name))
    with mistake("segmentation.domain: 'pet' is no domain of the tiles", "they have ct, mr"):
        of_domain(real, [], two_domains(domain="pet"))
    with mistake("segmentation.datasets: ", "tiles of mr, but 'ct' is segmented"):
        of_domain(real, [synthetic], two_domains(domain="ct"))
    with mistake("segmentation.domain: 'mr', but the tiles", "have no domains; leave it out"):
        of_domain(real.of_domain("mr"), [], two_domains(domain="mr"))


# Paper 4: few cases, no small lesions, from another cross-validation


def test_lesions_below_the_least_are_left_out_of_training_and_kept_in_validation_and_tests(tmp_path):
    tiles, made = write_set(tmp_path / "real"), synthetic(tmp_path / "s")
    foreground, theirs = (one.index["foreground"].to_numpy() for one in (tiles, made))
    every = planned_folds(tiles, [made], recipe(synthetic=8))
    folds = planned_folds(tiles, [made], recipe(synthetic=8, least_lesion=30))
    assert (foreground[foreground > 0] < 30).sum() > 0
    for fold, whole in zip(folds, every, strict=True):
        assert fold.train.tolist() == whole.train[foreground[whole.train] >= 30].tolist()
        assert theirs[fold.synthetic[0]].min() >= 30
        assert fold.val.tolist() == whole.val.tolist()
        small = (foreground[whole.train] < 30).sum() + (theirs[made.positions("train")] < 30).sum()
        assert (fold.small, whole.small) == (small, 0)
    (line,) = too_small(folds, recipe(least_lesion=30))
    assert line.startswith("Tiles not trained on, with fewer than 30 labelled pixels (segmentation.least_lesion): ")
    assert f"{folds[1].small} (fold 1)" in line
    assert too_small(every, recipe()) == []
    assert len(tiles.positions("test")) == 6


def test_so_many_cases_are_trained_on_and_too_few_are_one_line(tmp_path, mistake):
    tiles = write_set(tmp_path, volumes=8)
    volume = tiles.index["volume"].to_numpy()
    for fold in planned_folds(tiles, [], recipe(cases=3)):
        assert len(set(volume[fold.train])) == 3
        assert not set(volume[fold.train]) & set(volume[fold.val])
    with mistake("segmentation.cases: 7 cases asked, but the tiles to train on are of 6; ask for fewer"):
        planned_folds(tiles, [], recipe(cases=7))
    with mistake("segmentation.least_lesion: none of the 18 tiles to train on holds 4097 labelled pixels"):
        planned_folds(tiles, [], recipe(least_lesion=4097))


def test_a_fold_does_not_choose_again_among_what_was_chosen_for_it(tmp_path):
    given, tiles = recipe(cases=2, least_lesion=10), write_set(tmp_path)
    fold = planned_folds(tiles, [], given)[0]
    mixture = write_mixture(str(tmp_path / "mix"), tiles, fold.train, fold.val, [], [], None)
    own = fold_recipe(given, fold, mixture).segmentation
    assert (own.cases, own.least_lesion) == (None, 0)
    assert own.real == given.segmentation.real


def test_a_fold_starts_from_the_fold_of_its_number_or_from_the_one_model_that_is_named(tmp_path, mistake):
    run = tmp_path / "pretrained"
    run.mkdir()
    folds = {str(number): f"{run}-fold-{number}" for number in (0, 2)}
    (run / "result.json").write_text(json.dumps({"artefacts": {"folds": folds}}))

    def starting(named):
        return recipe().model_copy(
            update={
                "training": recipe().training.model_copy(update={"start_from": named}),
                "storage": recipe().storage.model_copy(update={"path": str(tmp_path)}),
            }
        )

    assert start_of(recipe(), 0) is None
    for named in ("pretrained", str(run)):
        assert [start_of(starting(named), number) for number in (0, 2)] == [folds["0"], folds["2"]]
        with mistake(f"training.start_from: {named} has no fold 1 to start from; it has 0, 2"):
            start_of(starting(named), 1)
    assert start_of(starting("some-segmentor"), 1) == "some-segmentor"
    tiles = write_set(tmp_path / "tiles")
    fold = planned_folds(tiles, [], recipe())[2]
    mixture = write_mixture(str(tmp_path / "mix"), tiles, fold.train, fold.val, [], [], None)
    assert fold_recipe(starting("pretrained"), fold, mixture).training.start_from == folds["2"]
    with mistake("training.start_from: ", "no checkpoint here"):
        find_fold_start(starting("pretrained"), 2, tiles)
