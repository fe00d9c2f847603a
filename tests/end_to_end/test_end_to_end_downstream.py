"""A row of table 4 as a user makes it: a cross-validation under a study, the table, the figure, a second start."""

import mlflow
import pytest
from tile_sets import write_set
from user import run_here

pytestmark = pytest.mark.usefixtures("ray_cluster")

SMALL = {
    "tiny": False,
    "study": "downstream",
    "tracking__run": "table",
    "tracking__patience": 5,
    "segmentation__width": 0.05,
    "segmentation__max_steps": 2,
    "segmentation__folds": 1,
    "training__validate_tiles": 2,
    "scaling__workers": 0,
}


def test_a_row_is_a_cross_validation_and_the_table_has_the_papers_beside(tmp_path):
    real = write_set(tmp_path / "real")
    fixed = {**SMALL, "data__path": real.uri}
    done = run_here("run_study", tmp_path / "runs", **fixed, rows="r25")
    assert done.code == 0, done.out + done.err
    result, folder = done.result, tmp_path / "runs" / "table" / "downstream"
    table = (folder / "table.md").read_text()
    assert "| 25 % real | 200R" in table
    assert "0.47" in table  # the paper's Dice
    assert table.strip() in done.out
    assert (folder / "figure.png").read_bytes()[:4] == b"\x89PNG"
    client = mlflow.MlflowClient(result["tracking_uri"])
    runs = {
        run.info.run_name: run for run in client.search_runs([client.get_experiment_by_name("metgan").experiment_id])
    }
    assert set(runs) == {"table", "table-r25", "table-r25-fold-1"}
    assert runs["table-r25"].data.tags["mlflow.parentRunId"] == result["mlflow_run_id"]
    fold = runs["table-r25-fold-1"]
    assert fold.data.tags["mlflow.parentRunId"] == runs["table-r25"].info.run_id
    assert len(fold.inputs.dataset_inputs) == 2  # the mixed set and the real one

    scores = result["scores"]["test"]
    again = run_here("run_study", tmp_path / "runs", **fixed, rows="r25")
    assert again.code == 0, again.out + again.err
    assert "25 % real: finished already" in again.out
    assert list(scores) == ["r25"]
    assert again.result["scores"]["test"] == scores

    refused = run_here("run_study", tmp_path / "runs", **fixed, rows="s100")
    assert refused.code == 2, refused.out + refused.err
    assert refused.err.startswith("error: --study: row s100: segmentation.datasets: none given")
