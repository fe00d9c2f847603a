"""Two rows of table 4 as a user makes them: cross-validations under a study, the table, the figure, a second start."""

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
    "scaling__workers": 1,
    "scaling__trainings": 2,
}


def test_rows_are_cross_validations_and_the_table_has_the_papers_beside(tmp_path):
    real = write_set(tmp_path / "real")
    fixed = {**SMALL, "data__path": real.uri}
    done = run_here("run_study", tmp_path / "runs", **fixed, rows="r25,r50")
    assert done.code == 0, done.out + done.err
    result, folder = done.result, tmp_path / "runs" / "table" / "downstream"
    table = (folder / "table.md").read_text()
    assert "| 25 % real | 200R" in table
    assert "0.784" in table
    assert table.strip() in done.out
    assert (folder / "figure.png").read_bytes()[:4] == b"\x89PNG"
    assert set(result["scores"]["test"]) == {"r25", "r50"}
    client = mlflow.MlflowClient(result["tracking_uri"])
    runs = {
        run.info.run_name: run for run in client.search_runs([client.get_experiment_by_name("metgan").experiment_id])
    }
    assert set(runs) == {"table", "table-r25", "table-r50", "table-r25-fold-1", "table-r50-fold-1"}
    for name in ("r25", "r50"):
        assert runs[f"table-{name}"].data.tags["mlflow.parentRunId"] == result["mlflow_run_id"]
        fold = runs[f"table-{name}-fold-1"]
        assert fold.data.tags["mlflow.parentRunId"] == runs[f"table-{name}"].info.run_id
    amounts = [runs[f"table-{name}-fold-1"].inputs.dataset_inputs for name in ("r25", "r50")]
    assert all(len(inputs) == 2 for inputs in amounts)  # the mixed set and the real one

    again = run_here("run_study", tmp_path / "runs", **fixed, rows="r25")
    assert again.code == 0, again.out + again.err
    assert "25 % real: finished already" in again.out
    assert again.result["scores"]["test"] == {"r25": result["scores"]["test"]["r25"]}

    refused = run_here("run_study", tmp_path / "runs", **fixed, rows="s100")
    assert refused.code == 2, refused.out + refused.err
    assert refused.err.startswith("error: --study: row s100: segmentation.datasets: none given")
