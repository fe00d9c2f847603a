# Two targets do all the set-up on a machine with Python (3.11 or newer), make and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all lint mlflow mlflow-server clean

demo: $(VENV)/.installed  ## install, train the quickstart recipe, say where the result is
	$(BIN)/python jobs/train_metgan.py --recipe quickstart

# Files in their own order: the few long tests, which are whole jobs, come before the many short ones that fill gaps.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=25

test: $(VENV)/.installed  ## install if need be, run the tests but those marked slow
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.installed  ## all tests: also kills, lost nodes, faulty servers, a browser
	$(PYTEST)

lint: $(VENV)/.installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

mlflow: $(VENV)/.installed  ## open the runs of ./runs at http://127.0.0.1:5000
	$(BIN)/mlflow ui --backend-store-uri sqlite:///runs/mlflow.db

mlflow-server: $(VENV)/.installed  ## MLflow on PostgreSQL and object storage, with passwords (docs/mlflow.md)
	$(BIN)/mlflow --env-file mlflow.env server --app-name basic-auth

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:  ## remove the environment and the runs
	rm -rf $(VENV) runs
