"""How a job lives: its command line, its run with folder and MLflow run, its result and exit code, jobs under it."""
