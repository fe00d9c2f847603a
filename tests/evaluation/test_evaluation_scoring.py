"""Scores from many tasks are those of one pass, whatever the blocks, and features are joined without lists of them."""

from dataclasses import replace

import numpy as np
import pytest
import pytorch_fid.inception
import ray
import torch
from torchvision.models import Inception3

from metgan_dist.cluster.resources import ResourcePlan
from metgan_dist.errors import UserError
from metgan_dist.evaluation.scoring import REAL, Scoring, score_methods, unusable_scores
from metgan_dist.scores.distribution import FeatureSet, distribution_scores
from metgan_dist.scores.image import image_scores
from metgan_dist.scores.inception import InceptionFeatures
from metgan_dist.scores.labels import tile_counts
from metgan_dist.tiles.stream import tile_batches
from metgan_dist.trained import load_method
from metgan_dist.weights import PUBLISHED

PLAN = ResourcePlan(1, 1, 0, 1, 4, 0)


@pytest.fixture
def subject(write_tiles, checkpoint):
    tiles = write_tiles()
    return (
        tiles,
        tiles.positions("test"),
        checkpoint("segmentor"),
        {"A": checkpoint("metgan"), "B": checkpoint("metgan", 1)},
    )


def test_tasks_give_what_one_pass_gives(subject, ray_cluster):
    tiles, rows, judge, checkpoints = subject
    said = []
    scoring = Scoring(tiles.uri, "paired", {"judge": judge}, ("mae", "ssim", "label_fidelity"), {})
    samples = {"generated": rows, "real": rows}
    results = [
        score_methods(
            checkpoints, replace(scoring, here=here), samples, block=block, show=[4], plan=PLAN, report=said.append
        )
        for block, here in ((2, False), (5, False), (5, True))
    ]
    assert list(results[0]) == [REAL, "A", "B"]
    for label, scored in results[0].items():
        assert scored.per_tile.equals(results[1][label].per_tile)
        assert scored.per_tile.equals(results[2][label].per_tile)
        assert scored.per_tile["tile"].tolist() == rows.tolist()
        assert scored.pictures.keys() == {4}
    (batch,) = tile_batches(tiles, rows, 5)
    segment = load_method(judge)[0]
    with torch.no_grad():
        output = load_method(checkpoints["B"])[0].translate(batch)
    frame = results[0]["B"].per_tile
    expected = image_scores(output, batch["tumour"])
    np.testing.assert_allclose(frame["mae"], expected["mae"], rtol=1e-5)
    np.testing.assert_allclose(frame["ssim"], expected["ssim"], atol=1e-5)
    assert "psnr" not in frame
    assert not frame["mae"].equals(results[0]["A"].per_tile["mae"])
    counts = tile_counts(segment.translate({"tumour": output}), batch["label"])
    for name, values in counts.items():
        assert frame[name].sum() == pytest.approx(values.sum(), abs=2)
    labelled = batch["label"].flatten(1).any(dim=1).numpy()
    assert frame["dice"].isna().tolist() == (~labelled).tolist()
    assert any("A: 5 of 5 tiles" in line for line in said)


@pytest.fixture
def inception_weights(tmp_path, monkeypatch):
    """A state of pytorch-fid's network, drawn at random."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pytorch_fid.inception, "load_state_dict_from_url", lambda *args, **options: {})
        patch.setattr(Inception3, "load_state_dict", lambda network, state: None)
        torch.save(pytorch_fid.inception.fid_inception_v3().state_dict(), tmp_path / PUBLISHED["inception"].file)
    monkeypatch.setenv("METGAN_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("METGAN_WEIGHTS_UNVERIFIED", "1")


def test_fid_of_joined_blocks_is_that_of_all_images(subject, inception_weights, ray_cluster):
    """The tasks run on workers that were started without METGAN_WEIGHTS."""
    tiles, rows, judge, checkpoints = subject
    scoring = Scoring(tiles.uri, "paired", {"judge": judge}, ("fid", "kid"), {})
    samples = {"generated": rows, "real": rows}
    scored = score_methods(
        {"A": checkpoints["A"]}, scoring, samples, block=3, show=[], plan=PLAN, report=lambda line: None
    )
    network, (batch,) = InceptionFeatures(), tile_batches(tiles, rows, 5)
    real, generated = FeatureSet(network.weights), FeatureSet(network.weights)
    real.add(network(batch["tumour"]), rows.tolist())
    generated.add(network(load_method(checkpoints["A"])[0].translate(batch)), rows.tolist())
    expected = distribution_scores(generated, real)
    assert scored["A"].of_set.keys() == {"fid_unverified", "kid_unverified", "kid_unverified_std"}
    for name, value in expected.items():
        assert scored["A"].of_set[name] == pytest.approx(value, rel=1e-3, abs=1e-6)
    assert scored[REAL].of_set == {}
    assert list(scored["A"].per_tile) == ["tile"]


def test_a_failing_task_says_why(subject, ray_cluster):
    tiles, rows, judge, _ = subject
    scoring = Scoring(tiles.uri, "paired", {"judge": judge}, ("mae",), {})
    with pytest.raises((UserError, ray.exceptions.RayTaskError), match="no checkpoint here"):
        score_methods(
            {"A": "/nowhere"}, scoring, {"generated": rows}, block=5, show=[], plan=PLAN, report=lambda line: None
        )


def test_scores_without_weights_are_refused_or_left_out(monkeypatch, tmp_path):
    monkeypatch.delenv("METGAN_WEIGHTS", raising=False)
    assert unusable_scores(("mae", "label_fidelity"), "error") == {}
    with pytest.raises(UserError, match="METGAN_WEIGHTS: not set, but FID and KID needs"):
        unusable_scores(("mae", "fid"), "error")
    assert unusable_scores(("mae", "kid", "lpips"), "skip").keys() == {"kid", "lpips"}
    of_volumes = unusable_scores(("mae", "ssim", "fid", "kid", "lpips", "label_fidelity"), "error", dimensions=3)
    assert of_volumes == dict.fromkeys(("fid", "kid", "lpips"), "its network judges 2D images, and these tiles are 3D")
    (tmp_path / PUBLISHED["alexnet"].file).write_bytes(b"other weights")
    monkeypatch.setenv("METGAN_WEIGHTS", str(tmp_path))
    monkeypatch.delenv("METGAN_WEIGHTS_UNVERIFIED", raising=False)
    with pytest.raises(UserError, match=r"alexnet-owt.* other weights"):
        unusable_scores(("lpips",), "skip")
