"""What a trained method scores on tiles that it never saw: a volume's scores are those of its tiles, pairs or not."""

import numpy as np
import pytest
import torch
from networkless import Plain
from tile_sets import several_channels, write_domains, write_set

from metgan_dist.tasks import pictures, task_of
from metgan_dist.tasks.held_out import score_held_out
from metgan_dist.tiles.tile_set import chosen_rows

CPU = torch.device("cpu")


@pytest.fixture
def tiles(tmp_path):
    return write_set(tmp_path, val=5, test=7, unseen=5, edge=16)


def evaluate_splits(method, tiles, judge, say):
    return score_held_out(task_of(method, tiles, {"judge": judge}), method, CPU, say)


def test_a_volumes_scores_are_those_of_its_tiles_which_are_made_once(tiles):
    method, judge, said = Plain(), Plain(labels=True), []
    results = evaluate_splits(method, tiles, judge, said.append)
    assert sorted(method.seen) == [*tiles.positions("test"), *tiles.positions("unseen")]
    assert list(results) == ["test", "unseen"]
    for split, result in results.items():
        volumes = result.pop("per_volume")
        assert sum(part["tiles"] for part in volumes.values()) == result["tiles"] == len(tiles.positions(split))
        for name in ("generated", "identity", "affine"):
            mean = sum(part["tiles"] * part[name]["mae"] for part in volumes.values()) / result["tiles"]
            assert mean == pytest.approx(result[name]["mae"], rel=1e-12)
        assert "cycle_mae" in result["generated"]
        assert "cycle_mae" not in result["identity"]
        assert result["real"].keys() == {"label_fidelity"}
        real = result["real"]["label_fidelity"]
        for name in ("generated", "identity", "affine"):
            assert result[name]["label_fidelity_of_real"] == pytest.approx(result[name]["label_fidelity"] / real)
        assert any(line.startswith(f"{split}: {result['tiles']} tiles; generated MAE ") for line in said)
    assert results["test"]["generated"]["mae"] != results["unseen"]["generated"]["mae"]


def test_splits_that_are_not_asked_for_are_not_scored(tiles):
    method = Plain()
    task = task_of(method, tiles, {"judge": Plain(labels=True)})
    assert list(score_held_out(task, method, CPU, print, ("test",))) == ["test"]
    assert sorted(method.seen) == [*tiles.positions("test")]


def test_a_volume_has_the_scores_that_it_has_alone(tiles):
    results = evaluate_splits(Plain(), tiles, Plain(labels=True), print)
    rows = tiles.positions("test")
    mine = rows[tiles.index["volume"].to_numpy()[rows] == "v1"]
    difference = [
        np.abs(tiles.load(row)["anatomy"] / 2 - tiles.load(row)["tumour"]).astype(float).mean() for row in mine
    ]
    assert results["test"]["per_volume"]["v1"]["generated"]["mae"] == pytest.approx(np.mean(difference), rel=1e-6)


def test_chosen_rows_are_few_spread_and_stable():
    rows = np.arange(100, 200)
    chosen = chosen_rows(rows, 4)
    assert chosen.tolist() == [100, 133, 166, 199]
    assert chosen_rows(rows, 1000).tolist() == rows.tolist()


def said_of(tiles, judge):
    """The results of `Plain` and the lines that are said, with `judge` finding what it does."""
    said = []
    return evaluate_splits(Plain(), tiles, judge, said.append), said


class Blind(Plain):
    """A judge that finds nothing."""

    def translate(self, batch):
        return super().translate(batch) * 0


@pytest.mark.parametrize("classes", [2, 3, 8])
def test_a_judge_that_finds_nothing_scores_nothing_and_draws_a_warning(tmp_path, classes):
    tiles = write_set(tmp_path, test=6, edge=16, classes=classes)
    results, said = said_of(tiles, Blind(labels=True))
    assert {results["test"][name]["label_fidelity"] for name in ("generated", "real", "identity", "affine")} == {0}
    (warning,) = (line for line in said if "warning" in line)
    assert "test: warning: the judge finds next to nothing on the real images (Dice 0.000)" in warning


def test_tiles_without_any_label_have_no_label_fidelity_and_a_line_says_why(tmp_path):
    tiles = write_set(tmp_path, train=2, val=0, test=1, edge=16)  # every third tile is empty
    results, said = said_of(tiles, Blind(labels=True))
    assert results["test"]["real"] == {}
    assert "label_fidelity" not in results["test"]["generated"]
    assert "mae" in results["test"]["generated"]
    assert "label fidelity" not in said[0]
    assert said[1] == "test: no label fidelity: no class occurs in these tiles, neither labelled nor found"


class Averaged(Plain):
    """Gives the mean of the anatomy's channels as each of the tumour image's."""

    def __init__(self, tumour):
        super().__init__()
        self.tumour = tumour

    def translate(self, batch):
        return batch["anatomy"].mean(dim=1, keepdim=True).expand(-1, self.tumour, -1, -1)

    def cycle(self, batch, output):
        return output.mean(dim=1, keepdim=True).expand_as(batch["anatomy"])

    def pictures(self, batch):
        made = self.translate(batch)
        label = batch["label"][:, None].float()
        return {"anatomy": batch["anatomy"], "label": label, "generated": made, "cycled": self.cycle(batch, made)}


@pytest.mark.parametrize(("anatomy", "tumour"), [("ab", "t"), ("a", "tu")])
def test_unequal_channels_are_scored_without_the_anatomy_itself_and_shown_by_name(
    tmp_path, monkeypatch, anatomy, tumour
):
    tiles, said, shown = several_channels(tmp_path, anatomy=anatomy, tumour=tumour), [], {}
    results = evaluate_splits(Averaged(len(tumour)), tiles, Plain(labels=True), said.append)
    assert {"generated", "affine", "real"} <= results["test"].keys()
    assert "identity" not in results["test"]
    assert said[0] == (
        f"identity: left out, the anatomy has {len(anatomy)} channel(s) and the tumour image {len(tumour)}"
    )
    (line,) = (line for line in said if line.startswith("test: 2 tiles; generated MAE "))
    assert "identity" not in line
    monkeypatch.setattr(pictures, "image_grid", lambda columns, **_: shown.update(columns) or b"")
    method = Averaged(len(tumour))
    task_of(method, tiles).grid(method, tiles.positions("test"), CPU)
    both = {name: f"{name}: " for name in ("anatomy", "generated", "cycled")}
    titles = [
        title
        for name, channels in (("anatomy", anatomy), ("generated", tumour), ("cycled", anatomy))
        for title in ([both[name] + c for c in channels] if len(channels) > 1 else [name])
    ]
    assert [title for title in shown if title != "label"] == titles
    assert {image.shape for images in shown.values() for image in images} == {(64, 64)}


# Two domains


def test_images_of_two_domains_are_scored_by_their_cycle_and_the_judge_on_either_domain(tmp_path):
    tiles, said = write_domains(tmp_path, edge=16), []
    method, judge = Plain(), Plain(labels=True)
    results = evaluate_splits(method, tiles, judge, said.append)
    source, target = (tiles.positions("test", role) for role in ("anatomy", "tumour"))
    assert sorted(method.seen) == source.tolist()
    assert judge.seen == [*source, *target]
    assert results["test"].keys() == {"tiles", "generated", "real", "per_volume"}
    generated, real = results["test"]["generated"], results["test"]["real"]
    assert generated.keys() == {"cycle_mae", "cycle_mae_std", "label_fidelity", "label_fidelity_of_real"}
    quarter = [np.abs(tiles.load(row)["anatomy"] * (1 - 0.75)).mean() for row in source]
    assert generated["cycle_mae"] == pytest.approx(np.mean(quarter), rel=1e-5)
    found = [(tiles.load(row)["tumour"][0] > -0.2, tiles.load(row)["label"] > 0) for row in target]
    overlap = sum((one & other).sum() for one, other in found)
    assert real == {"label_fidelity": pytest.approx(2 * overlap / sum(one.sum() + other.sum() for one, other in found))}
    assert generated["label_fidelity_of_real"] == pytest.approx(generated["label_fidelity"] / real["label_fidelity"])
    assert said[0] == "MAE, identity and affine: left out, images of two domains are no pairs"
    assert said[1].startswith(f"test: {len(source)} tiles; generated cycle MAE {generated['cycle_mae']:.4f}; label")
    assert set(results["test"]["per_volume"]) == {"ct0", "ct1"}


@pytest.mark.parametrize("labelled", [["ct"], ["mr"], []])
def test_what_labels_are_missing_for_is_left_out(tmp_path, labelled):
    tiles, said = write_domains(tmp_path, labelled=labelled, edge=16), []
    judge = Plain(labels=True) if "mr" in labelled else None
    results = evaluate_splits(Plain(), tiles, judge, said.append)
    assert "cycle_mae" in results["test"]["generated"]
    assert "label_fidelity" not in results["test"]["generated"]
    assert ("label_fidelity" in results["test"]["real"]) == ("mr" in labelled)
