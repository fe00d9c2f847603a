"""The tables and plots of a sweep."""

import io

import pytest
from PIL import Image
from tuning_records import trial

from metgan_dist.tuning.figures import importance_bars, learning_curves, parallel_coordinates, pareto_front
from metgan_dist.tuning.report import markdown
from metgan_dist.tuning.trial import Objective

MAE, FIDELITY = Objective("mae", "min"), Objective("label_fidelity", "max")


def test_the_tables_name_the_best_the_stopped_and_why(findings):
    found = findings(
        trial(1, 0.30),
        trial(2, 0.25, 0.7, alpha1=2.0),
        trial(3, 0.5, images=100, reason="asha at 100 of 900 images"),
        trial(4, 0.9, images=200, outcome="failed", reason="step 50: generators/pair is not finite"),
    )
    text = markdown(found, "mine")
    lines = text.splitlines()
    assert "| 002 | 2 | 10 | 100 | 10 | 0.2500 | 0.7000 |" in lines
    assert "| 001 (own) | 1 | 10 | 100 | 10 | 0.3000 | 0.5000 |" in lines
    assert lines.index("| 002 | 2 | 10 | 100 | 10 | 0.2500 | 0.7000 |") < lines.index(
        "| 001 (own) | 1 | 10 | 100 | 10 | 0.3000 | 0.5000 |"
    )
    assert "| 003 | 1 | 10 | 100 | 10 | 0.5000 | 0.5000 | 100 | asha at 100 of 900 images |" in lines
    assert any(line.endswith("| 200 | step 50: generators/pair is not finite |") for line in lines)
    assert "2100 of the 3600" in text
    assert "ratio 0.583); 2 of 4 trials ended early" in text
    assert "mae at equal budget: 0.2500 in trial-002, 0.3000 by the recipe's own (-16.7 %)." in text


def test_a_sweep_that_found_nothing_better_says_so(findings):
    assert "no trial was better than the recipe's own" in markdown(findings(trial(1, 0.1), trial(2, 0.2)), "mine")


def test_a_trial_that_came_to_nothing_shows_no_score(findings):
    diverged = trial(2, 0.2, images=200, outcome="failed", reason="not finite")
    diverged.rows.append({**diverged.rows[-1], "validation/mae": 1e30, "stopped": "not finite"})
    text = markdown(findings(trial(1, 0.1), diverged), "mine")
    assert "| 002 | 1 | 10 | 100 | 10 | - | - | 200 | not finite |" in text
    assert "1e+30" not in text


@pytest.fixture
def several(findings):
    return findings(trial(1, 0.3, 0.4), trial(2, 0.2, 0.6, alpha1=3.0), trial(3, 0.25, 0.7), trial(4, 0.5, images=100))


def test_plots_are_pictures_that_show_something(several):
    plots = {
        "parallel": parallel_coordinates(several.records, several.space, MAE),
        "importance": importance_bars({"method.alpha1": 0.8, "method.alpha2": 0.2}, MAE),
        "front": pareto_front(several.records, (MAE, FIDELITY), several.trade.front),
        "curves": learning_curves(several.records, MAE, several.ranked[0]),
    }
    for name, png in plots.items():
        picture = Image.open(io.BytesIO(png)).convert("L")
        assert min(picture.size) > 100, name
        dark = sum(count for value, count in enumerate(picture.histogram()) if value < 128)
        assert dark > 200, name


def test_no_scores_no_parallel_coordinates(findings):
    lost = trial(1, 0.3, images=100, outcome="failed")
    lost.rows = []
    with pytest.raises(ValueError, match="no trial has a score"):
        parallel_coordinates([lost], findings(lost).space, MAE)
