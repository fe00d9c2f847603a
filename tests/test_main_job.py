"""Who learns from what in the main job: the judge shares neither tiles nor network with the frozen segmentor."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from tile_sets import write_domains, write_set

from metgan_dist import main_job
from metgan_dist.errors import UserError
from metgan_dist.main_job import domain_role, segmented_tiles
from metgan_dist.methods import method_class
from metgan_dist.recipe import Recipe
from metgan_dist.segmentation.cross_validation import check_folds
from metgan_dist.tasks import task_of
from metgan_dist.training.launch import Trained

UNPAIRED = {"modality": "cardiac-unpaired", "shape": [60, 80, 80]}
CYCLES = {"name": "cyclegan", "backbone": "resnet-9"}


@pytest.fixture
def train(monkeypatch, capsys):
    """train(tiles, role, part) -> (its network, the rows of its training, what was said); no training starts."""
    seen = []

    def assign(opened, tiles, role, recipe):
        return main_job.Assignment(role, recipe, tiles.uri, "", None, "", "", "")

    def run_training(assignment, report):
        seen.append(assignment)
        return Trained("best", "last", start.dice, 8)

    monkeypatch.setattr(main_job, "assign", assign)
    monkeypatch.setattr(main_job, "run_training", run_training)

    def start(tiles, *role_and_part, main=False, training=None, **segmentation):
        result = SimpleNamespace(phase=lambda _: nullcontext(), artefacts={}, scores={})
        training = {"batch_size": 2, **(training or {})}
        recipe = Recipe.model_validate({"tiles": {"size": [64]}, "training": training, "segmentation": segmentation})
        main_job.train_segmentor(SimpleNamespace(recipe=recipe, result=result), tiles, *role_and_part, main=main)
        # Nothing stands in for a score that there is none of.
        assert result.scores == ({} if start.dice is None else {role_and_part[0]: {"dice": start.dice}})
        task = task_of(method_class(seen[-1].recipe.method.name), tiles)
        rows = task.drawn(seen[-1].recipe, seen[-1].part).rows
        return seen[-1].recipe.method.segmentor_network, rows, capsys.readouterr().out

    start.dice, start.seen = None, seen
    return start


def test_judge_and_segmentor_have_networks_and_volumes_of_their_own(tmp_path, train):
    tiles = write_set(tmp_path)
    network, rows, said = train(tiles, "segmentor", "segmentor")
    other, others, _ = train(tiles, "judge", "judge")
    assert (network, other) == ("unet", "dynunet")
    volume = tiles.index["volume"].to_numpy()
    assert set(volume[rows]) == {"v0", "v2"}
    assert set(volume[others]) == {"v1", "v3"}
    assert f"training a segmentor (unet) on {len(rows)} tiles" in said


def test_a_segmentor_for_itself_learns_from_all_training_tiles(tmp_path, train):
    tiles = write_set(tmp_path)
    assert np.array_equal(train(tiles, "segmentor")[1], tiles.positions("train"))


def test_only_a_segmentor_for_itself_learns_from_few_cases_and_large_lesions(tmp_path, train, mistake):
    tiles = write_set(tmp_path, volumes=8)
    volume, foreground = tiles.index["volume"].to_numpy(), tiles.index["foreground"].to_numpy()
    chosen = {"cases": 3, "least_lesion": 20}
    _, rows, said = train(tiles, "segmentor", main=True, **chosen)
    assert len(set(volume[rows])) == 3
    assert foreground[rows].min() >= 20
    every = tiles.positions("train")
    assert f"on {len(rows)} tiles of {len(every)}, as the section segmentation says" in said
    assert np.array_equal(train(tiles, "segmentor", **chosen)[1], every)  # which serves a method
    _, judge, _ = train(tiles, "judge", "judge", **chosen)
    assert len(set(volume[judge])) == 4
    assert foreground[judge].min() == 0
    with mistake("segmentation.cases: 9 cases asked, but the tiles to train on are of 8; ask for fewer"):
        train(tiles, "segmentor", main=True, cases=9)
    recipe = {"data": {"path": tiles.uri}, "tiles": {"size": [64]}, "segmentation": {"cases": 9}}
    with mistake("segmentation.cases: 9 cases asked"):
        main_job.check_segmentor_training(Recipe.model_validate(recipe))


def test_a_share_of_the_targets_patients_is_what_a_segmentor_for_itself_learns_from(tmp_path, train, mistake):
    tiles = write_domains(tmp_path)
    _, rows, said = train(tiles, "segmentor", main=True, training={"shares": {"target": 0.5}})
    every = tiles.positions("train", "tumour")
    assert set(tiles.index["volume"].iloc[rows]) < set(tiles.index["volume"].iloc[every])
    assert f"on {len(rows)} tiles of {len(every)}, as training.shares says" in said
    assert np.array_equal(train(tiles, "segmentor", training={"shares": {"target": 0.5}})[1], every)  # of a method's
    both = {"shares": {"target": 0.5}}
    *_, said = train(tiles, "segmentor", main=True, training=both, least_lesion=20)
    assert "as the section segmentation and training.shares say" in said
    recipe = {"tiles": {"size": [128]}, "data": {"phantom": UNPAIRED}, "training": {"shares": {"source": 0.5}}}
    with mistake("training.shares: source: a segmentor learns from tiles of the target alone; give target=SHARE"):
        main_job.check_segmentor_training(Recipe.model_validate(recipe))
    with mistake("training.shares: folds take a part of their real tiles by segmentation.real"):
        check_folds(Recipe.model_validate(recipe))


def test_where_they_cannot_be_kept_apart_both_learn_from_all_and_a_line_says_so(tmp_path, train):
    tiles = write_set(tmp_path, volumes=1)
    for role in ("segmentor", "judge"):
        _, rows, said = train(tiles, role, role)
        assert np.array_equal(rows, tiles.positions("train"))
        assert f"{role}: the training tiles lie at too few places to keep segmentor and judge apart" in said


@pytest.mark.parametrize(("job", "method"), [("check_training", "metgan"), ("check_segmentor_training", "segmentor")])
@pytest.mark.parametrize("field", ["stages", "stages_from"])
def test_a_stage_that_the_method_does_not_have_is_told_before_any_work(job, method, field, mistake):
    given = {"tiles": {"size": [128]}, "training": {field: {"joint": 3 if field == "stages" else "other"}}}
    with mistake(f"training.{field}: {method} has no stage 'joint'; it trains in one, as long as "):
        getattr(main_job, job)(Recipe.model_validate(given))


@pytest.mark.parametrize(("dice", "warned"), [(None, False), (0.0, True), (0.19, True), (0.2, False)])
def test_a_segmentor_that_learned_nothing_is_told_with_what_to_do(tmp_path, train, dice, warned):
    train.dice = dice
    *_, said = train(write_set(tmp_path), "segmentor", "segmentor")
    advice = [line for line in said.splitlines() if line.startswith("segmentor: warning")]
    assert len(advice) == warned
    assert all(f"Dice {dice:.3f}" in line and "method.segmentor_epochs" in line for line in advice)


# Two domains


def test_of_two_domains_the_segmentors_learn_from_the_labelled_target_alone(tmp_path, train):
    tiles = write_domains(tmp_path)
    (_, segmentors, _), (_, judges, said) = (train(tiles, role, role) for role in ("segmentor", "judge"))
    target = tiles.positions("train", "tumour")
    assert sorted([*segmentors, *judges]) == target.tolist()
    assert (set(tiles.index["volume"][segmentors]), set(tiles.index["volume"][judges])) == ({"mr0"}, {"mr1"})
    assert "training a segmentor (dynunet) on 6 tiles" in said
    assert np.array_equal(train(tiles, "segmentor")[1], target)


def test_the_judge_of_the_source_learns_from_labelled_source_tiles_as_from_tumour_images(tmp_path, train):
    tiles = write_domains(tmp_path)
    own = tiles.of_domain("ct")
    network, rows, said = train(own, "judge_source", "judge")
    assert network == "dynunet"
    assert "judge_source: training a segmentor (dynunet) on 3 tiles" in said
    assert set(own.index["volume"][rows]) == {"ct1"}
    assert train.seen[-1].recipe.data.tumour == "ct"


def test_shares_of_domains_that_there_are_not_are_told(mistake):
    shares = {"tiles": {"size": [128]}, "training": {"shares": {"target": 0.5}}}
    for check in (main_job.check_training, main_job.check_segmentor_training):
        with mistake("training.shares: shares are of the patients of two domains, which these data do not have"):
            check(Recipe.model_validate(shares))


def test_a_judge_of_the_source_where_there_is_none_is_told(mistake):
    own = {"tiles": {"size": [128]}, "method": {"judge_source": "runs/other"}}
    with mistake("method.judge_source: these data have no source domain for it to judge; leave it out"):
        main_job.check_training(Recipe.model_validate(own))
    own = {"tiles": {"size": [128]}, "method": {**CYCLES, "judge_source": "no/run"}, "data": {"phantom": UNPAIRED}}
    with mistake("no/run: no checkpoint here"):
        main_job.check_training(Recipe.model_validate(own))


def test_a_segmentor_that_the_method_has_no_use_for_is_told_before_any_work(mistake):
    own = {"tiles": {"size": [256]}, "method": {"name": "pix2pix", "segmentor": "no/run"}}
    with mistake("method.segmentor: pix2pix is trained without a segmentor; leave it out"):
        main_job.check_training(Recipe.model_validate(own))
    with mistake("method.segmentor: this job trains one; leave it out, or name it in training.start_from"):
        main_job.check_segmentor_training(Recipe.model_validate(own))
    own = {"tiles": {"size": [256]}, "method": {"judge": "no/run"}}
    with mistake("method.judge: no segmentor looks at what segmentor makes; leave it out"):
        main_job.check_segmentor_training(Recipe.model_validate(own))


def opened_with(tiles, **sections):
    """What `prepare_training` reads of an open run on these tiles."""
    recipe = Recipe.model_validate({"tiles": {"size": [64]}, "training": {"batch_size": 2}, **sections})
    data = recipe.data.model_copy(update={"path": tiles.uri})
    return SimpleNamespace(recipe=recipe.model_copy(update={"data": data}), result=None)


@pytest.mark.parametrize("labelled", [["ct"], ["mr"], ["ct", "mr"], []])
def test_what_a_domain_without_labels_costs_is_said(tmp_path, monkeypatch, capsys, labelled):
    tiles, trained = write_domains(tmp_path, labelled=labelled), []
    monkeypatch.setattr(main_job, "prepare_tiles", lambda opened: tiles)
    monkeypatch.setattr(
        main_job,
        "train_segmentor",
        lambda opened, tiles, role, part: trained.append(role) or Trained(role, role, None, 8),
    )
    prepared = main_job.prepare_training(opened_with(tiles, method={"name": "cyclegan"}), False)
    said = capsys.readouterr().out
    for name in ("ct", "mr"):
        assert (f"data.label: the domain '{name}' has no labels" in said) == (name not in labelled)
    judged, judged_back = "mr" in labelled, "ct" in labelled
    assert (prepared.judge, prepared.judge_source) == (
        "judge" if judged else None,
        "judge_source" if judged_back else None,
    )
    assert trained == ["judge"] * judged + ["judge_source"] * judged_back
    assert ("judge: left out, and label fidelity with it" in said) != judged


@pytest.mark.parametrize(
    ("name", "labelled", "culprit"),
    [
        ("cyclegan_seg", ["mr"], "data.label: {uri}: the tiles of the domain 'ct' have no label"),
        ("cyclegan_seg", ["ct"], "data.label: {uri}: the tiles of the domain 'mr' have no label"),
        ("sifa", ["mr"], "data.label: {uri}: the tiles of the domain 'ct' have no label"),
        ("pix2pix", ["ct", "mr"], "method.name: pix2pix learns from anatomy and tumour images of one place, but"),
        ("metgan", ["ct", "mr"], "method.name: metgan learns from"),
    ],
)
def test_what_a_method_lacks_in_two_domains_is_one_line(tmp_path, monkeypatch, mistake, name, labelled, culprit):
    tiles = write_domains(tmp_path, labelled=labelled)
    monkeypatch.setattr(main_job, "prepare_tiles", lambda opened: tiles)
    needs_segmentor = name == "cyclegan_seg"
    with mistake(culprit.format(uri=tiles.uri)):
        main_job.prepare_training(opened_with(tiles, method={"name": name}), needs_segmentor)


@pytest.mark.parametrize(
    ("data", "method", "start"),
    [
        ({"source": "ct"}, {}, "data.source: no volume of the data set has a `domain`"),
        (
            {"phantom": UNPAIRED, "source": "pet"},
            CYCLES,
            "data.source: no volume has the domain 'pet'; there are ct, mr",
        ),
        ({"phantom": UNPAIRED}, {}, "method.name: metgan learns from anatomy and tumour images of one place"),
        ({"phantom": UNPAIRED}, CYCLES, None),
    ],
)
def test_a_mistake_on_the_domains_of_a_phantom_is_told_before_it_is_drawn(data, method, start, mistake):
    tiles = {"kind": "crop", "modality": "cardiac-ct", "size": [32, 32, 32], "spacing": [4, 4, 4]}
    own = (
        {"data": {"classes": 6, **data}, "tiles": tiles} if "phantom" in data else {"data": data, "tiles": {"size": 64}}
    )
    recipe = Recipe.model_validate({**own, "method": method, "training": {"batch_size": 2}})
    with nullcontext() if start is None else mistake(start):
        main_job.check_training(recipe)


def test_a_segmentor_for_itself_learns_from_the_domain_that_the_recipe_names(tmp_path):
    tiles = write_domains(tmp_path / "tiles")
    own = segmented_tiles(tiles, Recipe.model_validate({"segmentation": {"domain": "ct"}}))
    assert (own.domain, own.has("tumour", "label")) == ("ct", True)
    assert set(own.index["volume"]) == {"ct0", "ct1"}
    assert segmented_tiles(tiles, Recipe()) is tiles
    assert segmented_tiles(tiles, Recipe.model_validate({"segmentation": {"domain": "source"}})).domain == "ct"
    with pytest.raises(UserError, match=r"^segmentation\.domain: 'pet' is no domain of .*; they have ct, mr$"):
        segmented_tiles(tiles, Recipe.model_validate({"segmentation": {"domain": "pet"}}))
    for name, role in {"ct": "anatomy", "mr": "tumour", "source": "anatomy", None: "tumour"}.items():
        data = {"phantom": UNPAIRED, "classes": 6}
        assert domain_role(Recipe.model_validate({"data": data, "segmentation": {"domain": name}})) == role
